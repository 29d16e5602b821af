"""Run a generated system on an event loop with a seed until its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import structlog
from hypothesis import HealthCheck, Phase, settings

from tests.model.check import differences
from tests.model.model import SKEW
from tests.model.programs import ProgramLoop
from tests.model.world import SYNC_SECONDS, World

__all__ = ["GENERATED", "SEED", "end", "play", "settle"]

SEED: Final = int(os.environ["WARMHOOK_FUZZ_SEED"])
"""Printed by each run; the same number runs the same sequences. `make fuzz` takes a new one each time."""
GENERATED: Final = settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
Result = TypeVar("Result")


def play(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a world, in silence: its programs log thousands of lines, which nobody reads."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        with asyncio.Runner(loop_factory=ProgramLoop) as runner:
            return runner.run(main)
    finally:
        structlog.reset_defaults()


async def end(made: World) -> None:
    """No more trouble; senders repeat what was not taken, and there are two syncs, as far apart as usual."""
    made.network.trouble = ""
    if made.registries is not None:
        made.registries.down = False
    for program in made.programs.values():
        program.dies_in = 0
    for runtime in made.runtimes.values():
        runtime.pull_seconds = min(runtime.pull_seconds, 2)
    for name in made.nodes():
        if f"agent-{name}" not in made.programs:
            made.start(f"agent-{name}")
    await made.all_delivered()
    # The longest that an agent waits after trouble: what it still holds on to, the sync must be able to see.
    await asyncio.sleep(35)
    await made.sync()
    # What a policy that is gone led to was marked, and is swept now.
    await asyncio.sleep(SYNC_SECONDS + 2 * SKEW.total_seconds())
    await made.sync()
    made.settled_pulls = {node: len(runtime.pulls) for node, runtime in made.runtimes.items()}


async def settle(made: World) -> list[str]:
    """What is still wrong much later, or goes wrong after it was right.

    Two minutes are enough for all but removals: an agent that could not look at an image does so 10 minutes later.
    """
    found = ["not looked at"]
    for seconds in (1, 2, 4, 8, 16, 32, 60, 120, 300, 600):
        if not found:
            break
        await asyncio.sleep(seconds)
        found = differences(made)
    await asyncio.sleep(3)
    return found or differences(made)
