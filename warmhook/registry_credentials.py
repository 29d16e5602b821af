"""Decide which credentials fit an image, and read them from Secrets.

The rules are those of the kubelet, so an image that a Pod can pull with a Secret can be warmed with it:
https://github.com/kubernetes/kubernetes/blob/v1.35.0/pkg/credentialprovider/keyring.go and config.go there.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from warmhook.images import DOCKER_HUB, Reference
from warmhook.ports import Credentials, Object

# A credential for Docker Hub is stored under the address of its first API: https://index.docker.io/v1/.
_DOCKER_HUB_KEY: Final = "index.docker.io"
# Type of a Secret to the key of its content.
_CONTENT: Final = {"kubernetes.io/dockerconfigjson": ".dockerconfigjson", "kubernetes.io/dockercfg": ".dockercfg"}
_QUOTED: Final = 100


class NotCredentials(ValueError):
    """A Secret that holds no registry credentials; the message quotes nothing of its content."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Credentials for the images below a registry host, or below a path of it."""

    location: str
    """`registry.example.com`, `*.example.com:5000`, `registry.example.com/team`; see `location_of`."""
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """A refresh token of OAuth 2; then there is no user name."""


@dataclass(frozen=True, slots=True)
class SecretContent:
    """The credentials of a Secret."""

    entries: tuple[Entry, ...]
    skipped: tuple[str, ...] = ()
    """Why other entries cannot be used, without any secret."""


def read_secret(secret: Object) -> SecretContent:
    """The credentials of a Secret of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`.

    Raises `NotCredentials`. Of an entry with an identity token only the token is used, as the docker command does.
    """
    kind = secret.get("type")
    key = _CONTENT.get(str(kind))
    if key is None:
        raise NotCredentials(f"it is of type {str(kind)[:_QUOTED]!r}, not kubernetes.io/dockerconfigjson")
    try:
        # The chain of causes would hold the content.
        content = json.loads(base64.b64decode((secret.get("data") or {})[key], validate=True))
        auths = content if key == ".dockercfg" else content["auths"]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise NotCredentials(f"its {key} is not the JSON of a Docker configuration with credentials") from None
    if not isinstance(auths, dict):
        raise NotCredentials(f"its {key} has no object of credentials by registry")
    entries, skipped = list[Entry](), list[str]()
    for written, value in auths.items():
        location = location_of(written)
        try:
            entries.append(_entry(location, value))
        except NotCredentials as error:
            skipped.append(f"{location[:_QUOTED]!r}: {error}")
    return SecretContent(tuple(entries), tuple(skipped))


def location_of(written: str) -> str:
    """The host and path of a key such as `https://registry.example.com/v2/`, without scheme and API version."""
    rest = re.sub(r"\Ahttps?://", "", written)
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    # A URL may name a user; that is no part of the location.
    host, path = host.rpartition("@")[2], slash + path
    if path.startswith(("/v1/", "/v2/")):
        path = path[3:]
    return host if path == "/" else host + path


def fitting_credentials(entries: Iterable[Entry], image: Reference) -> list[Credentials]:
    """The credentials to try for an image, the most specific location first; without duplicates.

    They are for the host of the image: a runtime does not send them to a mirror.
    """
    ordered = sorted(entries, key=lambda entry: entry.location, reverse=True)
    fitting = [entry for entry in ordered if location_matches(entry.location, image.name)]
    if not fitting and image.host == DOCKER_HUB:
        fitting = [entry for entry in ordered if entry.location == _DOCKER_HUB_KEY]
    found = (Credentials(image.host, entry.username, entry.password, entry.identity_token) for entry in fitting)
    return list(dict.fromkeys(found))


def location_matches(location: str, name: str) -> bool:
    """Whether an image, by host and repository, is below a location.

    Hosts have the same number of labels, in which `*` stands for any characters, and the same port. The path is
    compared by characters: `host/team` matches `host/team-b/web` too.
    """
    host, slash, path = location.partition("/")
    image_host, _, repository = name.partition("/")
    labels, port = _split_host(host)
    image_labels, image_port = _split_host(image_host)
    return (
        port == image_port
        and len(labels) == len(image_labels)
        and f"/{repository}".startswith(slash + path)
        and all(_label_matches(*pair) for pair in zip(labels, image_labels, strict=True))
    )


def is_sendable(text: str) -> bool:
    """Whether a runtime can be sent `text`: JSON may hold half a surrogate pair, which is not UTF-8."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _split_host(host: str) -> tuple[list[str], str]:
    """The labels and the port, which may be empty."""
    match = re.fullmatch(r"(\[.*\]|[^:]*)(?::(\d*))?", host)
    return (match[1].split("."), match[2] or "") if match else (host.split("."), "")


def _label_matches(pattern: str, label: str) -> bool:
    # Not a regular expression: several stars would take exponential time.
    first, *others = pattern.split("*")
    if not others:
        return label == first
    if not label.startswith(first):
        return False
    at = len(first)
    for part in others[:-1]:
        at = label.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return len(label) - at >= len(others[-1]) and label.endswith(others[-1])


def _entry(location: str, value: Any) -> Entry:
    if not location or not isinstance(value, Mapping):
        raise NotCredentials("not an object of credentials under the name of a registry")
    texts = {name: value.get(name) or "" for name in ("auth", "username", "password", "identitytoken")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise NotCredentials("a field is not a string")
    if not all(is_sendable(text) for text in texts.values()):
        raise NotCredentials("a field is no valid Unicode")
    if texts["identitytoken"]:
        return Entry(location, identity_token=texts["identitytoken"])
    username, password = _decoded(texts["auth"]) if texts["auth"] else (texts["username"], texts["password"])
    if not username:
        raise NotCredentials("no user name and no identity token")
    return Entry(location, username, password)


def _decoded(auth: str) -> tuple[str, str]:
    """User name and password in the base64 of both, which may lack its padding."""
    text = "".join(auth.split()).rstrip("=")
    try:
        pair = base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except ValueError:
        pair = ""
    username, colon, password = pair.partition(":")
    if not colon:
        raise NotCredentials("auth is not the base64 of user:password")
    return username, password
