"""Read pushes from Chainguard's registry, cgr.dev: a subscription to the events of an organisation.

Source of the format: https://edu.chainguard.dev/chainguard/administration/cloudevents/ and chainguard-dev/sdk
`events/registry`. The events are CloudEvents in binary mode.
Authentication: if the option `group` is set, an OpenID Connect token of `https://issuer.enforce.dev` for the audience
`customer` with the subject `webhook:<group>`; otherwise `?token=<secret>` in the URL.
Host: always cgr.dev.
Told apart: repeats by the event's source and id, order by its time, layers, and pushes that failed. The digest is
always present. Not told apart: signatures and attestations, except by cosign's tags. A subscription delivers every
event of the organisation, also pulls and changes of members, which are skipped.
"""

from __future__ import annotations

from typing import Final

from adapters.registries import Adapter, Delivery, IdToken, Outcome, Source, SourceOptions
from adapters.registries.common.auth import verify_query
from adapters.registries.common.bodies import Fields, Text, quoted, read_fields, read_time
from adapters.registries.common.cloudevents import read_content, require_cloudevent, source_and_id
from adapters.registries.common.images import LooseReference, pushed
from warmhook.events import Skip
from warmhook.ports import Json

_HOST: Final = "cgr.dev"
_ISSUERS: Final = frozenset({"https://issuer.enforce.dev"})
_AUDIENCE: Final = "customer"
_PUSHED: Final = "dev.chainguard.registry.push.v1"
_ANY: Final = "dev.chainguard."


class Options(SourceOptions):
    group: str = ""
    """The UIDP of the group that has the subscription; sub-groups as `<group>/<sub-group>`."""


class _Push(Fields):
    repository: str
    tag: Text = ""
    digest: Text = ""
    type: Text = "manifest"
    when: Text = ""
    error: Json = None


class _Data(Fields):
    body: _Push


def _id_token(source: Source) -> IdToken | None:
    group = source.options_as(Options).group
    return IdToken(_ISSUERS, _AUDIENCE, {"sub": f"webhook:{group}"}) if group else None


def _read(delivery: Delivery, source: Source) -> Outcome:
    event = require_cloudevent(delivery, read_content(delivery))
    kind = event.get_type()
    if kind != _PUSHED:
        return Skip("not-a-push" if kind.startswith(_ANY) else "unknown-event", quoted(kind))
    push = read_fields(_Data, event.get_data()).body
    if push.type != "manifest" or push.error:
        return Skip("not-a-push", "the push failed" if push.error else f"type {quoted(push.type)}")
    # The first element of a repository is the organisation. It often has a dot, but is not a host.
    image = LooseReference(_HOST, push.repository.removeprefix(f"{_HOST}/"), push.tag, push.digest)
    pushed_at = read_time(event.get_time()) or read_time(push.when)
    return pushed(source, image, pushed_at=pushed_at, delivery_id=source_and_id(event))


ADAPTER = Adapter(
    __name__,
    authenticate=verify_query,
    read=_read,
    options=Options,
    id_token=_id_token,
    fixed_hosts=lambda source: [] if source.registry_host else [_HOST],
    ack_timeout_seconds=4.0,  # neither its timeout nor a retry is documented
)
