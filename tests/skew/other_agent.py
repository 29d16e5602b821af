"""`python other_agent.py newer|older`: the agent as another version has it, by what it writes and understands.

Only the wire differs: the agent of today works behind it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final
from unittest import mock

import warmhook

NEWER: Final = "99.1.0"
REASON: Final = "Quarantined"
"""Why a newer agent does not pull."""


def _newer_report(written: Any) -> Any:
    """A report with an annotation, and details with a reason and a field, that nobody of today knows."""

    def patch(*given: Any) -> dict[str, Any]:
        report: dict[str, Any] = written(*given)
        report["metadata"]["annotations"]["warmhook.dev/forecast"] = json.dumps({"of": ["a", "newer", 1]})
        details = report.get("data", {})
        for key, text in details.items():
            if text is not None:
                details[key] = json.dumps(json.loads(text) | {"reason": REASON, "phase": 3})
        return report

    return patch


def _older_data(read: Any) -> Any:
    """The ConfigMap without what belongs to lines: hints, and blobs of pushes that last."""

    def desired(configmap: Mapping[str, Any]) -> Any:
        data = {key: text for key, text in (configmap.get("data") or {}).items() if "." not in key}
        return read({**configmap, "data": data})

    return desired


def main(version: str) -> int:
    """Run the agent until a signal."""
    if version == "newer":
        warmhook.__version__ = NEWER
    from nodeagent import desired, reporter
    from nodeagent.__main__ import main as run
    from warmhook.node_report import report_patch

    if version == "newer":
        with mock.patch.object(reporter, "report_patch", _newer_report(report_patch)):
            return run()
    with (
        mock.patch.object(desired, "read_desired", _older_data(desired.read_desired)),
        mock.patch.object(reporter.Reporter, "_optional_annotations", return_value={}),
        # Of the options of a line it knows those of the pull.
        mock.patch.dict("warmhook.node_lines._LINE_OPTIONS", clear=True),
    ):
        return run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
