"""List the kinds that the server serves, and what each allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from warmhook.ports import Object


@dataclass(frozen=True, slots=True)
class Column:
    """One column of what `kubectl get` prints."""

    name: str
    path: str
    """A JSON path, or the name of a function of `tables`."""
    type: str = "string"
    priority: int = 0
    """Above 0: only with `-o wide`."""
    description: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind in one version."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    singular: str = ""
    list_kind: str = ""
    categories: tuple[str, ...] = ()
    status: bool = False
    """Whether `status` is written through its own subresource only."""
    counted: tuple[str, ...] | None = None
    """Fields whose change raises `generation`; empty means all but metadata and status, `None` that there is none."""
    blind_put: bool = True
    """Whether a PUT may leave `resourceVersion` out."""
    fields: tuple[str, ...] = ()
    """Top-level fields; others are unknown."""
    selectable: tuple[str, ...] = ()
    """Fields for `fieldSelector` besides name and namespace."""
    columns: tuple[Column, ...] = ()
    """Columns between `Name` and `Age`; a custom resource names all but the first itself."""
    schema: Object | None = field(default=None, repr=False, compare=False)
    """The structural schema of a custom resource; `None` for built-in kinds."""

    @property
    def custom(self) -> bool:
        """Whether a CustomResourceDefinition made it."""
        return self.schema is not None

    @property
    def api_version(self) -> str:
        """`v1` or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def table(self) -> str:
        """Where the objects are stored: the same for all versions of a kind."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def field_paths(self) -> Mapping[str, str]:
        """What `fieldSelector` may name."""
        return {name: name for name in ("metadata.name", "metadata.namespace", *self.selectable)}

    @property
    def list_type(self) -> str:
        """The kind of a list."""
        return self.list_kind or f"{self.kind}List"


_EVENT_FIELDS = (
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "eventTime",
    "series",
    "action",
    "related",
    "reportingComponent",
    "reportingInstance",
)

_IN_NAMESPACES = ("Role", "RoleBinding")

BUILT_INS = (
    Resource(
        "",
        "v1",
        "namespaces",
        "Namespace",
        namespaced=False,
        short_names=("ns",),
        status=True,
        fields=("spec", "status"),
        selectable=("status.phase",),
        columns=(Column("Status", ".status.phase"),),
    ),
    Resource(
        "",
        "v1",
        "nodes",
        "Node",
        namespaced=False,
        short_names=("no",),
        status=True,
        fields=("spec", "status"),
        selectable=("spec.unschedulable",),
        columns=(
            Column("Status", "node_status"),
            Column("Roles", "node_roles"),
            Column("Age", "age"),
            Column("Version", ".status.nodeInfo.kubeletVersion"),
        ),
    ),
    Resource(
        "",
        "v1",
        "configmaps",
        "ConfigMap",
        namespaced=True,
        short_names=("cm",),
        fields=("data", "binaryData", "immutable"),
        columns=(Column("Data", "data_count"),),
    ),
    Resource(
        "",
        "v1",
        "secrets",
        "Secret",
        namespaced=True,
        fields=("data", "stringData", "immutable", "type"),
        selectable=("type",),
        columns=(Column("Type", ".type"), Column("Data", "data_count")),
    ),
    Resource(
        "",
        "v1",
        "events",
        "Event",
        namespaced=True,
        short_names=("ev",),
        fields=_EVENT_FIELDS,
        selectable=(
            *(f"involvedObject.{name}" for name in ("kind", "namespace", "name", "uid")),
            "reason",
            "type",
        ),
        columns=(
            Column("Last Seen", "event_age"),
            Column("Type", ".type"),
            Column("Reason", ".reason"),
            Column("Object", "event_object"),
            Column("Message", ".message"),
        ),
    ),
    Resource(
        "",
        "v1",
        "pods",
        "Pod",
        namespaced=True,
        short_names=("po",),
        categories=("all",),
        status=True,
        counted=("spec",),
        fields=("spec", "status"),
        selectable=("spec.nodeName", "status.phase"),
        columns=(
            Column("Ready", "pod_ready"),
            Column("Status", ".status.phase"),
            Column("Restarts", "pod_restarts"),
            Column("Age", "age"),
            Column("IP", ".status.podIP", priority=1),
            Column("Node", ".spec.nodeName", priority=1),
        ),
    ),
    *(
        Resource(
            "apps",
            "v1",
            f"{kind.lower()}s",
            kind,
            namespaced=True,
            short_names=(short,),
            categories=("all",),
            status=True,
            counted=("spec",),
            fields=("spec", "status"),
        )
        for kind, short in (("Deployment", "deploy"), ("StatefulSet", "sts"), ("DaemonSet", "ds"))
    ),
    Resource(
        "",
        "v1",
        "serviceaccounts",
        "ServiceAccount",
        namespaced=True,
        short_names=("sa",),
        fields=("secrets", "imagePullSecrets", "automountServiceAccountToken"),
    ),
    *(
        Resource("", "v1", f"{kind.lower()}s", kind, namespaced=True, short_names=(short,), status=True, fields=fields)
        for kind, short, fields in (
            ("Service", "svc", ("spec", "status")),
            ("ResourceQuota", "quota", ("spec", "status")),
        )
    ),
    Resource(
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        "EndpointSlice",
        namespaced=True,
        fields=("addressType", "endpoints", "ports"),
    ),
    *(
        Resource(
            "rbac.authorization.k8s.io",
            "v1",
            f"{kind.lower()}s",
            kind,
            namespaced=kind in _IN_NAMESPACES,
            fields=fields,
        )
        for kind, fields in (
            ("Role", ("rules",)),
            ("RoleBinding", ("subjects", "roleRef")),
            ("ClusterRole", ("rules", "aggregationRule")),
            ("ClusterRoleBinding", ("subjects", "roleRef")),
        )
    ),
    Resource(
        "coordination.k8s.io",
        "v1",
        "leases",
        "Lease",
        namespaced=True,
        blind_put=False,
        fields=("spec",),
        columns=(Column("Holder", ".spec.holderIdentity"),),
    ),
    *(
        # Stored, and nothing more: no policy of these is enforced, and no Pod is kept from an eviction.
        Resource(group, "v1", plural, kind, namespaced=namespaced, short_names=short, status=status, fields=fields)
        for group, plural, kind, namespaced, short, status, fields in (
            ("networking.k8s.io", "networkpolicies", "NetworkPolicy", True, ("netpol",), False, ("spec",)),
            ("networking.k8s.io", "ingresses", "Ingress", True, ("ing",), True, ("spec", "status")),
            ("policy", "poddisruptionbudgets", "PodDisruptionBudget", True, ("pdb",), True, ("spec", "status")),
            ("flowcontrol.apiserver.k8s.io", "flowschemas", "FlowSchema", False, (), True, ("spec", "status")),
            (
                "flowcontrol.apiserver.k8s.io",
                "prioritylevelconfigurations",
                "PriorityLevelConfiguration",
                False,
                (),
                True,
                ("spec", "status"),
            ),
            (
                "admissionregistration.k8s.io",
                "validatingadmissionpolicies",
                "ValidatingAdmissionPolicy",
                False,
                (),
                True,
                ("spec", "status"),
            ),
            (
                "admissionregistration.k8s.io",
                "validatingadmissionpolicybindings",
                "ValidatingAdmissionPolicyBinding",
                False,
                (),
                False,
                ("spec",),
            ),
        )
    ),
    Resource(
        "admissionregistration.k8s.io",
        "v1",
        "mutatingwebhookconfigurations",
        "MutatingWebhookConfiguration",
        namespaced=False,
        counted=("webhooks",),
        blind_put=False,
        fields=("webhooks",),
        columns=(Column("Webhooks", "webhook_count"),),
    ),
    Resource(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        namespaced=False,
        short_names=("crd", "crds"),
        status=True,
        counted=("spec",),
        blind_put=False,
        fields=("spec", "status"),
        columns=(Column("Created At", ".metadata.creationTimestamp", "date"),),
    ),
)


class Registry:
    """The kinds served at this moment."""

    def __init__(self) -> None:
        self._resources = {(r.group, r.version, r.plural): r for r in BUILT_INS}
        self._built_in_groups = {r.group for r in BUILT_INS}

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """The kind at that path."""
        return self._resources.get((group, version, plural))

    def serves(self, group: str, version: str) -> bool:
        """Whether anything is served in that version of a group."""
        return any(key[:2] == (group, version) for key in self._resources)

    def is_built_in(self, group: str) -> bool:
        """Whether the group's unknown resources are answered as those of a built-in group."""
        return group in self._built_in_groups

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._resources.values())

    def replace(self, table: str, resources: list[Resource]) -> None:
        """Serve these versions of a custom kind instead of those served before; none to end it."""
        self._resources = {key: r for key, r in self._resources.items() if r.table != table}
        for resource in resources:
            self._resources[resource.group, resource.version, resource.plural] = resource
