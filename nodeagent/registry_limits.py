"""Keep the registries that limit the requests of the node, and until when each is left alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from adapters.clock import Clock
from nodeagent.disk import time_of_day
from warmhook.attempts import Attempts
from warmhook.desired_lines import DesiredLine
from warmhook.images import parse_reference
from warmhook.pull_queue import ImagePull, Running
from warmhook.rate_limits import RateLimit, after_refusal, held_images


class RegistryLimits:
    """The limits of the registries of one node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hosts: dict[str, str] = {}
        """By image of a line."""
        self._limits: dict[str, RateLimit] = {}
        """By host; only of those that refused."""

    def keep(self, images: Collection[str]) -> None:
        """Forget the registries of other images."""
        self._hosts = {image: self._hosts.get(image) or parse_reference(image).host for image in images}
        hosts = set(self._hosts.values())
        self._limits = {host: limit for host, limit in self._limits.items() if host in hosts}

    def refused(self, pull: ImagePull, told_seconds: float | None) -> None:
        """A pull was refused because of a limit; `told_seconds` is the wait that the registry asks for, if known."""
        if (host := self._hosts.get(pull.image)) is not None:
            now, random = self._clock.monotonic(), self._clock.random()
            limit = after_refusal(self._limits.get(host), told_seconds, now, random, pull.namespaces)
            self._limits[host] = limit

    def answered(self, image: str) -> None:
        """A pull ended in another way. What began before the wait shows nothing about the limit."""
        host = self._hosts.get(image, "")
        if host in self._limits and self._clock.monotonic() >= self._limits[host].until:
            del self._limits[host]

    def waiting(self, image: str) -> str:
        """Why no pull of the image starts, for people; empty if its registry may be asked."""
        host = self._hosts.get(image, "")
        limit = self._limits.get(host)
        if limit is None or self._clock.monotonic() >= limit.until:
            return ""
        return f"{host} limits requests; this node asks again at {time_of_day(self._clock, limit.until)}"

    def held(
        self, outstanding: Iterable[DesiredLine], attempts: Mapping[str, Attempts], running: Mapping[str, Running]
    ) -> set[str]:
        """The images that may not be pulled now."""
        if not self._limits:
            return set()
        return held_images(outstanding, self._hosts, self._limits, attempts, running, self._clock.monotonic())

    def next_end(self) -> float | None:
        """When the next wait ends; `None` if there is none."""
        now = self._clock.monotonic()
        return min((limit.until for limit in self._limits.values() if limit.until > now), default=None)
