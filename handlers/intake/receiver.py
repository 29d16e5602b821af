"""Receive registries' webhooks: verify each delivery, read its pushes, and accept them durably."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from adapters.clock import Clock
from adapters.env import BadSetting
from adapters.kubernetes.errors import KubernetesError, Unavailable
from adapters.logs import get_logger
from adapters.registries import Delivery, Outcome, Reply
from adapters.registries.common.auth import sent_unencoded
from handlers.event_sink import Publisher
from handlers.intake.deliveries import decode_body
from handlers.intake.delivery_log import DeliveryLog, Ended
from handlers.reconcile.pushes import Accepted, Pushes
from handlers.serving.bodies import BadBody
from handlers.sources import ConfiguredSource, Sources
from warmhook.events import BlobPushed, Pushed, Skip, SkipReason, pushed_event, pushed_id
from warmhook.ports import Sleep

_log = get_logger()

# Senders wait for 1 to 10 seconds, then send again.
_ACCEPT_SECONDS: Final = 0.8
_RETRY_AFTER_SECONDS: Final = 5
_PAUSE_SECONDS: Final = 0.5
# A try without an answer must leave time for the next one.
_TRIES: Final = 3

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the sender; the body is empty unless a handshake needs one, or the request body was rejected."""

    status: int
    body: bytes = b""
    media_type: str = ""
    retry_after_seconds: int | None = None


@dataclass(eq=False)
class Receiver:
    """Authenticates, reads and accepts deliveries."""

    sources: Sources
    pushes: Pushes
    log: DeliveryLog
    clock: Clock
    publisher: Publisher | None = None
    """`None`: pushes are not published."""
    note_blobs: Callable[[Sequence[BlobPushed]], None] = lambda _blobs: None
    """Called with blobs that were pushed before their manifest; never waits."""

    def knows(self, source: str) -> bool:
        """Whether the configuration names this source."""
        return source in self.sources

    async def deliver(self, name: str, delivery: Delivery) -> Answer:
        """Handle one delivery of the source `name`. With the right secret the answer is 2xx, 413, 415 or 503.

        Distribution repeats any other answer forever and blocks its queue; Quay disables a notification after three.
        """
        began = self.clock.monotonic()
        configured = self.sources[name]
        answer, ended = await self._handle(configured, delivery)
        self._end(name, ended, delivery.received, self.clock.monotonic() - began)
        return answer

    def permit(self, name: str, headers: Mapping[str, str]) -> dict[str, str] | None:
        """The headers that allow a sender to deliver; `None` if its origin is not allowed."""
        granted = validation_headers(headers, self.sources[name].allowed_origins)
        ended = Ended("skipped", "handshake") if granted is not None else Ended("refused", "origin-not-allowed")
        self._end(name, ended, self.clock.utcnow())
        return granted

    def refuse(self, name: str, reason: str) -> None:
        """Note a delivery of the source `name` whose body was not read."""
        self._end(name, Ended("refused", reason), self.clock.utcnow())

    def _end(self, name: str, ended: Ended, received: datetime, seconds: float = 0.0) -> None:
        self.log.add(name, self.sources[name].adapter.kind, ended, received, seconds)

    async def _handle(self, configured: ConfiguredSource, delivery: Delivery) -> tuple[Answer, Ended]:
        try:
            source = configured.current()
            verified = await configured.adapter.verify(delivery, source)
        except BadSetting as error:
            _log.error("secret-unreadable", source=configured.source.name, problem=str(error))
            return _later(), Ended("unavailable", "secret-unreadable")
        except OSError as error:
            _log.error("keys-unreachable", source=configured.source.name, problem=str(error))
            return _later(), Ended("unavailable", "keys-unreachable")
        if not verified:
            reason = "token-not-encoded" if sent_unencoded(delivery, source) else "bad-secret"
            return Answer(401), Ended("unauthorized", reason)
        try:
            decoded = decode_body(delivery)
        except BadBody as error:
            return Answer(error.status, f"{error}\n".encode(), "text/plain"), Ended("refused", error.reason)
        outcomes = configured.adapter.parse(decoded, source)
        answer, ended = await self._accept(configured, outcomes, delivery.received)
        replies = [outcome for outcome in outcomes if isinstance(outcome, Reply)]
        if not replies or ended.result == "unavailable":
            return answer, ended
        # A delivery with a handshake may hold pushes as well.
        ended = ended if ended.images else Ended("skipped", "handshake")
        return Answer(200, replies[0].body, replies[0].media_type), ended

    async def _accept(
        self, configured: ConfiguredSource, outcomes: Sequence[Outcome], received: datetime
    ) -> tuple[Answer, Ended]:
        skips = [outcome for outcome in outcomes if isinstance(outcome, Skip)]
        reasons: list[str] = [skip.reason for skip in skips]
        pushes = [outcome for outcome in outcomes if isinstance(outcome, Pushed)]
        allowed = list(dict.fromkeys(pushed for pushed in pushes if configured.allows(pushed.image.host)))
        reasons += ["host-not-allowed"] * (len(pushes) > len(allowed))
        reasons = self._note_blobs(configured, outcomes) + reasons
        name = configured.source.name
        images = tuple(str(pushed.image) for pushed in pushes)
        ids = tuple(pushed_id(name, pushed, received) for pushed in allowed)

        async def accept() -> list[Accepted | SkipReason]:
            return await asyncio.gather(
                *(self.pushes.accept(push, event_id, received) for push, event_id in zip(allowed, ids, strict=True))
            )

        if self.publisher is not None:
            self.publisher.publish([pushed_event(name, pushed, received) for pushed in allowed])
        try:
            seconds, sleep = max(_ACCEPT_SECONDS, configured.adapter.ack_timeout_seconds), self.clock.sleep
            results = await retry_until(accept, at_least_seconds=_ACCEPT_SECONDS, seconds=seconds, sleep=sleep)
        except TimeoutError:
            return _later(), Ended("unavailable", "slow-api-server", images, ids)
        except Unavailable as error:
            return _later(), Ended("unavailable", f"api-server-{error.status or 'unreachable'}", images, ids)
        except KubernetesError as error:
            # A missing CRD or permission, which an operator will add: the delivery stays in the sender's queue.
            _log.error("push-refused", problem=str(error))
            return _later(), Ended("unavailable", f"api-server-{error.status}", images, ids)
        if "accepted" in results:
            return Answer(202), Ended("accepted", "", images, ids)
        reason = next(iter([*results, *reasons]), "not-a-push")
        detail = next((skip.detail for skip in skips if skip.reason == reason), "")
        return Answer(202), Ended("skipped", reason, images, ids, detail)

    def _note_blobs(self, configured: ConfiguredSource, outcomes: Sequence[Outcome]) -> list[str]:
        """Note blobs that were pushed before their manifest; the reasons to do nothing else about them."""
        blobs = [outcome for outcome in outcomes if isinstance(outcome, BlobPushed)]
        allowed = [blob for blob in blobs if configured.allows(blob.blob.host)]
        self.note_blobs(allowed)
        return ["early-blob"] * bool(allowed) + ["host-not-allowed"] * (len(blobs) > len(allowed))


def _later() -> Answer:
    return Answer(503, retry_after_seconds=_RETRY_AFTER_SECONDS)


def validation_headers(headers: Mapping[str, str], allowed_origins: frozenset[str]) -> dict[str, str] | None:
    """The answer to the validation request (`OPTIONS`) of a sender of CloudEvents, such as Azure Event Grid.

    `None` if the configuration does not name the origin. Header names and `allowed_origins` are in lower case; `*` is
    any origin. https://github.com/cloudevents/spec/blob/main/cloudevents/http-webhook.md#4-abuse-protection.
    A permission means only that deliveries are expected from this origin; each is still authenticated.
    `WebHook-Request-Callback` is a URL from outside and is never called: the answer is in the response.
    """
    origin = headers.get("webhook-request-origin", "").strip()
    if not origin or not allowed_origins & {origin.lower(), "*"}:
        return None
    granted = {"allow": "POST", "webhook-allowed-origin": origin}
    rate = headers.get("webhook-request-rate", "").strip()
    if rate:
        # Deliveries per minute. Warmhook sets no limit, so any number is granted.
        granted["webhook-allowed-rate"] = rate if rate.isascii() and rate.isdigit() and len(rate) < 10 else "*"
    return granted


async def retry_until(
    accept: Callable[[], Awaitable[Item]], *, at_least_seconds: float, seconds: float, sleep: Sleep
) -> Item:
    """The result of `accept`, which is retried for `seconds` while the sender waits; each try has `at_least_seconds`.

    Most senders repeat a delivery that was not accepted, and some wait for only a second: they get their 503 quickly.
    Some senders never repeat, or disable a notification after a few failures. Those are answered as late as they allow,
    so that a short outage of the API server, a restart for example, does not cost a push.

    Raises the last `Unavailable`, or `TimeoutError`. If `seconds` are no more than a try needs, there is one try.
    """
    last: Unavailable | None = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    async with asyncio.timeout(max(at_least_seconds, seconds / _TRIES)):
                        return await accept()
                except (Unavailable, TimeoutError) as error:
                    if seconds <= at_least_seconds:
                        raise
                    last = error if isinstance(error, Unavailable) else None
                await sleep(_PAUSE_SECONDS)
    except TimeoutError:
        if last is not None:
            raise last from None
        raise
