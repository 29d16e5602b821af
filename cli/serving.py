"""What happens while everything is kept up? Every image that becomes warm on a node is shown."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from cli.demo_run.display import Display
from cli.demo_run.progress import new_warm_lines, read_reports
from devcluster.cluster import Cluster

__all__ = ["keep_serving"]


async def keep_serving(cluster: Cluster, display: Display) -> None:
    """Until it is cancelled. Raises `ProgramFailed` where a program ends."""
    known = {(name, version) for name, report in (await read_reports(cluster)).items() for version in report.warm}
    async with aclosing(new_warm_lines(cluster, known, asyncio.sleep)) as lines:
        async for name, image in lines:
            display.say(f"{name} is warm: {image}")
