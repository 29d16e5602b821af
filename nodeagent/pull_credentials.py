"""Find the credentials for a pull: those in the Secrets of its lines, then those of the node's providers.

The order is that of the kubelet: kuberuntime_image.go and credentialprovider/secrets in kubernetes/kubernetes.
A search that takes longer gives up the slot of its pull, so a Secret or a provider that hangs delays no other image.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from adapters.credential_providers import Provided
from nodeagent.context import Context
from nodeagent.node_state import PROVIDERS, NodeState
from nodeagent.pull_secrets import PullSecrets
from warmhook.desired_lines import DesiredLine
from warmhook.images import Reference, parse_reference
from warmhook.ports import Credentials
from warmhook.pull_failures import FailureReason
from warmhook.registry_credentials import Entry, fitting_credentials
from warmhook.warmimages import ObjectKey

RECHECK_SECONDS: Final = 120.0
"""The interval of reading again the Secrets of lines that a registry refused."""
SLOT_SECONDS: Final = 2.0
"""A search holds the slot of its pull so long."""
# Credentials of a provider are always new, so nothing shows that a permission was added.
_PROVIDERS_SECONDS: Final = 3600.0
_SEARCH_SECONDS: Final = 75.0
_USABLE_SECONDS: Final = 60.0
# Each costs a request to the registry, and a Secret may hold thousands.
_TRIED_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search."""

    credentials: tuple[Credentials, ...] = ()
    """To be tried in this order."""
    unusable: Mapping[ObjectKey, tuple[FailureReason, str]] = field(default_factory=dict)
    """Secrets without credentials, each with reason and message; `PROVIDERS` if a provider of the node has failed."""


NOTHING_FOUND: Final = Found()


class PullCredentials:
    """The credentials for the pulls of one node."""

    def __init__(self, context: Context, state: NodeState, retry: Callable[[], None]) -> None:
        """`retry` is called when a line is due because its Secret has changed."""
        self._clock, self._state, self._providers, self._retry = context.clock, state, context.providers, retry
        self._secrets = PullSecrets(context.kubernetes, context.clock, context.log)
        self._late: dict[str, tuple[float, tuple[ObjectKey, ...], Found]] = {}
        """By image what a search found that had given up its slot, with the time and the Secrets."""
        self._searching: list[set[str]] = []
        """What the searches without a slot wait for."""

    async def run(self) -> None:
        """Until cancelled read again the Secrets of refused lines, and make the lines due if one has changed."""
        hourly = self._clock.monotonic() + _PROVIDERS_SECONDS
        while True:
            await self._clock.sleep(self._clock.jitter(RECHECK_SECONDS))
            self._forget_late()
            self._secrets.keep(self._state.secrets())
            for key in self._secrets.in_turn(self._state.refused_secrets()):
                if await self._secrets.changed(key):
                    self._state.retry_lines(lambda wanted, key=key: key in wanted.secrets)  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
                    self._retry()
            if self._providers is not None and self._clock.monotonic() >= hourly:
                hourly = self._clock.monotonic() + _PROVIDERS_SECONDS
                self._state.retry_lines(self._is_provided)
                self._retry()

    async def find(self, image: str, secrets: tuple[ObjectKey, ...], give_up_slot: Callable[[], None]) -> Found | None:
        """The credentials for an image; `None` if the slot was given up: then the next call for the image has them."""
        reference = parse_reference(image)
        provided = self._providers is not None and self._providers.fits(reference)
        if not secrets and not provided:
            return NOTHING_FOUND
        self._forget_late()
        late = self._late.pop(image, None)
        if late is not None and late[1] == secrets:
            return late[2]
        waits_for = {key.namespace for key in secrets} | ({""} if provided else set())
        hangs = any(not waits_for.isdisjoint(others) for others in self._searching)
        search = asyncio.create_task(self._search(reference, secrets), name=f"credentials of {image}")
        try:
            done, _ = await asyncio.wait({search}, timeout=0 if hangs else SLOT_SECONDS)
            if done:
                return search.result()
            give_up_slot()
            self._searching.append(waits_for)
            try:
                found = await search
            finally:
                self._searching.remove(waits_for)
        finally:
            search.cancel()
        self._late[image] = (self._clock.monotonic(), secrets, found)
        return None

    def refused(self, image: str, secrets: tuple[ObjectKey, ...]) -> None:
        """A registry refused all credentials for an image: the next search finds out whether there are new ones."""
        for key in secrets:
            self._secrets.refused(key)
        if self._providers is not None:
            self._providers.refused(parse_reference(image))

    def _is_provided(self, wanted: DesiredLine) -> bool:
        return self._providers is not None and self._providers.fits(parse_reference(wanted.line.image))

    def _forget_late(self) -> None:
        old = self._clock.monotonic() - _USABLE_SECONDS
        self._late = {image: late for image, late in self._late.items() if late[0] > old}

    async def _search(self, image: Reference, secrets: tuple[ObjectKey, ...]) -> Found:
        reads = {key: asyncio.create_task(self._secrets.read(key), name=f"Secret {key}") for key in secrets}
        running = asyncio.create_task(self._provided(image), name=f"providers for {image.name}")
        tasks = {*reads.values(), running}
        try:
            await asyncio.wait(tasks, timeout=_SEARCH_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
        read = {key: task.result() if task.done() else self._secrets.unreachable(key) for key, task in reads.items()}
        namespaces: dict[str, list[Entry]] = {}
        for key, secret in read.items():
            namespaces.setdefault(key.namespace, []).extend(secret.entries)
        # In turns, so that no namespace uses up the attempts.
        found = list(_in_turns([fitting_credentials(entries, image) for entries in namespaces.values()]))
        provided = running.result() if running.done() else Provided(problem="the credential providers did not answer")
        found += provided.credentials
        unusable = {key: (secret.reason, secret.message) for key, secret in read.items() if secret.reason is not None}
        if provided.problem:
            unusable[PROVIDERS] = ("Network", provided.problem)
        return Found(tuple(dict.fromkeys(found))[:_TRIED_MAX], unusable)

    async def _provided(self, image: Reference) -> Provided:
        return Provided() if self._providers is None else await self._providers.credentials(image)


def _in_turns(lists: Sequence[Sequence[Credentials]]) -> Iterator[Credentials]:
    return (each for turn in zip_longest(*lists) for each in turn if each is not None)
