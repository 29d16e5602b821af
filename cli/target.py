"""Find what an argument names: an image, a WarmImage or a node."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from cli.errors import Unusable
from warmhook.image_query import ImageQuery, parse_query
from warmhook.image_status import ImageStatus
from warmhook.images import NotAReference

Kind: TypeAlias = Literal["image", "warmimage", "node"]

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")


def is_node_name(text: str) -> bool:
    """Whether a Node can have this name; `..` would be taken out of a path with what stands before it."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Target:
    """`image/REF`, `warmimage/NAME`, `node/NAME`, or a name alone."""

    kind: Kind | None
    """`None`: the first of a WarmImage, an image and a node that has the name."""
    name: str

    @property
    def may_be_node(self) -> bool:
        """Whether it names a node unless there is an image of that name."""
        return self.kind == "node" or (self.kind is None and not set("/:@") & set(self.name))

    def query(self) -> ImageQuery:
        """What it means as an image. Raises `Unusable`."""
        try:
            return parse_query(self.name)
        except NotAReference as error:
            raise Unusable(f"{error}; name an image, warmimage/NAME or node/NAME") from None

    def find(self, statuses: Iterable[ImageStatus]) -> list[ImageStatus]:
        """The WarmImages that it names: those of that name, else those of that image. Raises `Unusable`."""
        if self.kind == "node":
            return []
        known: Sequence[ImageStatus] = list(statuses)
        named = [status for status in known if status.key.name == self.name]
        if self.kind == "warmimage" or (named and self.kind is None):
            return named
        try:
            return self.query().find(known)
        except Unusable:
            # A node may have a name that no image can have.
            if self.may_be_node:
                return []
            raise


def read_target(text: str) -> Target:
    """What `text` names, by its prefix if it has one."""
    prefix, slash, name = text.partition("/")
    kind = next((kind for kind in get_args(Kind) if kind == prefix), None)
    return Target(kind, name) if slash and name and kind else Target(None, text)
