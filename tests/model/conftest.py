"""With which seed did the generated tests run?"""

from __future__ import annotations

import pytest

from tests.model.running import SEED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Printed whatever comes out: the same number runs the same sequences."""
    terminalreporter.write_line(f"generated with WARMHOOK_FUZZ_SEED={SEED}")
