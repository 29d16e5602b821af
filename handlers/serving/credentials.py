"""Follow the certificate and the tokens of the Secret `warmhook-tls`, without a restart."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from adapters.clock import Absence, Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError, NotFound, Unavailable
from adapters.kubernetes.webhook_secret import SECRET, AdmissionSecret, Certificate, read_admission_secret
from adapters.logs import get_logger
from warmhook.admission_tokens import accepts

_log = get_logger()

LOOK_SECONDS: Final = 20.0
"""The interval between two reads of the Secret."""
_FIRST_LOOK_SECONDS: Final = 1.0
# Other log lines name an API server that is away, and what was read before stays valid for days.
_LOOKS_UNANSWERED: Final = 3


@dataclass(eq=False)
class Credentials:
    """The content of the Secret at the last read. It stays if the API server does not answer."""

    kubernetes: Kubernetes
    namespace: str
    _held: AdmissionSecret = field(default_factory=AdmissionSecret)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _unanswered: int = 0
    """Reads in a row that the API server did not answer."""
    expiry: float = float("nan")
    """When the certificate expires, in Unix time; NaN if there is none, or it cannot be read."""
    _logged: bool = False
    """Whether it is logged that the Secret cannot be read."""

    def accept(self, token: str) -> bool:
        """Whether the API server was given this token, which is in the path of a review."""
        return accepts(self._held.tokens, token)

    async def run(self, clock: Clock) -> None:
        """Read the Secret repeatedly until cancelled; without a token often at first, then less often."""
        wait, absence = _FIRST_LOOK_SECONDS, Absence(clock.monotonic)
        while True:
            answered = await self.look()
            if not answered or self._held.tokens:
                absence.over()
            await clock.sleep(LOOK_SECONDS if self._held.tokens else absence.seconds(wait))
            wait = min(2 * wait, LOOK_SECONDS)

    async def look(self) -> bool:
        """Read the Secret once; whether the API server answered. Without the Secret no token is accepted."""
        try:
            held = read_admission_secret(await self.kubernetes.get(paths.secrets(self.namespace, SECRET)))
        except NotFound:
            held = AdmissionSecret()
        except Unavailable as error:
            self._unanswered += 1
            if self._unanswered >= _LOOKS_UNANSWERED:
                self._complain(error, "admission goes on with the last certificate; check that the API server is up")
            return False
        except KubernetesError as error:
            self._complain(error, f"the ServiceAccount must get the Secret {SECRET} in {self.namespace}")
            return False
        if self._logged:
            _log.info("certificate-not-read-over", secret=SECRET)
        self._unanswered, self._logged = 0, False
        if held != self._held:
            self._held, self.expiry = held, _expiry(held)
            self._changed.set()
        return True

    def _complain(self, error: KubernetesError, hint: str) -> None:
        if not self._logged:
            _log.warning("certificate-not-read", secret=SECRET, problem=str(error), hint=hint)
        self._logged = True

    async def next_certificate(self, used: Certificate | None) -> Certificate:
        """Wait for a certificate in the Secret other than `used`."""
        while (pair := self._held.pair) is None or pair == used:
            self._changed.clear()
            await self._changed.wait()
        return pair


def _expiry(held: AdmissionSecret) -> float:
    """When the certificate expires, in Unix time; NaN if there is none, or it cannot be read."""
    if held.pair is None:
        return float("nan")
    # Imported here: a process without a certificate starts faster without it.
    from adapters.certificates import NotACertificate, expiry

    try:
        return expiry(held.certificate).timestamp()
    except NotACertificate:
        return float("nan")
