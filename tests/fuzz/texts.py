"""Check that every text is read, or refused in the way that is documented."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from warmhook.credential_providers import BadAnswer, BadProviders, Provider, read_answer, read_providers
from warmhook.globs import Globs
from warmhook.images import NotAReference, parse_reference
from warmhook.labels import NotASelector, parse_selector
from warmhook.node_lines import NotALine, read_line
from warmhook.node_report import clean_message, read_detail, read_report
from warmhook.registry_credentials import NotCredentials, fitting_credentials, read_secret
from warmhook.semver import NotARange, parse_range, parse_version
from warmhook.timestamps import format_time, parse_time

__all__ = ["run"]


def _reference(text: str) -> None:
    with suppress(NotAReference):
        found = parse_reference(text)
        assert parse_reference(str(found)) == found


def _glob(text: str) -> None:
    pattern, _, name = text.partition("\n")
    # As long as the CRD allows; a pattern that takes long is a finding.
    Globs([pattern[:512]]).matching(name[:512])


def _semver(text: str) -> None:
    wanted, _, tag = text.partition("\n")
    version = parse_version(tag)
    with suppress(NotARange):
        found = parse_range(wanted)
        assert version is not None or not found.matches(tag)
        assert parse_range(str(found)) == found


def _selector(text: str) -> None:
    value = _json(text)
    with suppress(NotASelector):
        if isinstance(value, dict):
            assert parse_selector(value).matches({"pool": "web", "n": "4"}) in (True, False)


def _line(text: str) -> None:
    with suppress(NotALine):
        read_line("0123456789abcdef", text)


def _report(text: str) -> None:
    value = _json(text)
    if isinstance(value, dict):
        # The API server sees to it that labels and annotations are texts.
        given = {part: value[part] for part in ("labels", "annotations") if isinstance(value.get(part), dict)}
        read_report({part: {str(key): str(one) for key, one in pairs.items()} for part, pairs in given.items()})


def _detail(text: str) -> None:
    _reason, message = read_detail(text)
    assert clean_message(message) == message
    assert message.isprintable()


def _secret(text: str) -> None:
    data = {".dockerconfigjson": base64.b64encode(text.encode()).decode()}
    with suppress(NotCredentials):
        content = read_secret({"type": "kubernetes.io/dockerconfigjson", "data": data})
        found = fitting_credentials(content.entries, parse_reference("registry.example.com/shop/web:1"))
        assert {each.server_address for each in found} <= {"registry.example.com"}


def _provider(text: str) -> None:
    provider = Provider("p", ("registry.example.com",), "credentialprovider.kubelet.k8s.io/v1", 60.0)
    with suppress(BadAnswer):
        assert read_answer(provider, text.encode()).cache_seconds >= 0
    with suppress(BadProviders):
        assert read_providers({"config": _json(text)})


def _time(text: str) -> None:
    with suppress(ValueError):
        moment = parse_time(text)
        assert parse_time(format_time(moment)) == moment


_PARSERS: Final[dict[str, Callable[[str], None]]] = {
    "reference": _reference,
    "glob": _glob,
    "semver": _semver,
    "selector": _selector,
    "line": _line,
    "report": _report,
    "detail": _detail,
    "secret": _secret,
    "provider": _provider,
    "time": _time,
}


def run(data: bytes) -> None:
    """The first line names the parser, what follows the empty line is its text; otherwise all get it."""
    kind, _, text = data.decode("utf-8", "replace").partition("\n\n")
    for parser in (_PARSERS[kind],) if kind in _PARSERS else _PARSERS.values():
        parser(text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
