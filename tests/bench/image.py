"""Measure what a node downloads before it can run Warmhook."""

from __future__ import annotations

import asyncio

from tests.bench.figures import Measured
from tests.bench.place import Place
from tests.support.image import build_venv, compressed_mib

__all__ = ["image_size"]


async def image_size(place: Place) -> list[Measured]:
    """The layer that the Dockerfile adds to its base."""
    size = compressed_mib(await asyncio.to_thread(build_venv, place.folder))
    return [Measured("image-mib", size, (), "the venv of the Dockerfile as a layer, compressed by gzip at level 6")]
