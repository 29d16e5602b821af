"""Receive registries' webhooks: from bytes nobody has vouched for to durable acceptance."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import structlog

from adapters.env import BadSetting
from adapters.kubernetes.client import KubernetesError, Unavailable
from adapters.registries import Delivery, Outcome, Reply
from adapters.registries.common.auth import sent_unencoded
from handlers.event_sink import Publisher
from handlers.intake.abuse_protection import validation_headers
from handlers.intake.deliveries import decode_body
from handlers.intake.retry import retry_until
from handlers.metrics import Metrics
from handlers.reconcile.pushes import Accepted, Pushes
from handlers.serving.bodies import BadBody
from handlers.sources import Configuration, ConfiguredSource, read_secrets
from warmhook.events import Pushed, Skip, SkipReason, pushed_event
from warmhook.ports import Sleep

__all__ = ["Answer", "Receiver"]

_log = structlog.get_logger()

# Senders give between 1 and 10 seconds; what is not accepted by then they send again.
_ACCEPT_SECONDS: Final = 0.8
_RETRY_AFTER_SECONDS: Final = 5

# A delivery may name thousands of images; a log line need not.
_IMAGES_LOGGED: Final = 20

Result = Literal["accepted", "skipped", "unauthorized", "unavailable", "refused"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender gets; an empty body unless its handshake needs one, or its body cannot be taken."""

    status: int
    body: bytes = b""
    media_type: str = ""
    retry_after_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class _Told:
    """What became of a delivery, for its log line."""

    result: Result
    reason: str = ""
    images: tuple[str, ...] = ()
    event_ids: tuple[str, ...] = ()
    detail: str = ""
    """What was seen, where the reason alone does not say; never a secret."""


class Receiver:
    """Verifies, reads and accepts deliveries."""

    def __init__(
        self,
        configuration: Configuration,
        pushes: Pushes,
        metrics: Metrics,
        environ: Mapping[str, str],
        *,
        monotonic: Callable[[], float],
        sleep: Sleep = asyncio.sleep,
        publisher: Publisher | None = None,
    ) -> None:
        self._configuration = configuration
        self._pushes = pushes
        self._metrics = metrics
        self._environ = environ
        self._monotonic = monotonic
        self._sleep = sleep
        self._publisher = publisher

    def knows(self, source: str) -> bool:
        """Whether a source of that name is configured."""
        return source in self._configuration.sources

    async def deliver(self, name: str, delivery: Delivery) -> Answer:
        """Handle one delivery of the source `name`. Everything that comes with the right secret is answered 2xx or 503.

        Distribution repeats anything else for ever and blocks its queue, Quay disables a notification after three.
        """
        began = self._monotonic()
        configured = self._configuration.sources[name]
        answer, told = await self._handle(configured, delivery)
        self._tell(name, told, self._monotonic() - began)
        return answer

    def permit(self, name: str, headers: Mapping[str, str]) -> dict[str, str] | None:
        """Answer a sender that asks whether it may deliver: headers, or `None` for one that may not."""
        granted = validation_headers(headers, self._configuration.sources[name].allowed_origins)
        told = _Told("skipped", "handshake") if granted is not None else _Told("refused", "origin-not-allowed")
        self._tell(name, told, 0.0)
        return granted

    def refuse(self, name: str, reason: str) -> None:
        """Count and log a delivery of the source `name` whose body was not taken."""
        self._tell(name, _Told("refused", reason), 0.0)

    def _tell(self, name: str, told: _Told, seconds: float) -> None:
        kind = self._configuration.sources[name].adapter.kind
        self._metrics.deliveries.labels(name, kind, told.result, told.reason).inc()
        self._metrics.delivery_seconds.observe(seconds)
        level = _log.info if told.result in {"accepted", "skipped"} else _log.warning
        level(
            "delivery",
            source=name,
            kind=kind,
            result=told.result,
            reason=told.reason,
            images=told.images[:_IMAGES_LOGGED],
            event_id=",".join(told.event_ids[:_IMAGES_LOGGED]),
            seconds=round(seconds, 4),
            **({"detail": told.detail} if told.detail else {}),
        )

    async def _handle(self, configured: ConfiguredSource, delivery: Delivery) -> tuple[Answer, _Told]:
        try:
            source = configured.with_secrets(read_secrets(configured, self._environ))
            verified = await configured.adapter.verify(delivery, source)
        except BadSetting as error:
            _log.error("secret-unreadable", source=configured.source.name, problem=str(error))
            return _later(), _Told("unavailable", "secret-unreadable")
        except OSError as error:
            _log.error("keys-unreachable", source=configured.source.name, problem=str(error))
            return _later(), _Told("unavailable", "keys-unreachable")
        if not verified:
            reason = "token-not-encoded" if sent_unencoded(delivery, source) else "bad-secret"
            return Answer(401), _Told("unauthorized", reason)
        try:
            decoded = decode_body(delivery)
        except BadBody as error:
            return Answer(error.status, f"{error}\n".encode(), "text/plain"), _Told("refused", error.reason)
        outcomes = configured.adapter.parse(decoded, source)
        answer, told = await self._accept(configured, outcomes, delivery.received)
        replies = [outcome for outcome in outcomes if isinstance(outcome, Reply)]
        if not replies or told.result == "unavailable":
            return answer, told
        # Pushes beside a handshake are pushes all the same.
        told = told if told.images else _Told("skipped", "handshake")
        return Answer(200, replies[0].body, replies[0].media_type), told

    async def _accept(
        self, configured: ConfiguredSource, outcomes: Sequence[Outcome], received: datetime
    ) -> tuple[Answer, _Told]:
        skips = [outcome for outcome in outcomes if isinstance(outcome, Skip)]
        reasons: list[str] = [skip.reason for skip in skips]
        pushes = [outcome for outcome in outcomes if isinstance(outcome, Pushed)]
        allowed = list(dict.fromkeys(pushed for pushed in pushes if configured.allows(pushed.image.host)))
        reasons += ["host-not-allowed"] * (len(pushes) > len(allowed))
        events = [pushed_event(configured.source.name, pushed, received) for pushed in allowed]
        images = tuple(str(pushed.image) for pushed in pushes)
        ids = tuple(event.id for event in events)

        async def accept() -> list[Accepted | SkipReason]:
            pairs = zip(allowed, events, strict=True)
            return await asyncio.gather(*(self._pushes.accept(pushed, event.id, received) for pushed, event in pairs))

        if self._publisher is not None:
            self._publisher.publish(events)
        try:
            waits = max(_ACCEPT_SECONDS, configured.adapter.ack_timeout_seconds)
            results = await retry_until(accept, at_least_seconds=_ACCEPT_SECONDS, seconds=waits, sleep=self._sleep)
        except TimeoutError:
            return _later(), _Told("unavailable", "slow-api-server", images, ids)
        except Unavailable as error:
            return _later(), _Told("unavailable", f"api-server-{error.status or 'unreachable'}", images, ids)
        except KubernetesError as error:
            # Not what a sender can help, but what an operator will: a missing CRD or permission. So it stays queued.
            _log.error("push-refused", problem=str(error))
            return _later(), _Told("unavailable", f"api-server-{error.status}", images, ids)
        if "accepted" in results:
            return Answer(202), _Told("accepted", "", images, ids)
        reason = next(iter([*results, *reasons]), "not-a-push")
        detail = next((skip.detail for skip in skips if skip.reason == reason), "")
        return Answer(202), _Told("skipped", reason, images, ids, detail)


def _later() -> Answer:
    return Answer(503, retry_after_seconds=_RETRY_AFTER_SECONDS)
