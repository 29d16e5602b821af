"""Create what an administrator and the kubelets create before Warmhook runs: namespaces, CRDs, Nodes."""

from __future__ import annotations

from typing import Final

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.paths import CRDS, NODES, configmaps, node, secrets
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from devcluster.admission import SECRET
from devcluster.nodes import node_object
from warmhook.delivery_records import CONFIGMAP

NAMESPACE: Final = "warmhook-system"


async def install(kubernetes: Kubernetes) -> None:
    """Create Warmhook's namespace, the Secret of its certificate, the ConfigMap of deliveries, and the CRDs."""
    await create_namespace(kubernetes, NAMESPACE)
    await kubernetes.create(secrets(NAMESPACE), SECRET)
    await kubernetes.create(configmaps(NAMESPACE), {"metadata": {"name": CONFIGMAP}})
    for crd in (warmpolicy_crd(), warmimage_crd()):
        await kubernetes.create(CRDS, crd)


async def create_namespace(kubernetes: Kubernetes, name: str) -> None:
    """Create a namespace."""
    await kubernetes.create("/api/v1/namespaces", {"metadata": {"name": name}})


async def register(kubernetes: Kubernetes, name: str, *, runtime: str = "containerd://1.6.20") -> None:
    """Create the Node `name`, which ends in a dash and its number. `runtime` is what its kubelet reports."""
    await kubernetes.create(NODES, node_object(name, int(name.rpartition("-")[2]), runtime=runtime))
    # Every Node begins with the taint not-ready; no controller here removes it.
    await kubernetes.patch(node(name), {"spec": {"taints": None}})
