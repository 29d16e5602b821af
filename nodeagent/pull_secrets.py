"""Read the Secrets that lines name, one by one when a pull needs them, and keep them in memory for a minute.

Agents neither list nor watch Secrets, so a Secret that did not help is read again from time to time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakValueDictionary

from adapters.clock import Budget, Clock
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError, NotFound, Refused
from adapters.kubernetes.paths import secrets
from adapters.logs import Log
from warmhook.pull_failures import FailureReason
from warmhook.registry_credentials import Entry, NotCredentials, read_secret
from warmhook.secret_access import forbidden_message, grant_command
from warmhook.warmimages import ObjectKey

KEEP_SECONDS: Final = 60.0
READS_AT_ONCE: Final = 64
"""Requests for Secrets of one namespace that may follow closely; a namespace can name a thousand on each node."""
READ_EVERY_SECONDS: Final = 10.0
"""After them there is one request so often."""
# Lines that name the same Secret do not wait for the API server one after the other, and those whose credentials are
# refused do not read it one after the other.
_KEEP_SHORTLY_SECONDS: Final = 5.0
_READ_SECONDS: Final = 10.0
_SKIPPED_MAX: Final = 5
_FORBIDDEN: Final = "forbidden"


@dataclass(frozen=True, slots=True)
class Secret:
    """What is known of a Secret."""

    version: str
    """Differs if the Secret, or the permission to read it, has changed."""
    read_at: float
    """Monotonic seconds."""
    entries: tuple[Entry, ...] = ()
    reason: FailureReason | None = None
    """Why it has no credentials; `None` if it has."""
    message: str = ""
    """Why it, or one of its entries, cannot be used."""


class PullSecrets:
    """The Secrets that lines of the node name."""

    def __init__(self, kubernetes: Kubernetes, clock: Clock, log: Log) -> None:
        self._kubernetes, self._clock, self._log = kubernetes, clock, log
        self._known: dict[ObjectKey, Secret] = {}
        """The Secrets that were read, the oldest request first."""
        self._turns = WeakValueDictionary[str, asyncio.Lock]()
        self._budgets: dict[str, Budget] = {}
        self._next_at: dict[str, float] = {}
        """By namespace, the time before which none of its Secrets is read; both are of namespaces that lines name."""

    async def read(self, key: ObjectKey) -> Secret:
        """The Secret, at most a minute old. A namespace has one request at a time."""
        async with self._turns.setdefault(key.namespace, asyncio.Lock()):
            known = self._known.get(key)
            if known is not None and self._clock.monotonic() - known.read_at < KEEP_SECONDS:
                return known
            if not self._may_read(key.namespace):
                message = f"Secret {key.name} waits for its turn: the lines of its namespace name many"
                return Secret(known.version if known else "", self._shortly(), reason="Network", message=message)
            found = await self._get(key)
            self._known.pop(key, None)
            self._known[key] = found
            self._log_change(key, known, found)
            return found

    def in_turn(self, keys: Collection[ObjectKey]) -> list[ObjectKey]:
        """The Secrets that were never read, then the others, the oldest request first."""
        return [*sorted(set(keys) - self._known.keys()), *(key for key in self._known if key in keys)]

    def refused(self, key: ObjectKey) -> None:
        """A registry refused the credentials of the Secret: read it again soon, at the next pull."""
        if known := self._known.get(key):
            self._known[key] = replace(known, read_at=min(known.read_at, self._shortly()))

    async def changed(self, key: ObjectKey) -> bool:
        """Whether the Secret, or the permission to read it, differs from the last pull; reads it."""
        before = self._known.get(key)
        if before is not None:
            self._known[key] = _without_content(before)
        return (await self.read(key)).version != (before.version if before else "")

    def keep(self, named: Collection[ObjectKey]) -> None:
        """Forget the Secrets that no line names any more, and the content of those that no pull needed lately."""
        now = self._clock.monotonic()
        self._known = {
            key: known if now - known.read_at < KEEP_SECONDS else _without_content(known)
            for key, known in self._known.items()
            if key in named
        }
        namespaces = {key.namespace for key in named}
        for of_namespaces in (self._budgets, self._next_at):
            for namespace in of_namespaces.keys() - namespaces:
                del of_namespaces[namespace]

    def _may_read(self, namespace: str) -> bool:
        """Whether the namespace may have one more request, which counts."""
        now = self._clock.monotonic()
        if now < self._next_at.get(namespace, now):
            return False
        if namespace not in self._budgets:
            self._budgets[namespace] = Budget(self._clock, READS_AT_ONCE, READ_EVERY_SECONDS)
        self._next_at[namespace] = now + self._budgets[namespace].spend()
        return True

    async def _get(self, key: ObjectKey) -> Secret:
        now = self._clock.monotonic()
        try:
            async with asyncio.timeout(_READ_SECONDS):
                found = await self._kubernetes.get(secrets(key.namespace, key.name))
        except NotFound:
            return Secret("absent", now, reason="Unauthorized", message=f"Secret {key.name} does not exist")
        except Refused as error:
            if error.status == 403:
                return Secret(_FORBIDDEN, now, reason="Unauthorized", message=forbidden_message(key.name))
            return self.unreachable(key)
        except (KubernetesError, TimeoutError):
            return self.unreachable(key)
        version = str((found.get("metadata") or {}).get("resourceVersion"))
        try:
            content = read_secret(found)
        except NotCredentials as error:
            return Secret(version, now, reason="Unauthorized", message=f"Secret {key.name}: {error}")
        return Secret(version, now, content.entries, message="; ".join(content.skipped[:_SKIPPED_MAX]))

    def unreachable(self, key: ObjectKey) -> Secret:
        message = f"Secret {key.name} could not be read: the API server did not answer"
        return Secret("unreachable", self._shortly(), reason="Network", message=message)

    def _shortly(self) -> float:
        """When a Secret was read that is to be read again shortly."""
        return self._clock.monotonic() - KEEP_SECONDS + _KEEP_SHORTLY_SECONDS

    def _log_change(self, key: ObjectKey, before: Secret | None, now: Secret) -> None:
        if not now.message or (before is not None and before.message == now.message):
            return
        hint = {"hint": grant_command(key.namespace, key.name)} if now.version == _FORBIDDEN else {}
        self._log.warning("secret-not-usable", secret=str(key), error=now.message, **hint)


def _without_content(known: Secret) -> Secret:
    return replace(known, read_at=float("-inf"), entries=())
