"""Read from the Procfile the commands that start Warmhook's programs; `honcho` and others read it too."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Final

import cli
from cli.errors import Failed
from devcluster.cluster import Commands

PACKAGES: Final = Path(cli.__file__).resolve().parent.parent
"""The folder that holds the packages: a checkout, or site-packages."""
INSTALLED: Final = "web: python -m handlers --watch\nwatch: python -m handlers.watch\nagent: python -m nodeagent\n"
"""The Procfile's content, for an installed package, which has none."""


def read_procfile(folder: Path = PACKAGES) -> dict[str, tuple[str, ...]]:
    """Program to command; `python` is the interpreter that runs this."""
    file = folder / "Procfile"
    text = file.read_text(encoding="utf-8") if file.is_file() else INSTALLED
    commands: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        name, colon, command = line.partition(":")
        if colon and not line.startswith("#"):
            first, *rest = shlex.split(command)
            commands[name.strip()] = (sys.executable if first == "python" else first, *rest)
    return commands


def program_commands() -> Commands:
    """The commands of the programs that a local cluster runs. Raises `Failed`."""
    known = read_procfile()
    try:
        return Commands(web=known["web"], agent=known["agent"])
    except KeyError as error:
        raise Failed(f"{PACKAGES / 'Procfile'}: no program {error}") from None
