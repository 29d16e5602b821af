"""Keep what `web` shows and accepts at admission as the Secret `warmhook-tls` has it, without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes, KubernetesError, NotFound
from handlers.absences import Absence
from handlers.admission_secret import SECRET, AdmissionSecret, Certificate, read_admission_secret
from warmhook.admission_tokens import accepts
from warmhook.ports import Sleep

__all__ = ["LOOK_SECONDS", "Credentials"]

_log = structlog.get_logger()

LOOK_SECONDS: Final = 20.0
"""Between two reads of the Secret."""
_FIRST_LOOK_SECONDS: Final = 1.0


class Credentials:
    """The Secret as it was last read. An API server that does not answer changes nothing."""

    def __init__(self, kubernetes: Kubernetes, namespace: str) -> None:
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._held = AdmissionSecret()
        self._changed = asyncio.Event()

    def accept(self, token: str) -> bool:
        """Whether the path of a review carries a token that the API server was given."""
        return accepts(self._held.tokens, token)

    async def run(self, sleep: Sleep, monotonic: Callable[[], float]) -> None:
        """Read the Secret again and again until this is cancelled; without a token at first often, then seldom."""
        wait, absence = _FIRST_LOOK_SECONDS, Absence(monotonic)
        while True:
            answered = await self.look()
            if not answered or self._held.tokens:
                absence.over()
            await sleep(LOOK_SECONDS if self._held.tokens else absence.seconds(wait))
            wait = min(2 * wait, LOOK_SECONDS)

    async def look(self) -> bool:
        """Read the Secret once; whether the API server answered. A Secret that is gone takes its tokens with it."""
        try:
            held = read_admission_secret(await self._kubernetes.get(paths.secrets(self._namespace, SECRET)))
        except NotFound:
            held = AdmissionSecret()
        except KubernetesError as error:
            _log.warning("certificate-not-read", secret=SECRET, problem=str(error))
            return False
        if held != self._held:
            self._held = held
            self._changed.set()
        return True

    async def next_certificate(self, used: Certificate | None) -> Certificate:
        """The certificate of the Secret, as soon as there is one other than `used`."""
        while (pair := self._held.pair) is None or pair == used:
            self._changed.clear()
            await self._changed.wait()
        return pair
