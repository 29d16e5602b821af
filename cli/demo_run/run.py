"""Run the work of a command in a temporary folder until it ends or a signal comes, and leave nothing behind.

The commands of the programs that it starts are in the Procfile; `honcho` and others read it too.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

import cli
from adapters.kubernetes.errors import KubernetesError
from adapters.signals import STOP_SIGNALS, until_signal
from cli.errors import Failed
from devcluster.cluster import Commands
from devcluster.programs import ProgramFailed

PACKAGES: Final = Path(cli.__file__).resolve().parent.parent
"""The folder that holds the packages: a checkout, or site-packages."""
INSTALLED: Final = "web: python -m handlers --watch\nwatch: python -m handlers.watch\nagent: python -m nodeagent\n"
"""The Procfile's content, for an installed package, which has none."""
_SIGNALS: Final = (*STOP_SIGNALS, signal.SIGHUP)
# Of this process's own settings none may reach a child, and no proxy can reach a loopback address.
_NOT_FOR_CHILDREN: Final = frozenset({"CONTAINER_RUNTIME_ENDPOINT", "K_SINK", "KUBECONFIG", "NODE_NAME", "PORT"})
# A unix socket's path has 107 characters at most, and macOS has long ones for temporary folders.
_TMP_MAX: Final = 60
_LOG_LINE_MAX: Final = 240


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


def for_children(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment that child processes begin with."""
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _NOT_FOR_CHILDREN and not name.startswith("WARMHOOK_") and not name.lower().endswith("_proxy")
    }
    # Not buffered: a program is ready when it has printed that it is.
    return kept | {"PYTHONUNBUFFERED": "1", "NO_PROXY": "*"}


def run_in_folder(work: Callable[[Path], Coroutine[Any, Any, int]], environ: MutableMapping[str, str]) -> int | None:
    """Run `work` in a temporary folder that is removed afterwards; its result, or `None` if a signal ended it.

    Raises `Failed` if a program failed.
    """
    # The client of the API server asks the environment for a proxy; either spelling counts.
    environ.update(NO_PROXY="*", no_proxy="*")
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _TMP_MAX else "/tmp"  # noqa: S108 - see above
    folder = Path(tempfile.mkdtemp(prefix="warmhook-", dir=parent))
    try:
        return asyncio.run(until_signal(work(folder), _SIGNALS))
    except ProgramFailed as error:
        log = f"; the end of its log:\n{indented(error.tail)}" if error.tail else ""
        raise Failed(f"{error}{log}") from error
    except KubernetesError as error:
        raise Failed(f"the API server did not do what was asked: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def indented(text: str) -> str:
    """Lines of a log, apart from what is said about them."""
    return "\n".join(f"    {line[:_LOG_LINE_MAX]}" for line in text.splitlines())
