"""Make the Node objects that a kubelet registers, before anything runs on the nodes."""

from __future__ import annotations

import platform
from typing import Final

from warmhook.platforms import platform_of
from warmhook.ports import Object

_ZONES: Final = "abc"


def architecture() -> str:
    """This machine's, as images and nodes name it."""
    return platform_of(platform.system(), platform.machine()).architecture


def node_object(name: str, number: int, *, runtime: str) -> Object:
    """The Node of that name, ready, in pool `web`; `number` counts from 1 and chooses its address and zone."""
    machine = architecture()
    labels = {
        "kubernetes.io/arch": machine,
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": "embedded",
        "pool": "web",
        "topology.kubernetes.io/region": "local",
        "topology.kubernetes.io/zone": f"local-{_ZONES[(number - 1) % len(_ZONES)]}",
    }
    resources = {"cpu": "4", "memory": "16Gi", "pods": "110", "ephemeral-storage": "100Gi"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"providerID": f"warmhook://{name}"},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": f"10.0.{number // 250}.{number % 250 + 1}"},
                {"type": "Hostname", "address": name},
            ],
            "allocatable": resources,
            "capacity": resources,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            "nodeInfo": {
                "architecture": machine,
                "operatingSystem": "linux",
                "osImage": platform.platform(terse=True),
                "kernelVersion": platform.release(),
                "kubeletVersion": "v1.36.0",
                "containerRuntimeVersion": runtime,
            },
        },
    }
