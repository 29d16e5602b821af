"""Keep the content of a registry in a folder.

    blobs/sha256/<hex>                              configs, layers and manifests
    repositories/<repository>/_manifests/<digest>   holds the media type
    repositories/<repository>/_tags/<tag>           holds the digest
    repositories/<repository>/_answer.json          how requests for it are answered (`Answer`)

Names that begin with an underscore are no repository elements, so `a` and `a/b` may both be repositories.
Every file appears complete or not at all, so images may be added while the registry is serving.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

_ELEMENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_ELEMENT}(?:/{_ELEMENT})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(data: bytes) -> str:
    """`sha256:<hex>`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_repository(text: str) -> bool:
    """Whether `text` is a repository name of the distribution specification."""
    return _REPOSITORY.fullmatch(text) is not None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    Path(name).replace(path)


@dataclass(frozen=True, slots=True)
class Answer:
    """How requests for one repository are answered; by default by its content alone."""

    status: int = 0
    """This HTTP status for every request: 429, 503. 0 = by the content."""
    stall: bool = False
    """Send half of each blob of more than 4 KiB (layers, not configs), then nothing until this is taken back."""
    username: str = ""
    """Where set, requests need these credentials (HTTP Basic) and get 401 without."""
    password: str = ""


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest or index as it was written."""

    digest: str
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Folder:
    """A registry's content below `root`; nothing is cached, so other processes may write."""

    root: Path

    def write_blob(self, data: bytes) -> str:
        """Add a blob and return its digest."""
        digest = digest_of(data)
        path = self._blob_path(digest)
        if not path.exists():
            write_whole(path, data)
        return digest

    def write_manifest(self, repository: str, body: bytes, media_type: str) -> str:
        """Add a manifest to a repository and return its digest."""
        digest = self.write_blob(body)
        write_whole(self._repository(repository) / "_manifests" / digest, media_type.encode())
        return digest

    def write_tag(self, repository: str, tag: str, digest: str) -> None:
        """Point a tag at a manifest, which moves it if it exists."""
        if not _TAG.fullmatch(tag):
            raise ValueError(f"{tag!r} is no tag")
        write_whole(self._repository(repository) / "_tags" / tag, digest.encode())

    def write_answer(self, repository: str, answer: Answer) -> None:
        """Change how requests for a repository are answered, from the next request on."""
        write_whole(self._repository(repository) / "_answer.json", json.dumps(asdict(answer)).encode())

    def answer(self, repository: str) -> Answer:
        """How to answer requests for a repository."""
        try:
            return Answer(**json.loads((self._repository(repository) / "_answer.json").read_bytes()))
        except FileNotFoundError:
            return Answer()

    def blob(self, digest: str) -> Path | None:
        """The file of a blob; `None` if it is absent or the text is no sha256 digest."""
        if not _DIGEST.fullmatch(digest):
            return None
        path = self._blob_path(digest)
        return path if path.exists() else None

    def manifest(self, repository: str, reference: str) -> StoredManifest | None:
        """A repository's manifest by tag or digest."""
        below = self._repository(repository)
        try:
            if _DIGEST.fullmatch(reference):
                digest = reference
            elif _TAG.fullmatch(reference):
                digest = (below / "_tags" / reference).read_text()
            else:
                return None
            media_type = (below / "_manifests" / digest).read_text()
        except FileNotFoundError:
            return None
        return StoredManifest(digest, media_type, self._blob_path(digest).read_bytes())

    def tags(self, repository: str) -> list[str] | None:
        """A repository's tags in order; `None` if there is no such repository."""
        below = self._repository(repository)
        if not (below / "_manifests").is_dir():
            return None
        return sorted(path.name for path in (below / "_tags").glob("*") if not path.name.startswith(".new-"))

    def _blob_path(self, digest: str) -> Path:
        return self.root / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def _repository(self, repository: str) -> Path:
        if not is_repository(repository):
            raise ValueError(f"{repository!r} is no repository")
        return self.root / "repositories" / repository
