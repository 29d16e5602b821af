"""Read pushes from Sonatype Nexus Repository: the webhook capability "Repository" with the event type component.

Source of the format: https://help.sonatype.com/en/example-headers-and-payloads.html.
Authentication: `X-Nexus-Webhook-Signature`, HMAC-SHA1 of the body as sent. Nexus has no stronger signature, so restrict
access to the receiver as well.
Host: the payload names a repository but no host, because each repository has its own port or name. The option `hosts`
maps `repositoryName` to a host; `registryHost` is the host of all others.
Told apart: images by `format`, order by `timestamp`, repeats by `X-Nexus-Webhook-Delivery`. There is no digest. Not
told apart: charts and signatures, except by cosign's tags. Events about assets repeat those about components and are
skipped. Nexus does not repeat a delivery.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from adapters.registries import Adapter, Delivery, Outcome, Source, SourceOptions
from adapters.registries.common.auth import verify_hmac
from adapters.registries.common.bodies import Fields, Text, quoted, read_fields, read_json, read_time
from adapters.registries.common.images import LooseReference, pushed
from warmhook.events import Skip
from warmhook.ports import Json


class Options(SourceOptions):
    hosts: dict[str, str] = Field(default_factory=dict)
    """Registry host by `repositoryName`."""


class _Component(Fields):
    format: str
    name: str
    version: Text = ""


class _Event(Fields):
    timestamp: Json = None
    repositoryName: Text = ""  # noqa: N815 - the sender's name
    action: str
    component: _Component


def _read(delivery: Delivery, source: Source) -> Outcome:
    body = read_json(delivery.body)
    if isinstance(body, dict) and "component" not in body:
        return Skip("not-a-push" if "asset" in body else "unknown-event", "no component")
    event = read_fields(_Event, body)
    if event.component.format != "docker":
        return Skip("not-a-container", f"format {quoted(event.component.format)}")
    if event.action not in ("CREATED", "UPDATED"):
        return Skip("not-a-push" if event.action == "DELETED" else "unknown-event", f"action {quoted(event.action)}")
    hosts = source.options_as(Options).hosts
    return pushed(
        replace(source, registry_host=hosts.get(event.repositoryName, source.registry_host)),
        LooseReference("", event.component.name, event.component.version),
        pushed_at=read_time(event.timestamp),
        delivery_id=delivery.headers.get("x-nexus-webhook-delivery", ""),
    )


ADAPTER = Adapter(
    __name__,
    authenticate=lambda delivery, source: verify_hmac(delivery, source, "x-nexus-webhook-signature", algorithm="sha1"),
    read=_read,
    options=Options,
    fixed_hosts=lambda source: source.options_as(Options).hosts.values(),
    ack_timeout_seconds=4.0,  # its timeout is not documented; no retry
)
