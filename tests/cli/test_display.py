"""A person is shown reasons as they are, whatever a registry put into them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli.demo_run.display import Display
from cli.demo_run.progress import NodeProgress


@pytest.mark.parametrize("reason", ["unexpected status code [manifests v1.2.3]: 403", "[/x] is no tag", "[bold]"])
def test_brackets_in_a_reason_are_no_markup(reason: str) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200), lambda: 0.0) as display:
        display.show([NodeProgress("node-1", "failed", None, reason)])
    assert reason in out.getvalue()
