"""The source distribution and the wheel of this checkout."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.image import ROOT


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what `make dist` writes; the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    source = folder / "source"
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    made = f"VENV={ROOT}/.venv", f"DIST={folder}", f"READY={ROOT}/.venv/.ready"
    subprocess.run(["make", "--no-print-directory", "dist", *made], cwd=source, check=True, capture_output=True)
    return folder
