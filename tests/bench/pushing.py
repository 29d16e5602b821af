"""Push an image to a registry, one layer after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import httpx

from devcluster.registry.folder import digest_of
from devcluster.registry.images import Image

__all__ = ["push_layers"]

_PIECE_BYTES: Final = 256 * 1024
_TIMEOUT: Final = httpx.Timeout(60.0)


async def push_layers(host: str, repository: str, tag: str, image: Image, rate: int = 0) -> float:
    """Push at so many bytes per second, or as fast as possible; when the registry had the manifest, in Unix seconds.

    https://github.com/opencontainers/distribution-spec/blob/main/spec.md, end-4a, end-6 and end-7a. Raises
    `httpx.HTTPError`.
    """
    base = f"http://{host}/v2/{repository}"
    async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:
        for blob in (*image.blobs[1:], image.blobs[0]):
            begun = (await client.post(f"{base}/blobs/uploads/")).raise_for_status()
            url = begun.request.url.join(begun.headers["location"]).copy_merge_params({"digest": digest_of(blob)})
            headers = {"content-type": "application/octet-stream", "content-length": str(len(blob))}
            (await client.put(url, content=_paced(blob, rate), headers=headers)).raise_for_status()
        headers = {"content-type": image.media_type}
        (await client.put(f"{base}/manifests/{tag}", content=image.manifest, headers=headers)).raise_for_status()
    return time.time()


async def _paced(blob: bytes, rate: int) -> AsyncIterator[bytes]:
    began = time.monotonic()
    for offset in range(0, len(blob), _PIECE_BYTES):
        if rate:
            await asyncio.sleep(began + offset / rate - time.monotonic())
        yield blob[offset : offset + _PIECE_BYTES]
