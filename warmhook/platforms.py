"""Compare the platforms of images and nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# `uname -m` to GOARCH: https://github.com/containerd/platforms/blob/main/database.go and Linux's own names.
_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armv5l": "arm",
    "armv6l": "arm",
    "armv7l": "arm",
    "armv8l": "arm",
    "armhf": "arm",
    "armel": "arm",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "loongarch64": "loong64",
}
# Platforms that a 64-bit node also runs, and that containerd also selects from an index:
# https://github.com/containerd/platforms/blob/main/compare.go
_ALSO_RUNS: Final = {"amd64": "386", "arm64": "arm"}


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system and architecture; variants of an architecture are ignored."""

    os: str = ""
    """`linux`; empty if unknown."""
    architecture: str = ""
    """`amd64`; empty if unknown."""

    def __str__(self) -> str:
        return f"{self.os or '?'}/{self.architecture or '?'}"


def platform_of(os: str, machine: str) -> Platform:
    """The platform from `uname` or an image configuration, in the terms of the image specification.

    BuildKit writes `unknown` into attestations: https://docs.docker.com/build/metadata/attestations/
    """
    os, machine = (text.lower() if text.lower() != "unknown" else "" for text in (os, machine))
    return Platform(os, _ARCHITECTURES.get(machine, machine))


def runs_on(image: Platform, node: Platform) -> bool:
    """Whether an image of that platform runs on that node. An unknown value matches everything."""
    same_os = not image.os or not node.os or image.os == node.os
    runs = {node.architecture, _ALSO_RUNS.get(node.architecture)}
    return same_os and (not image.architecture or not node.architecture or image.architecture in runs)
