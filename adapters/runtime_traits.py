"""State in one table what container runtimes do differently, with sources; the runtime contract holds them to it.

CRI leaves these points open, or was read differently. The programs need none of them: they remove images by ID, which
removes every name everywhere, try by a canary whether pins count, and read the configuration of each image to find what
cannot run. Whoever changes that finds here what to mind. A runtime that is not in the table has the traits under which
nothing would be removed or pinned.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Version: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class RuntimeTraits:
    """What one runtime does, in a range of its versions."""

    runtime: str
    """As the runtime calls itself in `Version`, in lower case."""
    since: Version
    """The first version with these traits; a later row of the same runtime replaces them."""
    removal: Literal["image", "name", "unknown"] = "unknown"
    """What `RemoveImage` by a tag removes: the image with every name of its ID, or that name alone.

    By an ID, both remove the image with every name.
    """
    id_prefix: str = ""
    """What precedes the 64 digits of an image ID."""
    pins: bool = False
    """Whether an image with the label `io.cri-containerd.pinned=pinned` is listed as pinned."""
    pulls_artifacts: bool = False
    """Whether the pull of a chart succeeds, and lists it like an image."""


TRAITS: Final = (
    # Removal: pkg/cri/server/image_remove.go, later internal/cri/server/images/image_remove.go.
    # Pins: PinnedImageLabelKey in pkg/cri/labels/labels.go, from 1.6.22 and 1.7.3 on. Artifacts: observed.
    RuntimeTraits("containerd", (1, 6, 0), "image", "sha256:"),
    RuntimeTraits("containerd", (1, 6, 22), "image", "sha256:", pins=True),
    RuntimeTraits("containerd", (1, 7, 0), "image", "sha256:", pulls_artifacts=True),
    RuntimeTraits("containerd", (1, 7, 3), "image", "sha256:", pins=True, pulls_artifacts=True),
    # Removal: removeImage in server/image_remove.go, UntagImage in internal/storage/image.go. Pins: only by the setting
    # `pinned_images` of CRI-O. Artifacts: pullImageImplementation in internal/storage/image.go, and observed with 1.36.
    RuntimeTraits("cri-o", (1, 26, 0), "name"),
    RuntimeTraits("cri-o", (1, 36, 0), "name", pulls_artifacts=True),
)
"""The rows of each runtime are in the order of versions."""

_NUMBERS: Final = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


def runtime_traits(version: str) -> RuntimeTraits:
    """The traits of a runtime by `Runtime.version()`: `containerd 1.6.20~ds1`.

    An unknown runtime, an older version than the first in the table, and a version that is no number have the defaults.
    """
    name, _, number = version.lower().partition(" ")
    numbers = _NUMBERS.match(number)
    found = RuntimeTraits(name, (0, 0, 0))
    if numbers:
        present = (int(numbers[1]), int(numbers[2]), int(numbers[3] or 0))
        for row in TRAITS:
            if row.runtime == name and row.since <= present:
                found = row
    return found
