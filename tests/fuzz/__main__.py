"""`python -m tests.fuzz [--seconds N] [NAME...]`: the long run. Exit code 1 where anything was found."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.running import SEED, run
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz every parser and endpoint.")
    parser.add_argument("--seconds", type=int, default=300, help="for each fuzzer (default 300)")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where inputs that fail are written")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)}; default all")
    arguments = parser.parse_args()
    failed = False
    _say(f"seeds: WARMHOOK_FUZZ_SEED={SEED}")
    for name in arguments.names or TARGETS:
        _say(f"{name}: {arguments.seconds} s ...")
        findings = run(name, seconds=arguments.seconds, keep=arguments.keep)
        if findings.problem:
            failed = True
            _say(f"{name}: FOUND after {findings.executions} inputs; see {arguments.keep}\n{findings.problem}")
            continue
        for path, (reached, total) in sorted(findings.covered.items()):
            _say(f"  {path}: {reached} of {total} lines")
        _say(f"{name}: nothing in {findings.executions} inputs; {findings.share():.0%} of the lines reached")
    return int(failed)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
