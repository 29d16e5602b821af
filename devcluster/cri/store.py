"""Keep the content of the runtime: blobs as files and the names of images, both safe against a kill at any moment.

blobs/sha256/<hex>   complete and checked
ingest/<random>      being written; emptied at start
names.json           each name's image
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from devcluster.registry.folder import write_whole
from warmhook.images import NotAReference, parse_reference


@dataclass(frozen=True, slots=True)
class Named:
    """What one name stands for."""

    id: str
    """The config's digest."""
    size_bytes: int
    """Index, manifest, config and compressed layers."""
    blobs: tuple[str, ...]
    """Digests of all of these."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image ID with all its names."""

    id: str
    size_bytes: int
    """As its first name counted it; with containerd a later pull through another index does not change it."""
    tags: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(slots=True)
class Store:
    """The content below `root`; one process at a time."""

    root: Path
    names: dict[str, Named] = field(default_factory=dict)
    """By `host/repository:tag` or `host/repository@digest`, in the order of their first pull."""

    def images(self) -> list[StoredImage]:
        """Every image, one per ID."""
        by_id: dict[str, list[str]] = {}
        for name, named in self.names.items():
            by_id.setdefault(named.id, []).append(name)
        return [
            StoredImage(
                image_id,
                self.names[names[0]].size_bytes,
                tuple(sorted(name for name in names if "@" not in name)),
                tuple(sorted(name for name in names if "@" in name)),
            )
            for image_id, names in by_id.items()
        ]

    def find(self, text: str) -> StoredImage | None:
        """An image by name or by ID; `None` if it is absent."""
        image_id = text
        with contextlib.suppress(NotAReference):
            name = _digest_name(text) if "@" in text else parse_reference(text, default_tag="latest").pull_name
            image_id = self.names[name].id if name in self.names else image_id
        return next((image for image in self.images() if image.id == image_id), None)

    def name(self, name: str, named: Named) -> None:
        """Point a name at an image, which moves it if it exists."""
        self.names[name] = named
        self._save()

    def remove(self, image_id: str) -> None:
        """Take every name of an image away; its blobs go with `collect`."""
        self.names = {name: named for name, named in self.names.items() if named.id != image_id}
        self._save()

    def collect(self) -> None:
        """Delete the blobs that no name needs."""
        needed = {digest for named in self.names.values() for digest in named.blobs}
        for path in self._blobs.iterdir():
            if f"sha256:{path.name}" not in needed:
                path.unlink()

    def has(self, digest: str) -> bool:
        """Whether a blob is there, complete."""
        return self.blob(digest).exists()

    def blob(self, digest: str) -> Path:
        """Where a blob is, or would be."""
        return self._blobs / digest.removeprefix("sha256:")

    def ingest(self) -> tuple[Path, BinaryIO]:
        """A new file to write a blob to; the caller closes it and gives it to `commit` or deletes it."""
        handle, name = tempfile.mkstemp(dir=self._ingest)
        return Path(name), os.fdopen(handle, "wb")

    def commit(self, path: Path, digest: str) -> None:
        """Take a written file, whose digest the caller has checked, for a blob."""
        path.replace(self.blob(digest))

    def used_bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(path.stat().st_size for path in self._blobs.iterdir())

    @property
    def _blobs(self) -> Path:
        return self.root / "blobs" / "sha256"

    @property
    def _ingest(self) -> Path:
        return self.root / "ingest"

    def _save(self) -> None:
        write_whole(self.root / "names.json", json.dumps({k: asdict(v) for k, v in self.names.items()}).encode())


def open_store(root: Path) -> Store:
    """The store below `root` as the last process left it, or a new one."""
    store = Store(root)
    shutil.rmtree(root / "ingest", ignore_errors=True)
    for folder in (root / "blobs" / "sha256", root / "ingest"):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        saved = json.loads((root / "names.json").read_bytes())
    except FileNotFoundError:
        saved = {}
    store.names = {name: Named(each["id"], each["size_bytes"], _texts(each["blobs"])) for name, each in saved.items()}
    store.collect()
    return store


def _digest_name(text: str) -> str:
    """`host/repository@digest` of a reference with a digest: its tag counts for nothing."""
    reference = parse_reference(text)
    return f"{reference.name}@{reference.digest}"


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
