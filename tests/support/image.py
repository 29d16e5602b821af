"""Build the venv that the Dockerfile puts into the image, out of the packages that are installed here."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Final, cast

from tests.real.programs import need

ROOT: Final = Path(__file__).parents[2]
_TEXT: Final = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
INSTRUCTIONS: Final = [line.split(maxsplit=1) for line in _TEXT.splitlines() if line and line[0] not in "# "]
"""Word and text of each instruction of the Dockerfile."""


def build_venv(folder: Path) -> Path:
    """The venv, below `folder`. Raises `CalledProcessError`.

    Each step of the first stage runs as it is written, in folders of `folder`, with two exceptions: locked packages are
    copied from this environment, whose versions are the same, and what builds is this environment. A test is skipped
    where `strip` is absent.
    """
    need("umoci", "strip")
    (source := folder / "src").mkdir()
    stages = [number for number, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM"]
    for word, text in INSTRUCTIONS[stages[0] : stages[1]]:
        if word == "COPY":
            *names, target = text.split()
            _copy(names, source / target)
        elif word == "RUN" and text.endswith("-r requirements.txt"):
            _install_locked(site_packages(folder / "venv"))
        elif word == "RUN" and "/venv" in text:
            command = re.sub(r"(?<!\S)/(venv|dist)\b", rf"{folder}/\1", text)
            for program in ("/build/bin/pip", "python -m venv"):
                command = command.replace(program, f"{sys.executable} -m {program.split('/')[-1].split()[-1]}")
            subprocess.run(command, shell=True, check=True, cwd=source, stdout=subprocess.DEVNULL)
    return folder / "venv"


def _copy(names: list[str], target: Path) -> None:
    for file in (file for name in names for file in ROOT.glob(name)):
        if file.is_dir():
            shutil.copytree(file, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.mkdir(exist_ok=True)
            shutil.copy2(file, target)


def _install_locked(target: Path) -> None:
    for name, version in re.findall(r"^(\S+)==(\S+)", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE):
        installed = distribution(name).version
        assert installed == version, f"{name} {installed} is installed here, locked is {version}"
        copy_package(name, target)


def copy_package(name: str, target: Path) -> None:
    """Install the package into the folder `target` as it is installed here."""
    installed = distribution(name)
    for file in installed.files or ():
        if ".." not in file.parts:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(cast("Path", installed.locate_file(file)), target / file)


def site_packages(venv: Path) -> Path:
    """Where packages are."""
    return venv / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"


def compressed_mib(venv: Path) -> float:
    """The size of the layer that holds the venv, as a registry stores it: a tar file compressed by gzip."""
    with tempfile.TemporaryFile() as file:
        with (
            gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6) as compressed,
            tarfile.open(fileobj=compressed, mode="w|") as layer,
        ):
            layer.add(venv, "venv")
        return file.tell() / 2**20
