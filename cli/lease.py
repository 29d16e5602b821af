"""Read the Lease of `watch`."""

from __future__ import annotations

from datetime import timedelta

from adapters.kubernetes import paths
from adapters.kubernetes.errors import NotFound
from cli.cluster import Cluster
from warmhook.doctor_leader import LeaseFacts
from warmhook.leader_election import LEASE_NAME
from warmhook.lenient_fields import as_count, as_mapping, as_text, as_time


async def read_lease(cluster: Cluster) -> LeaseFacts | None:
    """`None` if there is none. Raises `KubernetesError`."""
    try:
        lease = await cluster.kubernetes.get(paths.leases(cluster.system_namespace, LEASE_NAME))
    except NotFound:
        return None
    spec = as_mapping(lease.get("spec"))
    duration = timedelta(seconds=as_count(spec.get("leaseDurationSeconds")))
    return LeaseFacts(as_text(spec.get("holderIdentity")), as_time(spec.get("renewTime")), duration)
