"""Read pushes from GitHub Container Registry: webhooks for `package` or `registry_package`, also of Enterprise Server.

Source of the format: https://docs.github.com/webhooks/webhook-events-and-payloads#package; bodies are JSON or a form.
Authentication: `X-Hub-Signature-256`, HMAC-SHA256 of the body as sent. The older SHA-1 header is ignored.
Host: from `package_url`, else ghcr.io; GitHub Enterprise Server then needs `registryHost`.
Told apart: repeats by the ids of package and version, which are the same in both events and in a redelivery; order by
the version's time; charts, signatures and attestations by the media types of configuration and layers. Each manifest is
an event; children of an index have no tag. Four fields name the kind of package and contradict each other, also in
GitHub's samples; `container_metadata` decides. GitHub does not repeat a delivery.
"""

from __future__ import annotations

from typing import Final

from adapters.registries import Adapter, Delivery, Outcome, Source
from adapters.registries.common.auth import verify_hmac
from adapters.registries.common.bodies import Fields, Text, quoted, read_fields, read_payload, read_time
from adapters.registries.common.images import LooseReference, pushed, split_reference
from warmhook.events import Skip
from warmhook.images import is_digest
from warmhook.ports import Json

_HOST: Final = "ghcr.io"
_EVENTS: Final = ("package", "registry_package")
# `create` and `created` are older spellings.
_PUSHES: Final = frozenset({"published", "updated", "create", "created"})
_CONTAINER: Final = frozenset({"container", "docker"})


class _Descriptor(Fields):
    media_type: Text = ""


class _Manifest(Fields):
    digest: Text = ""
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None


class _Tag(Fields):
    name: Text = ""
    digest: Text = ""


class _ContainerMetadata(Fields):
    tag: _Tag | None = None
    manifest: _Manifest | None = None


class _Version(Fields):
    id: int = 0
    version: Text = ""
    name: Text = ""
    package_url: Text = ""
    created_at: Json = None
    updated_at: Json = None
    container_metadata: _ContainerMetadata | None = None


class _Owner(Fields):
    login: Text = ""


class _Registry(Fields):
    type: Text = ""


class _Package(Fields):
    id: int = 0
    name: Text = ""
    namespace: Text = ""
    ecosystem: Text = ""
    package_type: Text = ""
    owner: _Owner = _Owner()
    registry: _Registry | None = None
    package_version: _Version | None = None


class _Event(Fields):
    action: Text = ""
    package: Json = None
    registry_package: Json = None


def _read(delivery: Delivery, source: Source) -> Outcome:
    body = read_payload(delivery)
    name = delivery.headers.get("x-github-event", "")
    if name == "ping" or (not name and isinstance(body, dict) and "zen" in body and "hook_id" in body):
        return Skip("ping")
    event = read_fields(_Event, body)
    package = event.package or event.registry_package
    if (name and name not in _EVENTS) or package is None:
        return Skip("unknown-event", quoted(name or "neither package nor registry_package"))
    if event.action not in _PUSHES:
        return Skip("not-a-push", f"action {quoted(event.action)}")
    return _push(read_fields(_Package, package), delivery, source)


def _push(package: _Package, delivery: Delivery, source: Source) -> Outcome:
    version = package.package_version or _Version()
    container = version.container_metadata
    digest = version.version or version.name
    if container is None and not (_is_container(package) and is_digest(digest)):
        return Skip("not-a-container", f"package type {quoted(package.package_type)}")
    manifest = container.manifest if container else None
    tag = container.tag if container else None
    if not is_digest(digest):
        digest = (manifest.digest if manifest else "") or (tag.digest if tag else "")
    image = split_reference(version.package_url)
    if not image.repository:
        enterprise = "x-github-enterprise-host" in delivery.headers
        owner = package.owner.login or package.namespace.partition("/")[0]
        image = LooseReference("" if enterprise else _HOST, f"{owner}/{package.name}", image.tag)
    ids = (package.id, version.id)
    media_types = [part.media_type for part in ((manifest.layers or []) if manifest else [])]
    if manifest and manifest.config:
        media_types.append(manifest.config.media_type)
    return pushed(
        source,
        image._replace(tag=tag.name if tag else image.tag, digest=digest),
        pushed_at=read_time(version.updated_at) or read_time(version.created_at),
        delivery_id="/".join(map(str, ids)) if all(ids) else delivery.headers.get("x-github-delivery", ""),
        media_types=media_types,
    )


def _is_container(package: _Package) -> bool:
    types = (package.package_type, package.ecosystem, package.registry.type if package.registry else "")
    return any(name.lower() in _CONTAINER for name in types)


ADAPTER = Adapter(
    __name__,
    authenticate=lambda delivery, source: verify_hmac(delivery, source, "x-hub-signature-256", prefix="sha256="),
    read=_read,
    ack_timeout_seconds=8.0,  # of 10; no retry except by hand
)
