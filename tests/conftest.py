"""Choose how many examples generated tests try, say with which seeds they run, and reset the log after each test.

`quick` is for people who wait, `thorough` for `make test`, `nightly` for `make fuzz` (`--hypothesis-profile`).
"""

from __future__ import annotations

import gc
import os
import secrets
import sys
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import settings

from adapters import logs

# pytest keeps test modules as it compiles them, or each process would spend seconds on their assertions again.
sys.dont_write_bytecode = False

settings.register_profile("quick", max_examples=10, deadline=None)
settings.register_profile("thorough", max_examples=100, deadline=None)
settings.register_profile("nightly", max_examples=1000, deadline=None)
settings.load_profile("quick")

_FUZZ_SEED: Final = "WARMHOOK_FUZZ_SEED"
_FUZZ_SEED_DEFAULT: Final = "4242"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the seeds before Hypothesis and tests/model read them; workers of pytest-xdist get the same ones."""
    os.environ[_FUZZ_SEED] = os.environ.get(_FUZZ_SEED) or _FUZZ_SEED_DEFAULT
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(secrets.randbits(32))


def pytest_collection_finish() -> None:
    """Leave the modules and thousands of tests out of each later garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    """With what to run the same examples and sequences again."""
    return _seeds(config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Once more at the end, also if the header was not printed."""
    terminalreporter.write_line(_seeds(config))


def _seeds(config: pytest.Config) -> str:
    return f"seeds: {_FUZZ_SEED}={os.environ[_FUZZ_SEED]} --hypothesis-seed={config.option.hypothesis_seed}"


@pytest.fixture(autouse=True)
def _events_go_to_structlog_again() -> Iterator[None]:
    """A program that a test runs in this process chooses for the whole process where events go."""
    yield
    logs._LOG.stream = None
