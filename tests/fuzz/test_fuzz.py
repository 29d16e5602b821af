"""Short runs of the fuzzers find nothing, and each finds a bug that is planted for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from adapters.registries import adapter_kinds
from tests.fuzz.running import run
from tests.fuzz.targets import TARGETS

ROOT: Final = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed: it exists for Linux only"),
]


def test_short_runs_find_nothing_and_reach_nearly_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda name: run(name, seconds=4), TARGETS))

    with capsys.disabled():
        for findings in found:
            told = f"{findings.executions} inputs, {findings.share():.0%} of the lines" if findings.covered else "FOUND"
            print(f"\n{findings.name}: {told}", end="")  # noqa: T201 - how far they got is what one wants to know
    assert not [findings.problem for findings in found if findings.problem]
    assert all(findings.executions > 500 for findings in found)
    adapters = next(findings for findings in found if findings.name == "adapters").covered
    modules = {path: counts for path, counts in adapters.items() if path.count("/") == 2 and "__" not in path}
    files = [ROOT / "adapters" / "registries" / f"{kind}.py" for kind in adapter_kinds()]
    assert {file.name for file in files if "def " in file.read_text()} <= {Path(path).name for path in modules}
    assert sum(reached for reached, _ in modules.values()) >= 0.95 * sum(total for _, total in modules.values())


@pytest.mark.parametrize("name", TARGETS)
def test_each_fuzzer_finds_the_bug_planted_for_it(name: str) -> None:
    findings = run(name, seconds=300, planted=True)

    assert "IndexError: planted" in findings.problem
