"""Name a container image: parse, normalise and print image references.

A runtime keeps the name that the author of a Pod wrote, so a reference is normalised as containerd and CRI-O do it
and no further. Comparisons across authors use its `canonical` form.

The grammar is that of the OCI distribution specification as Docker writes it
(https://github.com/distribution/reference/blob/main/regexp.go), narrowed to what a node can pull:
digests are sha256 or sha512, IPv6 hosts stand in brackets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

DOCKER_HUB: Final = "docker.io"
# The one other name that runtimes rewrite:
# https://github.com/distribution/reference/blob/main/normalize.go, splitDockerDomain
_LEGACY_DOCKER_HUB: Final = "index.docker.io"
# All names under which Docker Hub is reached.
_DOCKER_HUB_ALIASES: Final = frozenset({_LEGACY_DOCKER_HUB, "registry-1.docker.io", "registry.hub.docker.com"})

# Longest repository name in characters, host not counted (OCI distribution specification, "Pulling manifests").
_REPOSITORY_MAX: Final = 255
# Longest host with its port in characters: a DNS name's 253, a colon and five digits.
_HOST_MAX: Final = 259
# Longest reference in characters: host, '/', repository, ':', a tag of 128, '@', a sha512 digest of 135.
_REFERENCE_MAX: Final = _HOST_MAX + 1 + _REPOSITORY_MAX + 1 + 128 + 1 + 135
# Characters of hostile text that a message repeats.
_QUOTED: Final = 200

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::(?P<port>[0-9]{{1,5}}))?")
_ELEMENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_ELEMENT}(?:/{_ELEMENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


class NotAReference(ValueError):
    """The text names no image; the message quotes it and names the problem."""


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """An image reference as runtimes list it; build it with `parse_reference` or `from_event`, which check it."""

    host: str
    """Registry host with its port, if any, as it was written: `docker.io`, `Reg.Example.com`, `[::1]:5000`."""
    repository: str
    """Path below the host: `library/nginx`."""
    tag: str = ""
    """Empty if the reference has none."""
    digest: str = ""
    """`sha256:<64 hex>` or `sha512:<128 hex>`; empty if the reference has none."""

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def name(self) -> str:
        """Host and repository. Policies match this name of the `canonical` form."""
        return f"{self.host}/{self.repository}"

    @property
    def canonical(self) -> Reference:
        """The same image under the one name that events have: the host in lower case, Docker Hub as `docker.io`."""
        host = _canonical(self.host)
        return replace(self, host=host, repository=_in_library(host, self.repository))

    def written_as(self, other: Reference) -> Reference:
        """Tag and digest of this reference under the name of another."""
        return replace(self, host=other.host, repository=other.repository)

    @property
    def pull_name(self) -> str:
        """The name for a pull: by tag if there is one.

        containerd's CRI drops the tag of `repo:tag@digest`, and a Pod that names the tag would still have to pull.
        """
        return str(self.without_digest())

    @property
    def as_run(self) -> Reference:
        """The reference that a kubelet runs: with a digest the tag has no effect."""
        return replace(self, tag="") if self.digest else self

    def without_digest(self) -> Reference:
        """The same image by its tag alone; unchanged if there is no tag."""
        return replace(self, digest="") if self.tag else self


def is_digest(text: str) -> bool:
    """Whether `text` is a complete, well-formed sha256 or sha512 digest."""
    return _DIGEST.fullmatch(text) is not None


def parse_reference(text: str, *, default_tag: str = "") -> Reference:
    """Read a reference as a Pod's author writes it: `nginx`, `ghcr.io/a/b:1`, `[::1]:5000/a@sha256:...`.

    `default_tag` is added if the text has neither tag nor digest: `latest` for Pods, nothing for events.
    Raises `NotAReference`.
    """
    if len(text) > _REFERENCE_MAX:
        raise NotAReference(f"a reference of {len(text)} characters, at most {_REFERENCE_MAX} are allowed")
    rest, at, digest = text.partition("@")
    # Neither message repeats what is before an @: that may be a user's name and password.
    if "@" in digest:
        raise NotAReference("there is more than one @; a reference holds no user name")
    if at and not is_digest(digest):
        raise NotAReference(f"{digest!r}, the part after @, is no sha256 or sha512 digest")
    name, tag = rest, ""
    colon = rest.rfind(":")
    if colon > rest.rfind("/"):
        name, tag = rest[:colon], rest[colon + 1 :]
        if not _TAG.fullmatch(tag):
            raise NotAReference(f"{text!r}: {tag!r} is no tag (up to 128 letters, digits, '_', '.', '-')")
    host, slash, repository = name.partition("/")
    if not slash or not _looks_like_host(host):
        host, repository = DOCKER_HUB, name
    try:
        reference = _checked(host, repository, tag, digest)
    except NotAReference as error:
        raise NotAReference(f"{text!r}: {error}") from None
    return replace(reference, tag=default_tag) if not tag and not digest else reference


def from_event(host: str, repository: str, tag: str = "", digest: str = "") -> Reference | None:
    """The image in the event of a registry; `None` if neither tag nor digest names it.

    Senders are less strict than nodes, so the reference is canonical: host and repository may be in mixed case, a
    "tag" may be the digest again and a digest may be cut or elided (published samples of AWS, Distribution and GitHub
    have such ones). A malformed digest is dropped and the tag kept; `latest` is never invented. Raises `NotAReference`.
    """
    if tag.startswith(("sha256:", "sha512:")):
        tag, digest = "", digest if is_digest(digest) else tag
    if not is_digest(digest):
        digest = ""
    if tag and not _TAG.fullmatch(tag):
        raise NotAReference(f"{tag[:_QUOTED]!r} is no tag (up to 128 letters, digits, '_', '.', '-')")
    reference = _checked(_canonical(host), repository.lower(), tag, digest)
    return reference if tag or digest else None


def canonical_host(host: str) -> str:
    """A registry host as canonical references have it. Raises `NotAReference`."""
    return _checked(_canonical(host), "x", "", "").host


def _looks_like_host(element: str) -> bool:
    """Docker's rule for `a/b`: the first element is a host if it could not be a path element of Docker Hub."""
    return "." in element or ":" in element or element == "localhost" or element != element.lower()


def _canonical(host: str) -> str:
    host = host.lower()
    return DOCKER_HUB if host in _DOCKER_HUB_ALIASES else host


def _in_library(host: str, repository: str) -> str:
    return f"library/{repository}" if host == DOCKER_HUB and "/" not in repository else repository


def _checked(host: str, repository: str, tag: str, digest: str) -> Reference:
    match = _HOST.fullmatch(host)
    if not match or len(host) > _HOST_MAX or not (0 < int(match["port"] or 443) < 65536):
        raise NotAReference(f"{host[:_QUOTED]!r} is no registry host (name or [IPv6], with an optional port)")
    if not _looks_like_host(host.lower()):
        # `registry/shop` names the Docker Hub user "registry": a node would pull the wrong image.
        raise NotAReference(f"{host!r} is no registry host: without '.' or port it reads as a path of Docker Hub")
    if host == _LEGACY_DOCKER_HUB:
        host = DOCKER_HUB
    repository = _in_library(host, repository)
    if len(repository) > _REPOSITORY_MAX:
        raise NotAReference(f"the repository has {len(repository)} characters, at most {_REPOSITORY_MAX} are allowed")
    if not _REPOSITORY.fullmatch(repository):
        raise NotAReference(f"{repository!r} is no repository (lower-case elements joined by '/')")
    return Reference(host, repository, tag, digest)
