"""Run the work of a command in a temporary folder until it ends or a signal comes, and leave nothing behind."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

from adapters.kubernetes.errors import KubernetesError
from adapters.signals import STOP_SIGNALS, until_signal
from cli.errors import Failed
from devcluster.programs import ProgramFailed

_SIGNALS: Final = (*STOP_SIGNALS, signal.SIGHUP)
# Of this process's own settings none may reach a child, and no proxy can reach a loopback address.
_NOT_FOR_CHILDREN: Final = frozenset({"CONTAINER_RUNTIME_ENDPOINT", "K_SINK", "KUBECONFIG", "NODE_NAME", "PORT"})
# A unix socket's path has 107 characters at most, and macOS has long ones for temporary folders.
_TMP_MAX: Final = 60
_LOG_LINE_MAX: Final = 240


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
