"""List what each program may do in the cluster: what the manifests grant its ServiceAccount."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from warmhook.api import GROUP
from warmhook.leader_election import LEASE_NAME

Part: TypeAlias = Literal["receiver", "handlers", "admission", "watch", "agent", "ui"]
"""A part of the programs; the role of each is called `warmhook-<part>`, as is its account where it is a process."""


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One thing that a part may do."""

    part: Part
    verb: str
    group: str
    resource: str
    """With its subresource; a path for what is no resource."""
    name: str = ""
    """Empty: any."""
    in_system: bool = False
    """Only in the namespace of Warmhook; otherwise everywhere."""

    def __str__(self) -> str:
        group = f".{self.group}" if self.group else ""
        return f"{self.verb} {self.resource}{group}" + (f" {self.name}" if self.name else "")


def account_of(part: Part) -> str:
    """The ServiceAccount of a part that is a process of its own."""
    return f"warmhook-{part}"


def _each(
    part: Part, verbs: str, resources: str, group: str = "", name: str = "", *, own: bool = False
) -> Iterator[Right]:
    for verb in verbs.split():
        for resource in resources.split():
            yield Right(part, verb, group, resource, name, own)


_LEASES: Final = "coordination.k8s.io"
_WEBHOOKS: Final = "admissionregistration.k8s.io"

RIGHTS: Final[Sequence[Right]] = (
    *_each("receiver", "get list", "warmpolicies", GROUP),
    *_each("receiver", "patch", "warmpolicies/status", GROUP),
    *_each("receiver", "get list create patch", "warmimages", GROUP),
    *_each("receiver", "get patch", "configmaps", "", "warmhook-deliveries", own=True),
    *_each("handlers", "get list", "nodes"),
    *_each("handlers", "get list", "warmpolicies", GROUP),
    *_each("handlers", "get list create patch delete", "warmimages", GROUP),
    *_each("handlers", "patch", "warmpolicies/status warmimages/status", GROUP),
    *_each("handlers", "create", "events"),
    *_each("handlers", "get list create patch delete", "configmaps", own=True),
    *_each("admission", "list watch", "nodes"),
    *_each("admission", "list watch", "warmpolicies warmimages", GROUP),
    *_each("admission", "list watch", "configmaps", own=True),
    *_each("admission", "get", "secrets", "", "warmhook-tls", own=True),
    *_each("watch", "list watch", "nodes"),
    *_each("watch", "list watch", "warmpolicies warmimages", GROUP),
    *_each("watch", "get patch", "mutatingwebhookconfigurations", _WEBHOOKS, "warmhook"),
    *_each("watch", "list watch", "configmaps", own=True),
    *_each("watch", "create", "leases", _LEASES, own=True),
    *_each("watch", "get update", "leases", _LEASES, LEASE_NAME, own=True),
    *_each("watch", "get patch", "secrets", "", "warmhook-tls", own=True),
    *_each("agent", "get", "nodes"),
    *_each("agent", "get", "/.well-known/openid-configuration /openid/v1/jwks"),
    *_each("agent", "get list watch create patch", "configmaps", own=True),
    *_each("ui", "list watch", "nodes"),
    *_each("ui", "list watch", "warmimages", GROUP),
    *_each("ui", "create", "tokenreviews", "authentication.k8s.io"),
    *_each("ui", "create", "subjectaccessreviews", "authorization.k8s.io"),
    *_each("ui", "get list watch", "configmaps", own=True),
)

ONE_PROCESS: Final[Mapping[str, Sequence[Part]]] = {
    "warmhook-receiver": ("receiver",),
    "warmhook-handlers": ("handlers", "admission", "watch"),
}
"""By ServiceAccount the parts of the plain installation."""
EACH_ITS_OWN: Final[Mapping[str, Sequence[Part]]] = {
    account_of(part): (part,) for part in ("receiver", "handlers", "admission", "watch")
}
"""By ServiceAccount the parts on Knative."""
AGENT: Final[Mapping[str, Sequence[Part]]] = {"warmhook-agent": ("agent",)}
"""In the namespace of the agents."""
PAGE: Final[Mapping[str, Sequence[Part]]] = {"warmhook-ui": ("ui",)}
"""Of the component with the page, which not each installation has."""
