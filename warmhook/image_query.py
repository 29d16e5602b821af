"""Find the WarmImages of an image as a person names it: with or without registry, tag and digest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from warmhook.image_status import ImageStatus
from warmhook.images import Reference, parse_reference


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """A reference as a person writes it."""

    reference: Reference
    """Canonical; without a tag and a digest it stands for all tags of the repository."""
    path: str
    """The repository as it was written, if it was written without a registry; otherwise empty."""

    def names(self, status: ImageStatus) -> bool:
        """Whether the WarmImage is for this repository, and this tag if there is one. The digest does not count."""
        image = status.reference
        return image is not None and image.canonical.name == self.reference.name and self._same_version(image)

    def ends(self, status: ImageStatus) -> bool:
        """Whether the name of the WarmImage's repository ends with the path that was written without a registry."""
        image = status.reference
        if image is None or not self.path:
            return False
        return f"/{image.canonical.repository}".endswith(f"/{self.path}") and self._same_version(image)

    def _same_version(self, image: Reference) -> bool:
        if not image.tag:
            # An image by digest has no other version, and no tag.
            return self.reference.digest == image.digest or not (self.reference.tag or self.reference.digest)
        return self.reference.tag in ("", image.tag)

    def has_digest(self, status: ImageStatus) -> bool:
        """Whether the WarmImage is about the digest of the query; true for a query without one."""
        return self.reference.digest in ("", status.digest or status.wanted_digest)

    def find(self, statuses: Iterable[ImageStatus]) -> list[ImageStatus]:
        """Those with this name and digest; if there are none, those whose name ends so."""
        having = [status for status in statuses if self.has_digest(status)]
        return list(filter(self.names, having)) or list(filter(self.ends, having))


def parse_query(text: str) -> ImageQuery:
    """Raises `NotAReference`."""
    reference = parse_reference(text)
    written = text.partition("@")[0].removesuffix(f":{reference.tag}" if reference.tag else "")
    with_registry = written.lower().startswith(f"{reference.canonical.host}/") or reference.host != "docker.io"
    return ImageQuery(reference.canonical, "" if with_registry else written)
