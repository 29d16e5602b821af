"""Write the last deliveries of this process to a ConfigMap, in the background.

No delivery waits for it, and none fails because of it: what cannot be written is written later, or not at all.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from adapters.clock import Backoff, Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError, Refused
from adapters.logs import get_logger
from warmhook.delivery_records import (
    CONFIGMAP,
    DeliveryRecord,
    RecentDeliveries,
    outdated_keys,
    read_delivery_records,
)

_log = get_logger()

_SOON_SECONDS: Final = 1.0
"""Deliveries of so long are written together."""
_PAUSE_SECONDS: Final = 10.0
"""Between two writes while deliveries keep coming."""
_LONGEST_PAUSE_SECONDS: Final = 120.0
"""The same in a flood."""
_FLOOD: Final = 100
"""More deliveries than these between two writes double the pause."""
_LOOK_SECONDS: Final = 3600.0
"""Between two reads of the whole ConfigMap, for keys of processes that are gone."""
_REWRITE_SECONDS: Final = 6 * 3600.0
"""Without deliveries it is written again, since others remove what is a day old."""
_LONGEST_BACKOFF_SECONDS: Final = 300.0
_LAST_SECONDS: Final = 1.0
"""For the write of a process that ends."""
_HINT: Final = f"apply the manifests again: they create the ConfigMap {CONFIGMAP}, which web may get and patch"


@dataclass(eq=False)
class DeliveryWriter:
    """Keeps the deliveries of this process and writes them."""

    kubernetes: Kubernetes
    namespace: str
    """Of the ConfigMap."""
    key: str
    """In the ConfigMap; no other process has it."""
    clock: Clock
    _recent: RecentDeliveries = field(default_factory=RecentDeliveries)
    _wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    _unwritten: int = 0
    _recovered: bool = False
    """Whether the deliveries that this process wrote before it was restarted are kept as well."""
    _looked_at: float = float("-inf")
    """On the monotonic clock."""
    _failing: bool = False

    def add(self, record: DeliveryRecord) -> None:
        """Keep a delivery, and write it soon. Never waits."""
        self._recent.add(record)
        self._unwritten += 1
        self._wakeup.set()

    async def run(self) -> None:
        """Write whenever there is something new; ends only when it is cancelled."""
        backoff = Backoff(self.clock, first_seconds=_PAUSE_SECONDS, longest_seconds=_LONGEST_BACKOFF_SECONDS)
        pause = _PAUSE_SECONDS
        while True:
            await self.clock.sleep(self.clock.jitter(_SOON_SECONDS))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS) if self._unwritten > _FLOOD else _PAUSE_SECONDS
            self._wakeup.clear()
            if not await self._try():
                await self.clock.sleep(backoff.seconds())
                continue
            backoff.reset()
            await self.clock.sleep(self.clock.jitter(pause))
            await self.clock.wait(self._wakeup, _REWRITE_SECONDS)

    async def close(self) -> None:
        """Write what is not written yet, within a second."""
        if self._unwritten and not self._failing:
            try:
                async with asyncio.timeout(_LAST_SECONDS):
                    await self._try()
            except TimeoutError:
                _log.warning("deliveries-not-recorded", problem=f"no answer within {_LAST_SECONDS:g} second")

    async def _try(self) -> bool:
        """Whether all is written. Problems are logged once, until they are over."""
        try:
            await self._write()
        except KubernetesError as error:
            if not self._failing:
                hint = {"hint": _HINT} if isinstance(error, Refused) else {}
                _log.warning("deliveries-not-recorded", problem=str(error), **hint)
            self._failing = True
        except Exception:
            # A mistake here must not end the process, which goes on to accept pushes.
            _log.exception("deliveries-failed")
            self._failing = True
        else:
            self._failing = False
        if self._failing:
            # It may be full, or another one.
            self._looked_at = float("-inf")
        return not self._failing

    async def _write(self) -> None:
        path, data, looked_at = paths.configmaps(self.namespace, CONFIGMAP), dict[str, Any](), self._looked_at
        if self.clock.monotonic() - self._looked_at >= _LOOK_SECONDS:
            there = (await self.kubernetes.get(path)).get("data") or {}
            if not self._recovered:
                self._recent.add_older(read_delivery_records({self.key: there.get(self.key, "")}))
                self._recovered = True
            data |= dict.fromkeys(outdated_keys(there, self.key, self.clock.utcnow()))
            looked_at = self.clock.monotonic()
        count = self._unwritten
        if next(self._recent.newest(), None) is not None:
            data[self.key] = self._recent.encode(self.clock.utcnow())
        if data:
            await self.kubernetes.patch(path, {"data": data})
        self._unwritten -= count
        self._looked_at = looked_at
