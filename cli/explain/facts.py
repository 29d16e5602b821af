"""Read what explains why one image is, or is not, on one node. What cannot be read is noted, and the rest is read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from typing import Final, TypeVar

from adapters.kubernetes import paths
from adapters.kubernetes.errors import KubernetesError, NotFound, NotServed, Unavailable
from adapters.kubernetes.pods import PODS_PAGE, RUNNING_FIELDS, nodes_running, reduced_running_pod
from cli.cluster import Cluster
from cli.explain.objects import (
    agent_pod,
    desired_state,
    image_state,
    node_state,
    policy_state,
    refused,
    report_state,
    webhook_state,
)
from cli.explain.rights import denied_rights
from cli.images import NODES_PAGE
from cli.lease import read_lease
from cli.plan.facts import read_installation
from cli.server_time import server_time
from handlers.reconcile.objects import read_policy_object, read_warmimages
from warmhook.api import REPOSITORY_LABEL
from warmhook.delivery_records import DeliveryRecord
from warmhook.doctor_leader import LeaseFacts
from warmhook.explain_facts import (
    AgentPod,
    DesiredState,
    Facts,
    ImageState,
    NodeState,
    PolicyState,
    Read,
    ReportState,
    Unread,
    WebhookState,
    is_image,
)
from warmhook.images import Reference
from warmhook.limits import NO_RULES, Tenancy
from warmhook.node_lines import desired_name
from warmhook.node_report import report_name
from warmhook.placement import Node, PodQuery, RunningNodes, pod_queries
from warmhook.ports import Object, Unreachable
from warmhook.warmimages import ObjectKey, repository_label

_Found = TypeVar("_Found")
_AGENT_LABEL: Final = "app.kubernetes.io/name=warmhook-agent"
_FIRST_SECONDS: Final = 10.0
"""For the first answer: nobody should wait for one request after the other of a server that is silent."""
_WEBHOOKS: Final = "warmhook"


@dataclass(frozen=True, slots=True)
class Question:
    """What the user asks."""

    node: str
    namespace: str
    """Where to look for policies and WarmImages; empty: everywhere."""
    agents_namespace: str
    fallback: str = ""
    """The namespace to look into if the user may not look everywhere."""
    warmimage: str = ""
    """The name of the WarmImage to explain; empty: any of the image."""


async def gather(cluster: Cluster, question: Question, image: Reference) -> Facts:
    """All facts about the image on the node.

    Raises `Unavailable` if the API server does not answer, and `Refused` if it does not know the user.
    """
    facts = Facts(
        image,
        question.node,
        await _now(cluster),
        question.namespace,
        cluster.system_namespace,
        question.agents_namespace,
        question.warmimage,
    )
    facts = await _read_policies(cluster, question, facts)
    tenancy, _, _ = await read_installation(cluster)
    facts = await _read_chain(_Reading(cluster, facts, tenancy))
    reading = _Reading(cluster, facts)
    webhook, others, running, similar = await asyncio.gather(
        reading.webhook(), reading.others(), reading.running(), reading.similar_nodes()
    )
    return replace(facts, webhook=webhook, others=others, running=running, similar_nodes=similar)


async def _read_chain(reading: _Reading) -> Facts:
    """The facts with everything that can be read at once."""
    facts, cluster = reading.facts, reading.cluster
    async with asyncio.TaskGroup() as group:
        images = group.create_task(reading.images(), name="images")
        node = group.create_task(reading.node(), name="node")
        desired = group.create_task(reading.desired(), name="desired")
        report = group.create_task(reading.report(), name="report")
        pods = group.create_task(reading.agent_pods(), name="pods")
        deliveries = group.create_task(reading.deliveries(), name="deliveries")
        lease = group.create_task(reading.lease(), name="lease")
        denied = group.create_task(denied_rights(cluster, facts.agents_namespace), name="denied")
    usable, unusable, missing = images.result()
    return replace(
        facts,
        images=usable,
        unusable=unusable,
        missing_kinds=(*facts.missing_kinds, *missing),
        node=node.result(),
        desired=desired.result(),
        report=report.result(),
        agent_pods=pods.result(),
        deliveries=deliveries.result(),
        lease=lease.result(),
        denied=denied.result(),
    )


async def _now(cluster: Cluster) -> datetime:
    """The time of the API server, since the clock of this machine may be wrong; else that. Raises `Unavailable`."""
    try:
        answer = await cluster.transport.request("GET", "/version", timeout_seconds=_FIRST_SECONDS)
    except Unreachable as error:
        raise Unavailable(str(error)) from error
    return server_time(answer) or cluster.clock.utcnow()


async def _read_policies(cluster: Cluster, question: Question, facts: Facts) -> Facts:
    """The facts with the policies of all namespaces, or of the one that the user may read."""
    for namespace in dict.fromkeys((question.namespace, question.namespace or question.fallback)):
        try:
            found = await cluster.kubernetes.list(paths.warmpolicies_in(namespace))
        except NotServed:
            return replace(facts, missing_kinds=("WarmPolicy",))
        except KubernetesError as error:
            if error.status in (0, 401):
                raise
            facts = replace(facts, namespace=namespace, policies=refused(error, "list", "warmpolicies", namespace))
        else:
            states = tuple(map(policy_state, map(read_policy_object, found.items)))
            return replace(facts, namespace=namespace, policies=states)
    return facts


async def _unless_unread(
    reading: Callable[[], Awaitable[_Found]],
    verb: str,
    resource: str,
    namespace: str = "",
    *,
    absent: Callable[[], _Found] | None = None,
) -> Read[_Found]:
    """What is read, or why it cannot be read; `absent` stands for an object that does not exist."""
    try:
        return await reading()
    except NotFound as error:
        return absent() if absent is not None else refused(error, verb, resource, namespace)
    except KubernetesError as error:
        return refused(error, verb, resource, namespace)


@dataclass(frozen=True, slots=True)
class _Reading:
    """The single reads, for what is known so far."""

    cluster: Cluster
    facts: Facts
    tenancy: Tenancy = NO_RULES
    """The limits of namespaces; without rules if they could not be read: then the statuses say what they refuse."""

    async def _get(self, path: str, resource: str, namespace: str = "") -> Read[Object | None]:
        async def get() -> Object | None:
            return await self.cluster.kubernetes.get(path)

        return await _unless_unread(get, "get", resource, namespace, absent=lambda: None)

    async def images(
        self,
    ) -> tuple[Read[tuple[ImageState, ...]], tuple[tuple[ObjectKey, str], ...], tuple[str, ...]]:
        """The WarmImages of the repository, those that cannot be used, and the kind if it is not installed."""
        namespace, image = self.facts.namespace, self.facts.image.canonical
        # A WarmImage that a person made has no label.
        selectors = (f"{REPOSITORY_LABEL}={repository_label(image)}", f"!{REPOSITORY_LABEL}")
        path = paths.warmimages_in(namespace) if namespace else paths.warmimages()
        try:
            lists = await asyncio.gather(*(self.cluster.kubernetes.list(path, labels=each) for each in selectors))
        except NotServed:
            return (), (), ("WarmImage",)
        except KubernetesError as error:
            return refused(error, "list", "warmimages", namespace), (), ()
        objects = {obj["metadata"]["uid"]: obj for found in lists for obj in found.items}
        found = await read_warmimages(objects.values(), self.tenancy)
        by_key = {ObjectKey(obj["metadata"]["namespace"], obj["metadata"]["name"]): obj for obj in objects.values()}
        states = tuple(
            image_state(warmimage, by_key[key], self.facts.node_name)
            for key, warmimage in found.usable.items()
            if warmimage.image.canonical.name == image.name
        )
        unusable = tuple(
            (key, str(problem))
            for key, problem in found.unusable.items()
            if str((by_key[key].get("spec") or {}).get("image", "")).startswith(str(self.facts.image.without_digest()))
        )
        return states, unusable, ()

    async def node(self) -> Read[NodeState | None]:
        """The Node."""
        found = await self._get(paths.node(self.facts.node_name), "nodes")
        return found if found is None or isinstance(found, Unread) else node_state(found, self.facts.now)

    async def similar_nodes(self) -> tuple[str, ...]:
        """The names most like that of a Node that does not exist; none if Nodes may not be listed."""
        if self.facts.node is not None:
            return ()
        try:
            found = await self.cluster.kubernetes.list(paths.NODES, metadata_only=True, page=NODES_PAGE)
        except KubernetesError:
            return ()
        names = [obj["metadata"]["name"] for obj in found.items]
        return tuple(get_close_matches(self.facts.node_name, sorted(names), n=3, cutoff=0.5))

    async def desired(self) -> Read[DesiredState | None]:
        """The ConfigMap of the handlers."""
        found = await self._configmap(desired_name(self.facts.node_name))
        return found if found is None or isinstance(found, Unread) else desired_state(found)

    async def report(self) -> Read[ReportState | None]:
        """The ConfigMap of the agent."""
        found = await self._configmap(report_name(self.facts.node_name))
        return found if found is None or isinstance(found, Unread) else report_state(found)

    async def _configmap(self, name: str) -> Read[Object | None]:
        system = self.facts.system_namespace
        return await self._get(paths.configmaps(system, name), "configmaps", system)

    async def agent_pods(self) -> Read[tuple[AgentPod, ...]]:
        """The Pods of the agent on the node."""
        namespace = self.facts.agents_namespace

        async def listed() -> tuple[AgentPod, ...]:
            fields = f"spec.nodeName={self.facts.node_name}"
            found = await self.cluster.kubernetes.list(paths.pods(namespace), labels=_AGENT_LABEL, fields=fields)
            return tuple(map(agent_pod, found.items))

        return await _unless_unread(listed, "list", "pods", namespace)

    async def deliveries(self) -> Read[tuple[DeliveryRecord, ...]]:
        """The last deliveries, newest first."""

        async def read() -> tuple[DeliveryRecord, ...]:
            return tuple(await self.cluster.reader.delivery_records())

        return await _unless_unread(read, "get", "configmaps", self.facts.system_namespace)

    async def lease(self) -> Read[LeaseFacts | None]:
        """The Lease of `watch`."""

        async def read() -> LeaseFacts | None:
            return await read_lease(self.cluster)

        return await _unless_unread(read, "get", "leases", self.facts.system_namespace)

    async def webhook(self) -> Read[WebhookState | None]:
        """The webhook for new Pods, if a policy waits for Pods."""
        policies: Sequence[PolicyState] = () if isinstance(self.facts.policies, Unread) else self.facts.policies
        if not any(each.policy is not None and each.policy.pods is not None for each in policies):
            return None
        found = await self._get(paths.mutating_webhooks(_WEBHOOKS), "mutatingwebhookconfigurations")
        return found if found is None or isinstance(found, Unread) else webhook_state(found)

    def _asked(self) -> list[ImageState]:
        """The WarmImages of the image."""
        images = () if isinstance(self.facts.images, Unread) else self.facts.images
        return [each for each in images if is_image(self.facts.image, each.warmimage)]

    async def others(self) -> Read[tuple[Node, ...]]:
        """All Nodes, if a limit chooses among them."""
        if all(each.warmimage.template.nodes.limit is None for each in self._asked()):
            return ()

        async def listed() -> tuple[Node, ...]:
            return tuple(await self.cluster.reader.nodes(taints=True))

        return await _unless_unread(listed, "list", "nodes")

    async def running(self) -> Read[RunningNodes]:
        """The nodes of the Pods that decide about the placement."""
        asked = [query for each in self._asked() for queries in pod_queries(each.warmimage) for query in queries]
        found: dict[PodQuery, frozenset[str]] = {}
        for query in dict.fromkeys(asked):

            async def listed(query: PodQuery = query) -> frozenset[str]:
                pods = await self.cluster.kubernetes.list(
                    paths.pods(query.namespace), fields=RUNNING_FIELDS, page=PODS_PAGE, keep=reduced_running_pod
                )
                return nodes_running(pods.items, query.selector)

            nodes = await _unless_unread(listed, "list", "pods", query.namespace)
            if isinstance(nodes, Unread):
                return nodes
            found[query] = nodes
        return found
