"""Run the embedded API server as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def apiserver(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that is ready; its kubeconfig is `folder/kubeconfig`. It is killed on leaving."""
    command = [sys.executable, "-m", "devcluster.apiserver", "--port", "0", "--kubeconfig", str(folder / "kubeconfig")]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert b"ready" in process.stdout.readline()
            yield process
        finally:
            process.kill()
