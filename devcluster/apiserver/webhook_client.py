"""Call webhooks over TLS, trusting only the authorities that their configuration names."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from typing import TypeAlias

import httpx

from devcluster.apiserver.webhooks import Call, NoReply, Reply, Reviewing
from warmhook.ports import Object

Services: TypeAlias = Mapping[str, tuple[str, int]]
"""`name.namespace` of a Service to the host and port behind it: this cluster has no network of its own."""


async def review(reviewing: Reviewing, services: Services) -> Object:
    """Call the webhooks of a review and return the object to store. Raises `StatusError`."""
    try:
        call = next(reviewing)
        while True:
            call = reviewing.send(await _reply(call, services))
    except StopIteration as done:
        reviewed: Object = done.value
        return reviewed


def as_given(obj: Object) -> bytes:
    """What webhooks made of an object, as the body of the request that creates it."""
    meta = {name: value for name, value in obj["metadata"].items() if name != "managedFields"}
    return json.dumps({**{name: part for name, part in obj.items() if name != "status"}, "metadata": meta}).encode()


async def _reply(call: Call, services: Services) -> Reply | NoReply:
    url = httpx.URL(call.url)
    host, behind = url.host, services.get(url.host.removesuffix(".svc"))
    if behind is not None:
        url = url.copy_with(host=behind[0], port=behind[1])
    headers = {"content-type": "application/json", "accept": "application/json", "host": host}
    try:
        context = ssl.create_default_context(cadata=call.authorities.decode("ascii") or None)
        async with httpx.AsyncClient(verify=context, timeout=call.timeout_seconds, trust_env=False) as client:
            answer = await client.post(
                url, content=call.body, headers=headers, extensions={"sni_hostname": host} if behind else {}
            )
    except (httpx.HTTPError, ssl.SSLError, ValueError) as error:
        return NoReply(f"Post {call.url!r}: {error or type(error).__name__}")
    return Reply(answer.status_code, answer.content)
