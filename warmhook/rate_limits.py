"""Decide how long a node leaves a registry alone that limits its requests.

A limit is the registry's answer about the node, not about one image: it holds for all images of the host, and for no
other host. The wait is what the error of the pull says, if it does. containerd drops the header Retry-After
(core/remotes/errors/errors.go), and has words of the registry only after a GET. CRI-O waits for Retry-After itself, a
minute at most (containers/image docker/docker_client.go). So most errors say nothing, and the node backs off by itself.
After the wait, one pull of the host tries first, of the namespace that was refused the longest ago: a limit may be that
of an account, which other namespaces do not use. All times are monotonic seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from warmhook.attempts import NO_ATTEMPTS, Attempts
from warmhook.desired_lines import DesiredLine
from warmhook.pull_queue import SLOW_SECONDS, Running

FIRST_WAIT_SECONDS: Final = 60.0
SHORTEST_WAIT_SECONDS: Final = 5.0
LONGEST_WAIT_SECONDS: Final = 3600.0
"""Also for what a registry says: after an hour one request finds out whether it still holds."""

_UNITS: Final = "ns|µs|us|ms|seconds?|s|minutes?|m|hours?|h"
_AMOUNT: Final = rf"(\d{{1,9}}(?:\.\d{{1,9}})?)\s?({_UNITS})?"
_RETRY_AFTER: Final = re.compile(
    rf"(?:retry[- ]after|retry in|try again in)[:= ]{{1,3}}((?:{_AMOUNT}\s?)+)(?![a-z])", re.IGNORECASE
)
_AMOUNTS: Final = re.compile(_AMOUNT, re.IGNORECASE)
_UNIT_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def retry_after_seconds(text: str) -> float | None:
    """The wait that an error asks for, in seconds: `retry after 30 seconds`, `retry-after: 1m30s`; `None` without one.

    A number without a unit counts seconds, as in the header Retry-After (RFC 9110, 10.2.3).
    """
    found = _RETRY_AFTER.search(text)
    if found is None:
        return None
    return sum(float(number) * _UNIT_SECONDS[_unit(unit)] for number, unit in _AMOUNTS.findall(found[1]))


def _unit(text: str) -> str:
    text = text.lower() or "s"
    return text[0] if text[:3] in ("sec", "min", "hou") else text


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The limit of one registry host."""

    refusals: int
    """In a row, one for each wait; at least 1."""
    until: float
    """No pull from the host starts before."""
    refused_at: Mapping[str, float] = field(default_factory=dict)
    """By namespace, when a pull of it was refused last."""


def after_refusal(
    limit: RateLimit | None, told_seconds: float | None, now: float, random: float, namespaces: Iterable[str] = ()
) -> RateLimit:
    """Add a refusal: wait as long as the registry says, else for a minute, and twice as long after each wait.

    A refusal during a wait is of a pull that began before it, and does not count. `random` (0 to 1) spreads the nodes.
    `namespaces` are those of the pull.
    """
    before = limit or RateLimit(0, 0.0)
    refusals = before.refusals if now < before.until else before.refusals + 1
    seconds = FIRST_WAIT_SECONDS * 2.0 ** min(refusals - 1, 16) if told_seconds is None else told_seconds
    seconds = min(max(seconds, SHORTEST_WAIT_SECONDS), LONGEST_WAIT_SECONDS) * (1 + 0.1 * random)
    refused_at = {**before.refused_at, **dict.fromkeys(namespaces, now)}
    return RateLimit(refusals, max(before.until, now + seconds), refused_at)


def held_images(
    outstanding: Iterable[DesiredLine],
    hosts: Mapping[str, str],
    limits: Mapping[str, RateLimit],
    attempts: Mapping[str, Attempts],
    running: Mapping[str, Running],
    now: float,
) -> set[str]:
    """The images that may not be pulled now. `hosts` and `running` are by image, `limits` by host.

    Of a host whose wait is over one image may be pulled, of the namespace that was refused the longest ago: that of the
    highest priority, then with the fewest failures.
    The next one may if this pull ends, or has run for so long that the registry has answered.
    """
    asked = {
        hosts[image]
        for image, pull in running.items()
        if image in hosts and hosts[image] in limits and limits[hosts[image]].until <= pull.began > now - SLOW_SECONDS
    }
    limited: dict[str, list[DesiredLine]] = {}
    for wanted in outstanding:
        if (host := hosts[wanted.line.image]) in limits:
            limited.setdefault(host, []).append(wanted)
    held = set()
    for host, lines in limited.items():
        due = [wanted for wanted in lines if attempts.get(wanted.version, NO_ATTEMPTS).due_at <= now]
        waits, refused_at = now < limits[host].until or host in asked or not due, limits[host].refused_at
        first = "" if waits else min(due, key=partial(_order, attempts=attempts, refused_at=refused_at)).line.image
        held |= {wanted.line.image for wanted in lines} - {first}
    return held


def _order(
    wanted: DesiredLine, attempts: Mapping[str, Attempts], refused_at: Mapping[str, float]
) -> tuple[float, int, int, float, str]:
    failed = attempts.get(wanted.version, NO_ATTEMPTS).failed
    refused = refused_at.get(wanted.line.warmimage.namespace, -math.inf)
    return (refused, -wanted.line.pull.priority, failed, wanted.since, wanted.line.image)
