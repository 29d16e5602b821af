"""Read pushes from any sender of CDEvents: `dev.cdevents.artifact.published.*`, as a CloudEvent or bare.

Source of the format: https://github.com/cdevents/spec/blob/main/continuous-integration.md and, for the package URL in
`subject.id`, https://github.com/package-url/purl-spec (types oci and docker).
Authentication: `Authorization`, or `?access_token=<secret>` as in the CloudEvents webhook specification.
Host: `repository_url` of the package URL; type docker without one means Docker Hub.
Told apart: images by the type of the package URL, repeats by the event's id, order by its time. Type oci has the
digest, and the tag as a qualifier only. Not told apart: charts and signatures, except by cosign's tags.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, unquote

from adapters.registries import Adapter, Delivery, Outcome, Source
from adapters.registries.common.auth import verify_access_token
from adapters.registries.common.bodies import Fields, Text, quoted, read_fields, read_json, read_time
from adapters.registries.common.cloudevents import find_cloudevent
from adapters.registries.common.delivery import Unreadable
from adapters.registries.common.images import LooseReference, host_of, pushed
from warmhook.events import Skip
from warmhook.images import DOCKER_HUB

_PUBLISHED: Final = "dev.cdevents.artifact.published."
_ARTIFACT: Final = "dev.cdevents.artifact."
_PURL: Final = "pkg:"


class _Context(Fields):
    id: Text = ""
    type: str
    timestamp: Text = ""


class _Subject(Fields):
    id: str


class _Event(Fields):
    context: _Context
    subject: _Subject


def _read(delivery: Delivery, source: Source) -> Outcome:
    body = read_json(delivery.body)
    envelope = find_cloudevent(delivery, body)
    if envelope is not None:
        body = envelope.get_data()
    if isinstance(body, dict) and "context" not in body:
        return Skip("unknown-event", "no CDEvent")
    event = read_fields(_Event, body)
    kind = event.context.type
    if not kind.startswith(_PUBLISHED):
        return Skip("not-a-push" if kind.startswith(_ARTIFACT) else "unknown-event", quoted(kind))
    return _published(event.subject.id, event.context, source)


def _published(purl: str, context: _Context, source: Source) -> Outcome:
    path, _, query = purl.partition("#")[0].partition("?")
    kind, _, name = path.removeprefix(_PURL).lstrip("/").partition("/")
    if not path.startswith(_PURL) or kind.lower() not in ("oci", "docker"):
        return Skip("not-a-container", f"package {quoted(path)}")
    name, _, version = name.rpartition("@") if "@" in name else (name, "", "")
    name, version = unquote(name), unquote(version)
    try:
        qualifiers = parse_qs(query, max_num_fields=32)
    except ValueError:
        raise Unreadable("subject.id: the package URL's qualifiers cannot be read") from None
    tag = qualifiers.get("tag", [""])[0] or ("" if ":" in version else version)
    host, repository = _place(qualifiers.get("repository_url", [""])[0], kind.lower(), name)
    image = LooseReference(host, repository, tag, digest=version if ":" in version else "")
    return pushed(source, image, pushed_at=read_time(context.timestamp), delivery_id=context.id)


def _place(repository_url: str, kind: str, name: str) -> tuple[str, str]:
    """Host and repository. The URL of type oci ends with the name; that of type docker is the registry alone."""
    path = (repository_url.partition("://")[2] or repository_url).partition("/")[2].strip("/")
    if not path or path.rpartition("/")[2] != name.rpartition("/")[2]:
        path = f"{path}/{name}" if path else name
    return host_of(repository_url) or (DOCKER_HUB if kind == "docker" else ""), path


ADAPTER = Adapter(__name__, authenticate=verify_access_token, read=_read)
