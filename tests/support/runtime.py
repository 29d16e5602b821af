"""A container runtime in memory, with the tags of its registry, and pulls that fail or hang.

`tests/contract/test_runtime.py` runs on it too, as far as its cases need no registry.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict, deque
from dataclasses import dataclass, field

from warmhook.images import NotAReference, Reference, parse_reference
from warmhook.pins import PIN
from warmhook.platforms import Platform
from warmhook.ports import Credentials, ImageConfig, ImageFilesystem, PullFailed, RuntimeImage, RuntimeUnreachable
from warmhook.pull_failures import FailureReason

_RUNNABLE = ImageConfig(Platform("linux", "amd64"), layers=1)


def digest_of(content: str) -> str:
    """A digest that stands for some content."""
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


@dataclass(slots=True)
class MemoryRuntime:
    """Behaves as containerd's CRI does: digests belong to the ID, removing by one name removes the ID."""

    registry: dict[str, str] = field(default_factory=dict)
    """Tag reference to the digest that it points at now; references with a digest need no entry."""
    pull_seconds: float = 1.0
    image_bytes: int = 1000
    """The size of each image."""
    used_bytes: int = 0
    """Of all unpacked images."""
    hanging: set[str] = field(default_factory=set)
    """References whose registry takes the connection and sends nothing."""
    unlisted: set[str] = field(default_factory=set)
    """References whose images are gone as soon as they are pulled."""
    unreachable: bool = False
    failures: defaultdict[str, deque[PullFailed | Exception]] = field(default_factory=lambda: defaultdict(deque))
    """What the next pulls of a reference raise."""
    listed: dict[str, str] = field(default_factory=dict)
    """Name to image ID."""
    ids: dict[str, str] = field(default_factory=dict)
    """Digest to image ID, of digests that share one; other digests have an ID each."""
    labels: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """By name; see `MemoryContainerd`."""
    honours_pins: bool = True
    """Whether images with a label that pins them are listed as pinned."""
    configs: dict[str, ImageConfig | None] = field(default_factory=dict)
    """By digest, of what is not an image of one layer for linux/amd64; `None`: the runtime cannot say."""
    config_reads: int = 0
    """How often a configuration was asked for."""
    private: dict[str, str] = field(default_factory=dict)
    """References to the password, or the identity token, that their registry wants."""
    breaking: dict[str, PullFailed] = field(default_factory=dict)
    """Passwords that end a pull in this way."""
    used: set[str] = field(default_factory=set)
    """Images of containers and sandboxes."""
    use_error: Exception | None = None
    """What the question for used images raises."""
    remove_seconds: float = 0.0
    removals: list[str] = field(default_factory=list)
    """Every removal that began, in order."""
    pulls: list[str] = field(default_factory=list)
    """Every pull that began, in order."""
    credentials: list[Credentials | None] = field(default_factory=list)
    """What each of them had."""
    cancelled: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    lists: int = 0
    """How often the images were asked for."""

    def push(self, reference: str, content: str) -> str:
        """Point a tag at new content; returns its digest."""
        self.registry[reference] = digest_of(content)
        return self.registry[reference]

    def have(self, reference: str) -> None:
        """The image is there, as if another client had pulled it."""
        parsed = parse_reference(reference, default_tag="latest")
        digest = parsed.digest or self.registry[parsed.pull_name]
        image_id = self.ids.get(digest) or digest_of(f"config of {digest}")
        self.listed[f"{parsed.name}@{digest}"] = self.listed[_listed_name(parsed)] = image_id

    def lose(self, reference: str) -> None:
        """The image is gone, with all names of its ID, as when kubelet needs the space."""
        image_id = self._id_of(reference)
        self.listed = {name: each for name, each in self.listed.items() if each != image_id}

    def fail(self, reference: str, *reasons: FailureReason, message: str = "the registry said no") -> None:
        """The next pulls of a reference fail for these reasons."""
        self.failures[reference] += [PullFailed(reason, message) for reason in reasons]

    async def version(self) -> str:
        self._answer()
        return "memory 1"

    async def images(self) -> list[RuntimeImage]:
        self._answer()
        self.lists += 1
        names: defaultdict[str, list[str]] = defaultdict(list)
        for name, image_id in sorted(self.listed.items()):
            names[image_id].append(name)
        return [
            RuntimeImage(
                image_id,
                tuple(name for name in each if "@" not in name),
                tuple(name for name in each if "@" in name),
                size_bytes=self.image_bytes,
                pinned=self.honours_pins and any(PIN in self.labels[name] for name in (*each, image_id)),
            )
            for image_id, each in names.items()
        ]

    async def image(self, reference: str) -> RuntimeImage | None:
        wanted = self._id_of(reference)
        return next((image for image in await self.images() if image.id == wanted), None)

    async def config(self, reference: str) -> ImageConfig | None:
        image = await self.image(reference)
        self.config_reads += 1
        if image is None:
            return None
        digests = [name.rpartition("@")[2] for name in image.digests]
        return next((self.configs[digest] for digest in digests if digest in self.configs), _RUNNABLE)

    async def pull(self, reference: str, *, timeout_seconds: float, credentials: Credentials | None = None) -> str:
        self._answer()
        self.pulls.append(reference)
        self.credentials.append(credentials)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            pull_seconds = float("inf") if reference in self.hanging else self.pull_seconds
            await asyncio.sleep(min(pull_seconds, timeout_seconds))
        except asyncio.CancelledError:
            self.cancelled.append(reference)
            raise
        finally:
            self.running -= 1
        self._answer()
        if pull_seconds > timeout_seconds:
            raise PullFailed("Timeout", f"took longer than {timeout_seconds} s")
        try:
            parsed = parse_reference(reference, default_tag="latest")
        except NotAReference as error:
            raise PullFailed("RuntimeError", f"{reference}: invalid reference format") from error
        if credentials is not None and credentials.password in self.breaking:
            raise self.breaking[credentials.password]
        wanted = self.private.get(reference)
        if wanted and (credentials is None or wanted not in (credentials.password, credentials.identity_token)):
            raise PullFailed("Unauthorized", f"{reference}: 401 Unauthorized")
        if self.failures[reference]:
            failure = self.failures[reference].popleft()
            if isinstance(failure, PullFailed) and failure.reason == "NotRunnable":
                # As containerd 1.6 does: the name stays listed, without a digest.
                self.listed[reference] = digest_of(f"not runnable: {reference}")
            raise failure
        if not parsed.digest and parsed.pull_name not in self.registry:
            raise PullFailed("NotFound", f"{reference}: not found")
        self.have(reference)
        self.labels.pop(reference, None)
        image_id = self.listed[_listed_name(parsed)]
        if reference in self.unlisted:
            self.lose(reference)
        return image_id

    async def remove(self, reference: str) -> None:
        self._answer()
        self.removals.append(reference)
        await asyncio.sleep(self.remove_seconds)
        self.lose(reference)

    async def used_images(self) -> frozenset[str]:
        self._answer()
        if self.use_error is not None:
            raise self.use_error
        return frozenset(self.used)

    async def filesystems(self) -> list[ImageFilesystem]:
        self._answer()
        return [ImageFilesystem("/var/lib/memory", self.used_bytes)]

    def _answer(self) -> None:
        if self.unreachable:
            raise RuntimeUnreachable("memory://: nobody answers")

    def _id_of(self, reference: str) -> str:
        """The ID of the image with this name or ID; empty if there is none."""
        if reference in self.listed.values():
            return reference
        try:
            return self.listed.get(_listed_name(parse_reference(reference, default_tag="latest")), "")
        except NotAReference:
            return ""


def _listed_name(reference: Reference) -> str:
    """A digest takes the place of a tag."""
    return f"{reference.name}@{reference.digest}" if reference.digest else reference.pull_name
