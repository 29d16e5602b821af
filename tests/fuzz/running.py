"""Run a fuzzer for a while, and report what it found and how far it got."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz.targets import TARGETS

__all__ = ["SEED", "Findings", "run"]

SEED: Final = int(os.environ.get("WARMHOOK_FUZZ_SEED") or 4242)
"""The same seed runs the same inputs, as far as they come in the same time."""
_ROOT: Final = Path(__file__).parents[2]
_EXECUTIONS: Final = re.compile(r"stat::number_of_executed_units:\s*([0-9]+)|Done ([0-9]+) runs")


@dataclass(frozen=True, slots=True)
class Findings:
    """What came of one run."""

    name: str
    executions: int
    problem: str
    """Empty when nothing was found; else the end of what the fuzzer said."""
    covered: dict[str, tuple[int, int]]
    """By file: lines reached in functions, and all."""

    def share(self) -> float:
        """Of all lines."""
        return sum(reached for reached, _ in self.covered.values()) / sum(total for _, total in self.covered.values())


def run(name: str, *, seconds: int, planted: bool = False, keep: Path | None = None) -> Findings:
    """Fuzz for `seconds`, from the target's seeds; what makes it fail is kept in the folder `keep`."""
    with tempfile.TemporaryDirectory(prefix="wh") as temporary:
        folder = Path(temporary)
        corpus, seeds = folder / "corpus", folder / "seeds"
        corpus.mkdir()
        seeds.mkdir()
        for number, seed in enumerate(TARGETS[name].seeds()):
            (seeds / str(number)).write_bytes(seed)
        kept = keep or folder / "found"
        kept.mkdir(parents=True, exist_ok=True)
        # With seed 1 each planted bug is found within seconds.
        chosen = 1 if planted else SEED
        options = [
            *(f"-max_total_time={seconds}", "-max_len=20000", "-timeout=10", "-rss_limit_mb=2048", "-len_control=0"),
            *(f"-artifact_prefix={kept}/{name}-", "-print_final_stats=1", f"-seed={chosen}"),
        ]
        mode = "planted" if planted else "fuzz"
        ended = _child(name, mode, str(corpus), str(seeds), *options, limit=seconds + 120)
        found = _EXECUTIONS.search(ended.stderr)
        executions = int(found[1] or found[2]) if found else 0
        if ended.returncode:
            return Findings(name, executions, _told(ended), {})
        if planted:
            return Findings(name, executions, "", {})
        covered = _child(name, "cover", str(corpus), str(seeds), limit=300)
        if covered.returncode:
            return Findings(name, executions, covered.stderr[-4000:], {})
        return Findings(name, executions, "", {path: (a, b) for path, (a, b) in json.loads(covered.stdout).items()})


def _told(ended: subprocess.CompletedProcess[str]) -> str:
    """The exception with its traceback, where there is one, and the end of what libFuzzer said."""
    exception = ended.stdout.partition("Uncaught Python exception")[2]
    return f"{exception[:6000]}\n{ended.stderr[-1500:]}"


def _child(*arguments: str, limit: float) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.fuzz.child", *arguments]
    return subprocess.run(
        command, cwd=_ROOT, env=environ, capture_output=True, text=True, errors="replace", timeout=limit, check=False
    )
