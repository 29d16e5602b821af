"""Run Helm on the chart."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import yaml

from tests.real.programs import need
from warmhook.ports import Object

__all__ = ["CHART", "defaults", "helm", "refusal", "template"]

CHART: Final = Path(__file__).parents[2] / "charts" / "warmhook"
_SECONDS: Final = 60
# The version that Helm assumes without a cluster depends on how it was built.
_KUBERNETES: Final = "1.36.0"


def helm(*arguments: str, stdin: str = "", environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `helm` in a home of its own; the caller checks the exit code."""
    need("helm", "helm")
    with tempfile.TemporaryDirectory(prefix="wh") as home:
        return subprocess.run(
            ["helm", *arguments],
            input=stdin,
            env={**os.environ, "HOME": home, "KUBECONFIG": "/dev/null", **(environ or {})},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )


def template(values: Object | None = None, *flags: str, chart: Path = CHART) -> list[Object]:
    """The objects that the chart makes of these values."""
    done = _template(json.dumps(values or {}), chart, flags)
    assert done.returncode == 0, done.stderr
    return [obj for obj in yaml.load_all(done.stdout, yaml.CSafeLoader) if obj is not None]


def refusal(values: Object, *flags: str) -> str:
    """What Helm says about values that the chart refuses."""
    done = _template(json.dumps(values), CHART, flags)
    assert done.returncode != 0, "the values are accepted"
    return done.stderr


@functools.cache
def _template(values: str, chart: Path, flags: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command = ["template", "warmhook", str(chart), "--kube-version", _KUBERNETES, "--values", "-", *flags]
    return helm(*command, stdin=values)


def defaults() -> dict[str, Any]:
    """The values of the chart."""
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return loaded
