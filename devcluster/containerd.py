"""Run a real containerd beside the machine's own, with its own root, state and socket; it needs root."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Final

BOOTED: Final = "containerd successfully booted"
"""What it logs once its sockets answer."""

# In the form of containerd 1.x, which 2.x reads as well.
# Neither CNI nor the pause image is needed for images; kernel set-up and other plugins only cost start time.
_CONFIG: Final = """\
version = 2
root = "{root}/root"
state = "{root}/state"
disabled_plugins = [
  "io.containerd.internal.v1.restart", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{root}/s"
[ttrpc]
address = "{root}/t"
[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.invalid/pause:1"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{root}/cni"
conf_dir = "{root}/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{root}/certs.d"
"""


def missing() -> str:
    """What this machine or user lacks to run one; empty where nothing."""
    if shutil.which("containerd") is None:
        return "containerd is not installed"
    return "" if os.geteuid() == 0 else "containerd needs root"


def prepare(root: Path) -> None:
    """Write its configuration below `root`, which is created; its path may have 105 characters at most."""
    (root / "certs.d").mkdir(parents=True)
    (root / "config.toml").write_text(_CONFIG.format(root=root))


def command(root: Path, program: str = "containerd") -> tuple[str, ...]:
    """Runs the one that was prepared at `root`; `program` is a name or a path."""
    return (program, "--config", str(root / "config.toml"))


def socket_of(root: Path) -> Path:
    """Its gRPC socket: CRI and containerd's own services."""
    return root / "s"


async def unmount(root: Path) -> None:
    """Unmount what a killed containerd left below `root`, innermost first."""
    points = [point for point in _mount_points() if point.startswith(f"{root}/")]
    for point in sorted(points, key=len, reverse=True):
        process = await asyncio.create_subprocess_exec("umount", "-l", point)
        await process.wait()


def _mount_points() -> list[str]:
    return [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
