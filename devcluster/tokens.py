"""Request the token that an agent shows to other agents, and write it into a file, as a kubelet does for a Pod."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from adapters.kubernetes.client import Kubernetes
from warmhook.peer_requests import AUDIENCE

_PATH: Final = "/api/v1/namespaces/warmhook-agents/serviceaccounts/warmhook-agent/token"


async def peer_token(kubernetes: Kubernetes, node: str, *, audience: str = AUDIENCE, seconds: int = 3600) -> str:
    """A token for the agent of a Node. A real cluster needs Kubernetes 1.33. Raises `KubernetesError`."""
    bound = {"apiVersion": "v1", "kind": "Node", "name": node}
    spec = {"audiences": [audience], "expirationSeconds": seconds, "boundObjectRef": bound}
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    token: str = (await kubernetes.create(_PATH, request))["status"]["token"]
    return token


async def write_peer_token(kubernetes: Kubernetes, node: str, file: Path) -> None:
    """Replace the file by a token of one hour for the agent of a Node. Raises `KubernetesError`."""
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(await peer_token(kubernetes, node))
    os.replace(unfinished, file)
