"""Read the configuration of the kubelet's credential providers, and what such a provider answers.

The formats: https://kubernetes.io/docs/reference/config-api/kubelet-config.v1/#kubelet-config-k8s-io-v1-CredentialProviderConfig
and https://kubernetes.io/docs/reference/config-api/kubelet-credentialprovider.v1/. How the kubelet reads them:
https://github.com/kubernetes/kubernetes/tree/v1.35.0/pkg/credentialprovider/plugin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from warmhook.images import Reference
from warmhook.ports import Json
from warmhook.registry_credentials import Entry, is_sendable, location_matches, location_of

CacheKeyType: TypeAlias = Literal["Image", "Registry", "Global"]

# The three versions have the fields that are read here in common.
_VERSIONS: Final = ("v1", "v1beta1", "v1alpha1")
_CONFIGS: Final = tuple(f"kubelet.config.k8s.io/{version}" for version in _VERSIONS)
_PROTOCOLS: Final = tuple(f"credentialprovider.kubelet.k8s.io/{version}" for version in _VERSIONS)
_NAME: Final = re.compile(r"(?!\.{1,2}\Z)[^/\s\0]{1,255}")
# Durations of Go: https://pkg.go.dev/time#ParseDuration
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)")
_PROVIDERS_MAX: Final = 64
_QUOTED: Final = 100


class BadProviders(ValueError):
    """A configuration that a kubelet would refuse; the message names the field."""


class BadAnswer(ValueError):
    """An answer that cannot be used; the message quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A program that knows the credentials of registries."""

    name: str
    """Of the program, in the folder of programs."""
    match_images: tuple[str, ...]
    """Locations; see `location_matches`."""
    api_version: str
    """Of the request and the answer."""
    default_cache_seconds: float
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    needs_token: bool = False
    """Whether it works only with the token of a Pod's ServiceAccount, which an agent does not have."""

    def fits(self, image: Reference) -> bool:
        """Whether the provider is for this image."""
        return any(location_matches(location, image.name) for location in self.match_images)


@dataclass(frozen=True, slots=True)
class Answer:
    """The credentials that a provider has for an image."""

    entries: tuple[Entry, ...]
    key_type: CacheKeyType
    """What the answer is for: this repository, its registry, or every image of the provider."""
    cache_seconds: float
    """How long it holds; 0: for one pull."""


def read_providers(documents: Mapping[str, Json]) -> tuple[Provider, ...]:
    """The providers of one or more `CredentialProviderConfig`, by the path of the file. Raises `BadProviders`."""
    providers: dict[str, Provider] = {}
    for path, document in documents.items():
        config = _object(document, path)
        if config.get("kind") != "CredentialProviderConfig" or config.get("apiVersion") not in _CONFIGS:
            raise BadProviders(f"{path} is no CredentialProviderConfig of {_CONFIGS[0]}")
        for number, value in enumerate(_list(config.get("providers"), f"{path}: providers")):
            provider = _provider(_object(value, f"{path}: providers[{number}]"), f"{path}: providers[{number}]")
            if provider.name in providers:
                raise BadProviders(f"{path}: the provider {provider.name!r} is given twice")
            providers[provider.name] = provider
    if not 0 < len(providers) <= _PROVIDERS_MAX:
        raise BadProviders(f"{', '.join(documents)}: from 1 to {_PROVIDERS_MAX} providers are needed")
    return tuple(providers.values())


def request_for(provider: Provider, image: Reference) -> bytes:
    """The request that the provider reads from its standard input: as from a kubelet, without tag and digest."""
    request = {"kind": "CredentialProviderRequest", "apiVersion": provider.api_version, "image": image.name}
    return json.dumps(request).encode()


def cache_keys(provider: Provider, image: Reference) -> dict[CacheKeyType, tuple[str, ...]]:
    """Under which key an answer of each type is kept; the most specific first."""
    return {"Image": (provider.name, image.name), "Registry": (provider.name, image.host), "Global": (provider.name,)}


def read_answer(provider: Provider, output: bytes) -> Answer:
    """What a provider wrote to its standard output. Raises `BadAnswer`."""
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        raise BadAnswer("its output is no JSON") from None
    if not isinstance(answer, dict) or answer.get("kind") != "CredentialProviderResponse":
        raise BadAnswer("its output is no CredentialProviderResponse")
    if answer.get("apiVersion") != provider.api_version:
        raise BadAnswer(f"the apiVersion of its answer is not {provider.api_version}, as in its configuration")
    key_type = answer.get("cacheKeyType")
    if key_type not in get_args(CacheKeyType):
        raise BadAnswer(f"cacheKeyType is not one of {', '.join(get_args(CacheKeyType))}")
    given = answer.get("cacheDuration")
    seconds = provider.default_cache_seconds if given is None else _seconds(given)
    if seconds is None:
        raise BadAnswer("cacheDuration is no duration such as 12h")
    auth = answer.get("auth")
    if not isinstance(auth, dict | None):
        raise BadAnswer("auth is no object of credentials by registry")
    entries = tuple(_entry(location_of(written), value) for written, value in (auth or {}).items())
    return Answer(entries, cast("CacheKeyType", key_type), seconds)


def _entry(location: str, value: Any) -> Entry:
    username, password = (value.get("username"), value.get("password")) if isinstance(value, dict) else (None, None)
    if not all(isinstance(text, str) and is_sendable(text) for text in (username, password)):
        raise BadAnswer("auth has an entry without username and password")
    return Entry(location, str(username), str(password))


def _provider(value: Mapping[str, Any], where: str) -> Provider:
    name, version = value.get("name"), value.get("apiVersion")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadProviders(f"{where}.name must be the file name of a program, not {str(name)[:_QUOTED]!r}")
    if version not in _PROTOCOLS:
        raise BadProviders(f"{where}.apiVersion must be {_PROTOCOLS[0]}, not {str(version)[:_QUOTED]!r}")
    matches = _strings(value.get("matchImages"), f"{where}.matchImages")
    if not matches:
        raise BadProviders(f"{where}.matchImages needs a registry, such as *.dkr.ecr.*.amazonaws.com")
    seconds = _seconds(value.get("defaultCacheDuration"))
    if seconds is None:
        raise BadProviders(f"{where}.defaultCacheDuration must be a duration such as 12h, or 0s")
    env = [_object(each, f"{where}.env") for each in _list(value.get("env"), f"{where}.env")]
    pairs = [_strings([each.get("name"), each.get("value", "")], f"{where}.env") for each in env]
    token = value.get("tokenAttributes")
    return Provider(
        name,
        matches,
        version,
        seconds,
        _strings(value.get("args"), f"{where}.args"),
        tuple((name, value) for name, value in pairs),
        needs_token=token is not None
        and _object(token, f"{where}.tokenAttributes").get("requireServiceAccount") is not False,
    )


def _seconds(value: Json) -> float | None:
    """The seconds of a duration such as `1h30m`; `None` if it is none, or is negative."""
    if value in ("0", "+0"):
        return 0.0
    text = value.removeprefix("+") if isinstance(value, str) else ""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _object(value: Json, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadProviders(f"{where} must be an object")
    return value


def _list(value: Json, where: str) -> list[Any]:
    if not isinstance(value, list | None):
        raise BadProviders(f"{where} must be a list")
    return value or []


def _strings(value: Json, where: str) -> tuple[str, ...]:
    strings = _list(value, where)
    if not all(isinstance(each, str) and "\0" not in each for each in strings):
        raise BadProviders(f"{where} must hold strings")
    return tuple(strings)
