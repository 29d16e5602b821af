"""Push an image as a registry does: store it, then send Harbor's webhook."""

from __future__ import annotations

import asyncio
import http.client
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from devcluster.cluster import Cluster
from devcluster.nodes import architecture
from devcluster.registry.images import incompressible_image, write_image
from warmhook.api import API_VERSION
from warmhook.images import Reference, from_event
from warmhook.ports import Object, Sleep
from warmhook.warmimages import PolicyKey

POLICY: Final = PolicyKey("shop", "shop")
_REPOSITORY: Final = "shop/web"
_MEGABYTES: Final = 12.0
PEERS_MEGABYTES: Final = 40.0
"""The size of the image that nodes get from each other."""
_SEND_SECONDS: Final = 10.0
# Harbor repeats a delivery that was not accepted, three times by default.
_ATTEMPTS: Final = 4


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image in the registry, and the content of its webhook."""

    image: Reference
    body: bytes


def policy_object(cluster: Cluster) -> Object:
    """A small WarmPolicy: pushes below `shop/` go to the nodes of pool `web`."""
    source = {"source": {"mode": "peers"}} if cluster.plan.peers else {}
    return {
        "apiVersion": API_VERSION,
        "kind": "WarmPolicy",
        "metadata": {"name": POLICY.name, "namespace": POLICY.namespace},
        "spec": {
            "push": [{"repository": f"{cluster.registry}/shop/**", "tags": ["v*"], "keep": 2}],
            "template": {"nodes": {"selector": {"matchLabels": {"pool": "web"}}}} | source,
        },
    }


def push_image(cluster: Cluster, tag: str, now: datetime) -> Pushed:
    """Put an image into the registry, without a webhook."""
    megabytes, layers = (PEERS_MEGABYTES, 4) if cluster.plan.peers else (_MEGABYTES, 3)
    made = incompressible_image(megabytes, tag, layers=layers, platform=f"linux/{architecture()}")
    digest = write_image(cluster.plan.registry_root, _REPOSITORY, tag, made)
    image = from_event(cluster.registry, _REPOSITORY, tag, digest)
    assert image is not None  # noqa: S101 - it has a tag
    namespace, _, name = _REPOSITORY.partition("/")
    body = {
        "type": "PUSH_ARTIFACT",
        "occur_at": int(now.timestamp()),
        "operator": "you",
        "event_data": {
            "resources": [{"digest": digest, "tag": tag, "resource_url": str(image.without_digest())}],
            "repository": {"name": name, "namespace": namespace, "repo_full_name": _REPOSITORY, "repo_type": "private"},
        },
    }
    return Pushed(image, json.dumps(body).encode())


async def send_webhook(cluster: Cluster, pushed: Pushed, sleep: Sleep) -> int:
    """Deliver as Harbor does, and repeat after a 503; returns the status of the last answer."""
    status = 0
    for _ in range(_ATTEMPTS):
        status, wait = await asyncio.to_thread(_post, _url(cluster), pushed.body, cluster.secret)
        if status != 503:
            break
        await sleep(wait)
    return status


def curl_line(cluster: Cluster, pushed: Pushed) -> str:
    """A line for a shell that delivers the webhook of an image which is in the registry already."""
    file = cluster.plan.folder / f"push-{pushed.image.tag}.json"
    file.write_bytes(pushed.body)
    return f"curl -i -H 'Authorization: {cluster.secret}' --data @{file} {_url(cluster)}"


def _url(cluster: Cluster) -> str:
    return f"{cluster.web_url}/webhooks/harbor"


def _post(url: str, body: bytes, secret: str) -> tuple[int, float]:
    """Status, and the seconds after which to send again."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=_SEND_SECONDS)
    try:
        headers = {"authorization": secret, "content-type": "application/json"}
        connection.request("POST", parts.path, body, headers)
        answer = connection.getresponse()
        return answer.status, float(answer.getheader("retry-after") or 1)
    except OSError:
        return 503, 1
    finally:
        connection.close()
