"""Programs are started as the Procfile says."""

from __future__ import annotations

import sys
from pathlib import Path

from cli.demo_run.run import INSTALLED, PACKAGES, read_procfile


def test_an_installed_package_starts_what_the_procfile_starts(tmp_path: Path) -> None:
    assert (PACKAGES / "Procfile").read_text() == INSTALLED
    assert read_procfile(tmp_path) == read_procfile()


def test_python_is_the_interpreter_that_runs_the_command(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("# programs\nweb: python -m web --name 'a b'\nother: /bin/true\n\n")

    assert read_procfile(tmp_path) == {
        "web": (sys.executable, "-m", "web", "--name", "a b"),
        "other": ("/bin/true",),
    }
