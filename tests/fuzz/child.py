"""`python -m tests.fuzz.child NAME MODE FOLDER [libFuzzer options]`: one fuzzer, or the coverage of what it collected.

libFuzzer ends its process by itself, so each run is a process.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any

import structlog

from tests.fuzz.mutating import mutate
from tests.fuzz.targets import TARGETS, Target

_ROOT = Path(__file__).parents[2]


def fuzz(target: Target, arguments: list[str], *, planted: bool) -> None:
    """Fuzz until libFuzzer ends the process."""
    import atheris  # type: ignore[import-untyped]  # it has neither types nor stubs

    with atheris.instrument_imports(include=list(target.packages), enable_loader_override=False):
        run = target.build()
    if planted:
        target.plant()

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        return mutate(data, max_size, Random(seed), atheris.Mutate)

    atheris.Setup([sys.argv[0], *arguments], run, custom_mutator=change)
    atheris.Fuzz()


def cover(target: Target, folders: list[Path]) -> dict[str, tuple[int, int]]:
    """Lines inside functions of each file of the target: reached by the inputs in `folders`, and all."""
    places = [_ROOT / place for place in target.covered]
    assert all(place.exists() for place in places), places
    files = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*.py")))]
    reached: dict[str, set[int]] = {str(path): set() for path in files}

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        lines = reached.get(frame.f_code.co_filename)
        if lines is None:
            return None
        lines.add(frame.f_lineno)
        return trace

    run = target.build()
    inputs = [path.read_bytes() for folder in folders for path in sorted(folder.iterdir())]
    sys.settrace(trace)
    try:
        for data in inputs:
            run(data)
    finally:
        sys.settrace(None)
    found = {path: set(_lines(compile(Path(path).read_text(), path, "exec"))) for path in reached}
    return {
        str(Path(path).relative_to(_ROOT)): (len(lines & reached[path]), len(lines))
        for path, lines in found.items()
        if lines
    }


def _lines(code: CodeType, *, inside: bool = False) -> Iterator[int]:
    """The lines that functions consist of; what runs at import is no achievement of a fuzzer."""
    function = code.co_flags & 0x2  # CO_NEWLOCALS: no module and no class body
    if function or inside:
        yield from (line for _, _, line in code.co_lines() if line is not None and line != code.co_firstlineno)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _lines(constant, inside=inside or bool(function))


def main() -> None:
    name, mode, folder, *arguments = sys.argv[1:]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if mode == "cover":
        covered = cover(TARGETS[name], [Path(folder), *map(Path, arguments)])
        sys.stdout.write(json.dumps(covered))
    else:
        fuzz(TARGETS[name], [folder, *arguments], planted=mode == "planted")


if __name__ == "__main__":
    main()
