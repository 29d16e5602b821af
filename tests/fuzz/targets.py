"""Define what is fuzzed, from which inputs, and the bug that is planted so that the fuzzer proves itself.

Every input but that of `text` looks like a request: a first line that says where it goes, headers, an empty line, a
body. What is fuzzed is imported when a target is built, because it has to be instrumented while it is.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib
import json
import tomllib
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

__all__ = ["TARGETS", "Run", "Target", "read_request"]

Run = Callable[[bytes], None]
"""Feeds one input; an exception is a finding."""

_CASES: Final = Path(__file__).parents[1] / "data" / "registries"
_NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
_EVENT: Final = {"specversion": "1.0", "id": "1", "source": "/s", "time": "2026-03-01T12:00:00Z"}
_TEXTS: Final = {
    "reference": ["registry.example.com:5000/shop/web:1.4@sha256:" + "a1" * 32, "nginx", "localhost/a/b"],
    "glob": ["harbor.example.com/shop/**\nharbor.example.com/shop/a/b", "v[!0-9]*\nvx1", "[a-c]?\nbd"],
    "semver": [">=1.2 <3 || ~4.1, !=4.1.7\nv4.1.9-rc.1+build", "^0.2.3\n0.2.9", "=1\n1.0.0"],
    "selector": [
        '{"matchLabels": {"pool": "web"}, "matchExpressions": [{"key": "a/b", "operator": "In", "values": ["1"]}]}',
        '{"matchExpressions": [{"key": "n", "operator": "Gt", "values": ["3"]}, {"key": "x", "operator": "Exists"}]}',
    ],
    "line": [
        '{"i":"nginx:1","p":"2026-03-01T12:00:00Z","w":"shop/nginx-0123456789"}',
        '{"d":"sha256:1","i":"a","w":"a/b"}',
    ],
    "report": [
        '{"labels": {"line.warmhook.dev/0123456789abcdef": "failed-01234567"}, "annotations": {}}',
        '{"annotations": {"warmhook.dev/warm": "01234567 89abcdef", "warmhook.dev/seen": "2026-03-01T12:00:00Z"}}',
    ],
    "detail": ['{"reason": "NotFound", "message": "no such image", "attempts": 3}', '{"moved": "sha256:1"}'],
    "secret": [
        '{"auths": {"https://registry.example.com/v2/": {"auth": "dTpw"}, "*.example.com": {"identitytoken": "t"}}}',
        '{"auths": {"registry.example.com/shop": {"username": "u", "password": "p"}}}',
    ],
    "provider": [
        (
            '{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", '
            '"cacheKeyType": "Image", "cacheDuration": "1h2m", "auth": {"a": {"username": "u", "password": "p"}}}'
        ),
        (
            '{"kind": "CredentialProviderConfig", "apiVersion": "kubelet.config.k8s.io/v1", "providers": [{'
            '"name": "p", "matchImages": ["a"], "defaultCacheDuration": "0s", "apiVersion": '
            '"credentialprovider.kubelet.k8s.io/v1", "args": ["x"], "env": [{"name": "N", "value": "v"}], '
            '"tokenAttributes": {"requireServiceAccount": false}}]}'
        ),
    ],
    "time": ["2026-03-01T12:00:00.123456789+14:00"],
}


@dataclass(frozen=True, slots=True)
class Target:
    """One fuzzer."""

    packages: tuple[str, ...]
    """What is instrumented."""
    covered: tuple[str, ...]
    """Folders and files whose coverage is told."""
    seeds: Callable[[], list[bytes]]
    build: Callable[[], Run]
    plant: Callable[[], None]
    """Put a bug into what `build` imported."""


def read_request(data: bytes) -> tuple[str, dict[str, str], bytes]:
    """First line, headers and body of an input."""
    head, _, body = data.partition(b"\n\n")
    first, *rest = head.decode("latin-1").split("\n")
    pairs = (line.partition(":") for line in rest[:50])
    return first, {name.strip().lower(): value.strip() for name, _, value in pairs if name.strip()}, body


def _written(first: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers.items())]
    return "\n".join(lines).encode("latin-1", "replace") + b"\n\n" + body


def _deliveries() -> list[tuple[str, dict[str, Any]]]:
    """Kind and case of every delivery written down for the tests of the adapters."""
    found = []
    for path in sorted(_CASES.glob("*.toml")):
        content = tomllib.loads(path.read_text())
        shared = {name: value for name, value in content.items() if name != "case"}
        found += [(path.stem, {**shared, **case}) for case in content["case"] if case.get("body")]
    return found


def _planted(module: str, name: str, hit: Callable[..., bool]) -> Callable[[], None]:
    """A bug in a function of a module: it fails when `hit` holds of its arguments."""

    def plant() -> None:
        place = importlib.import_module(module)
        real = getattr(place, name)

        def planted(*arguments: Any, **named: Any) -> Any:
            if hit(*arguments):
                raise IndexError("planted")
            return real(*arguments, **named)

        setattr(place, name, planted)

    return plant


# --- adapters --------------------------------------------------------------------------------------------------------


def _adapter_seeds() -> list[bytes]:
    from tests.fuzz.tokens import signed_token

    signed = {"authorization": f"Bearer {signed_token(_NOW)}"}
    return [
        _written("gar", signed, b"{}"),
        *(_written(kind, case.get("headers", {}), case["body"].encode()) for kind, case in _deliveries()),
    ]


def _build_adapters() -> Run:
    from adapters.registries import Delivery, Reply, Source, find_adapters
    from tests.fuzz.tokens import key_set
    from warmhook.events import SKIP_REASONS, Pushed, Skip, pushed_event, read_pushed
    from warmhook.images import parse_reference

    adapters = find_adapters()
    kinds = sorted(adapters)
    options: dict[str, dict[str, Any]] = {
        "artifactory": {"auth": "hmac", "repoKeyInPath": False},
        "chainguard": {"group": "b"},
        "cloudevents": {"types": ["com.example.pushed"]},
        "gar": {"audience": "a", "email": "b"},
        "nexus": {"hosts": {"docker-hosted": "nexus.example.com"}},
    }
    sources = {
        kind: [
            Source("s", secrets=(b"s3cret", b"other")),
            Source("s", registry_host="a.example", options=adapter.read_options(options.get(kind, {})), keys=key_set()),
        ]
        for kind, adapter in adapters.items()
    }
    loop = asyncio.new_event_loop()

    def run(data: bytes) -> None:
        first, headers, body = read_request(data)
        kind, _, query = first.partition("?")
        adapter = adapters.get(kind) or adapters[kinds[len(first) % len(kinds)]]
        delivery = Delivery(body, _NOW, headers, {"token": query, "access_token": query})
        for source in sources[adapter.kind]:
            loop.run_until_complete(adapter.verify(delivery, source))
            outcomes = adapter.parse(delivery, source)
            assert outcomes
            for outcome in outcomes:
                if isinstance(outcome, Pushed):
                    assert parse_reference(str(outcome.image)) == outcome.image
                    assert read_pushed(pushed_event("s", outcome, _NOW))[1].image == outcome.image
                elif isinstance(outcome, Skip):
                    assert outcome.reason in SKIP_REASONS
                    assert len(outcome.detail) <= 200
                    assert outcome.detail.isprintable()
                else:
                    assert isinstance(outcome, Reply)
                    json.loads(outcome.body)

    weakref.finalize(run, loop.close)
    return run


# --- CloudEvents -----------------------------------------------------------------------------------------------------


def _event_seeds() -> list[bytes]:
    web = {"kind": "WarmImage", "namespace": "shop", "name": "web", "deleted": True, "resourceVersion": "7"}
    changed = {"objects": [web, {"kind": "Node", "name": "a"}]}
    data: dict[str, dict[str, Any]] = {
        "dev.warmhook.image.pushed.v1": {
            "image": "a.example/b:1",
            "pushedAt": "2026-03-01T12:00:00Z",
            "source": "harbor",
        },
        "dev.warmhook.objects.changed.v1": changed,
        "dev.warmhook.report.changed.v1": {"warmimages": ["shop/web", "shop/db"]},
        "dev.warmhook.sync.v1": {},
        "dev.knative.sources.ping": {},
    }
    events = [{**_EVENT, "type": kind, "subject": "x", "data": given} for kind, given in data.items()]
    structured = {"content-type": "application/cloudevents+json"}
    seeds = [_written("POST /events", structured, json.dumps(event).encode()) for event in events]
    batch = {"content-type": "application/cloudevents-batch+json"}
    seeds.append(_written("POST /events", batch, json.dumps(events).encode()))
    binary = {f"ce-{name}": str(value) for name, value in events[1].items() if name != "data"}
    seeds.append(_written("POST /events", binary | {"content-type": "application/json"}, json.dumps(changed).encode()))
    encoded = events[1] | {"data": None, "data_base64": "e30=", "source": "/b%C3%BCild"}
    return [*seeds, _written("POST /events", structured, json.dumps(encoded).encode())]


def _build_events() -> Run:
    from adapters.cloudevents import STRUCTURED, read_event, write_event
    from warmhook.events import Event, NotAnEvent, read_change, read_changed, read_pushed, read_reported

    def run(data: bytes) -> None:
        _first, headers, body = read_request(data)
        with suppress(NotAnEvent):
            event = read_event(headers, body, _NOW)
            assert isinstance(event, Event)
            assert event.id
            assert event.time.tzinfo is not None
            again = read_event({"content-type": STRUCTURED}, write_event(event), _NOW)
            assert again.id == event.id
            for read in (read_pushed, read_reported):
                with suppress(NotAnEvent):
                    read(event)
            with suppress(NotAnEvent):
                for named in read_changed(event):
                    read_change(named)

    return run


# --- texts that people and nodes write -------------------------------------------------------------------------------


def _text_seeds() -> list[bytes]:
    return [f"{kind}\n\n{text}".encode() for kind, texts in _TEXTS.items() for text in texts]


def _build_text() -> Run:
    from tests.fuzz.texts import run

    return run


# --- endpoints -------------------------------------------------------------------------------------------------------


def _endpoint_seeds() -> list[bytes]:
    seeds = [
        _written(f"POST /webhooks/{kind}", case.get("headers", {}), case["body"].encode())
        for kind, case in _deliveries()
    ]
    zipped = gzip.compress(b'{"image": "a.example/b:1"}', mtime=0)
    seeds.append(_written("POST /webhooks/webhook", {"content-encoding": "gzip"}, zipped))
    handshake = {"webhook-request-origin": "eventgrid.azure.net", "webhook-request-rate": "10"}
    seeds += [_written("OPTIONS /webhooks/acr", handshake, b""), _written("POST /webhooks/guarded?token=x", {}, b"{}")]
    seeds += [_written(f"GET {path}", {}, b"") for path in ("/healthz", "/readyz", "/metrics", "/nowhere")]
    pod = {"kind": "Pod", "spec": {"containers": [{"image": "nginx"}]}, "metadata": {"name": "a"}}
    review = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "1", "operation": "CREATE", "namespace": "shop", "object": pod},
    }
    letter = {"ce-type": "t", "ce-knativeerrorcode": "503", "ce-knativeerrordata": "c29tZSB0ZXh0"}
    letter["ce-knativeerrordest"] = "http://user:pass@a.example:80/in?access_token=x"
    seeds.append(_written("POST /dead-letters", letter, b"{}"))
    seeds.append(
        _written("POST /admission/pods/token", {"content-type": "application/json"}, json.dumps(review).encode())
    )
    return seeds + _event_seeds()


def _build_endpoints() -> Run:
    from tests.fuzz.endpoints import build

    return build()


TARGETS: Final = {
    "adapters": Target(
        ("adapters.registries", "adapters.cloudevents", "adapters.strictjson", "warmhook"),
        ("adapters/registries",),
        _adapter_seeds,
        _build_adapters,
        _planted("adapters.registries.common.images", "from_event", lambda _host, _name, tag, _digest: ";" in tag),
    ),
    "events": Target(
        ("adapters.cloudevents", "adapters.strictjson", "warmhook", "cloudevents"),
        ("adapters/cloudevents.py",),
        _event_seeds,
        _build_events,
        _planted("adapters.cloudevents", "_time", lambda value: isinstance(value, str) and not value.isascii()),
    ),
    "text": Target(
        ("warmhook",),
        tuple(
            f"warmhook/{name}.py"
            for name in ("globs", "images", "labels", "node_lines", "node_report", "semver", "timestamps")
        ),
        _text_seeds,
        _build_text,
        _planted("warmhook.globs", "_set_end", lambda pattern, _start: "]]" in pattern),
    ),
    "endpoints": Target(
        ("handlers", "adapters.registries", "adapters.cloudevents", "warmhook"),
        (
            "handlers/app.py",
            "handlers/intake",
            "handlers/reconcile/dead_letters.py",
            "handlers/reconcile/dispatch.py",
            "handlers/serving/bodies.py",
        ),
        _endpoint_seeds,
        _build_endpoints,
        _planted("handlers.intake.receiver", "pushed_id", lambda _source, pushed, _received: "_" in pushed.image.tag),
    ),
}
