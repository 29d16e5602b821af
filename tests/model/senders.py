"""Simulate three kinds of registries: their deliveries for a push, and their repeats."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping
from typing import Final

from handlers.configuration import Configuration, read_configuration
from tests.model.history import HOST, LIMITS, Push
from warmhook.ports import Json

__all__ = ["SECRET", "SOURCES", "attempts_of", "configuration", "request_of"]

SECRET: Final = "s3cret"
SOURCES: Final = ("distribution", "harbor", "events")
_KINDS: Final = {"distribution": "distribution", "harbor": "harbor", "events": "cloudevents"}


@functools.cache
def configuration() -> Configuration:
    """The file that names the three."""
    sources = [
        {"name": name, "kind": kind, "secret": {"env": "SECRET"}, "registryHost": HOST} for name, kind in _KINDS.items()
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        namespaces = [{"names": [glob], **limits.fields()} for glob, limits in LIMITS.items()]
        json.dump({"sources": sources, "namespaces": namespaces}, file)  # JSON is YAML
        file.flush()
        return read_configuration(file.name, {"SECRET": SECRET})


def attempts_of(source: str) -> int:
    """Distribution never gives up, Harbor does after three attempts."""
    return 3 if source == "harbor" else 1_000


def request_of(push: Push) -> tuple[Mapping[str, str], bytes]:
    """Headers and body of the delivery."""
    body = {"distribution": _distribution, "harbor": _harbor, "events": _cloudevent}[push.source](push)
    kind = "application/cloudevents+json" if push.source == "events" else "application/json"
    return {"authorization": SECRET, "content-type": kind}, json.dumps(body).encode()


def _distribution(push: Push) -> Json:
    assert push.time is not None
    target = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "repository": push.image.repository.partition("/")[2],
        "digest": push.digest,
    }
    if ":" not in push.image.tag:
        target["tag"] = push.image.tag
    event = {"id": f"event-{push.number}", "action": "push", "timestamp": push.time.isoformat(), "target": target}
    return {"events": [event]}


def _harbor(push: Push) -> Json:
    assert push.time is not None
    repository = push.image.repository.partition("/")[2]
    # Harbor names the digest as the tag where there is none.
    resource = {"digest": push.digest, "tag": push.image.tag, "resource_url": str(push.image)}
    return {
        "type": "PUSH_ARTIFACT",
        "occur_at": int(push.time.timestamp()),
        "operator": "admin",
        "event_data": {"resources": [resource], "repository": {"repo_full_name": repository}},
    }


def _cloudevent(push: Push) -> Json:
    """One that says neither when nor, always, what."""
    data = {"image": str(push.image), "digest": push.digest} if push.digest else {"image": str(push.image)}
    attributes = {"specversion": "1.0", "id": f"e{push.number}", "source": "/ci", "type": "com.example.pushed"}
    return attributes | {"data": data}
