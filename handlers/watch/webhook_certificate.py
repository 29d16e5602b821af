"""Rotate the certificate and the token of admission, and write them into the webhook configuration.

The holder of the Lease does it, and only if the MutatingWebhookConfiguration `warmhook` exists. With cert-manager's
annotation on it, the certificate and the `caBundle` are left to cert-manager, and only the token is rotated.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from adapters.certificates import NotACertificate, belong_together, make_pair, still_valid, wants_rotation
from adapters.clock import Absence, Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Conflict, KubernetesError, NotFound
from adapters.kubernetes.webhook_secret import (
    BY_CERT_MANAGER,
    SECRET,
    AdmissionSecret,
    read_admission_secret,
    token_data,
)
from adapters.logs import get_logger
from warmhook.admission_tokens import RANDOM_BITS, path_of, renew, token_of, without_tokens
from warmhook.ports import Object

_log = get_logger()

CONFIGURATION: Final = "warmhook"
_LOOK_SECONDS: Final = 20.0
# Each `web` reads the Secret every 20 seconds; two reads may fail.
_KNOWN_SECONDS: Final = 60.0


@dataclass(eq=False)
class CertRotator:
    """Keeps one Secret and one webhook configuration up to date."""

    kubernetes: Kubernetes
    namespace: str
    clock: Clock
    rng: random.Random
    """Makes the tokens."""
    leads: Callable[[], bool] = lambda: True
    """Checked before each write."""
    _newest: tuple[str, float] = ("", 0.0)
    """The newest token of the Secret, and when this process first saw it."""
    _problem: str = ""
    _uninstalled: bool = False
    """Whether there was no webhook configuration at the last reconciliation."""

    async def run(self) -> None:
        """Reconcile until this is cancelled; seldom if admission is not installed."""
        absence = Absence(self.clock.monotonic)
        while True:
            problem, hint = "", ""
            try:
                await self.reconcile()
            except NotFound:
                problem = "the Secret is missing"
                hint = f"kubectl -n {self.namespace} create secret generic {SECRET}"
            except Conflict:
                # Another client wrote in between: read again soon.
                await self.clock.sleep(1.0)
                continue
            except KubernetesError as error:
                # Validations and policies quote what they refuse, which holds the token.
                problem = without_tokens(str(error))
                hint = "it is tried again; if a permission is missing, apply the manifests of this version"
            if problem and problem != self._problem:
                _log.warning("certificate-not-kept", secret=SECRET, problem=problem, hint=hint)
            self._problem = problem
            if not self._uninstalled:
                absence.over()
            await self.clock.sleep(absence.seconds(_LOOK_SECONDS) if self._uninstalled else _LOOK_SECONDS)

    async def reconcile(self) -> None:
        """Update Secret and webhook configuration. Raises `KubernetesError`, `NotFound` if there is no Secret."""
        self._uninstalled = False
        try:
            configuration = await self.kubernetes.get(paths.mutating_webhooks(CONFIGURATION))
        except NotFound:
            self._uninstalled = True
            return
        names = _hosts(configuration)
        if not names:
            return
        secret = await self.kubernetes.get(paths.secrets(self.namespace, SECRET))
        held = read_admission_secret(secret)
        data: dict[str, bytes] = {}
        authorities: bytes | None = None
        if BY_CERT_MANAGER not in (configuration["metadata"].get("annotations") or {}):
            authorities = held.authorities
            if not self._is_good(held, names):
                pair = make_pair(names, self.clock.utcnow())
                # The old authority stays trusted until every web has the new certificate.
                authorities = pair.authority + still_valid(held.authorities, self.clock.utcnow())
                data = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authorities}
        tokens = renew(held.tokens, self.clock.utcnow(), self.rng.getrandbits(RANDOM_BITS))
        if tokens != held.tokens:
            data |= token_data(tokens)
        # A certificate is trusted before it is used: a web may read the Secret at any moment. A token is accepted
        # before it is used, except for the first one, without which the API server can call no web.
        await self._inject_ca_bundle(configuration, authorities, self._token(held, tokens[0], configuration))
        if data and self.leads():
            version = secret["metadata"]["resourceVersion"]
            encoded = {name: base64.b64encode(content).decode() for name, content in data.items()}
            patch = {"metadata": {"resourceVersion": version}, "data": encoded}
            await self.kubernetes.patch(paths.secrets(self.namespace, SECRET), patch)
            _log.info("certificate-made", names=names, parts=sorted(data))

    def _token(self, held: AdmissionSecret, first: str, configuration: Object) -> str:
        """The token that the API server is to use now: the newest one as soon as every web accepts that."""
        if not held.tokens:
            return first
        newest, now = held.tokens[0], self.clock.monotonic()
        if self._newest[0] != newest:
            self._newest = (newest, now)
        if now - self._newest[1] >= _KNOWN_SECONDS:
            return newest
        in_use = {token_of(_path(hook.get("clientConfig") or {})) for hook in configuration.get("webhooks") or []}
        return next((token for token in held.tokens if token in in_use), held.tokens[-1])

    def _is_good(self, held: AdmissionSecret, names: list[str]) -> bool:
        try:
            return belong_together(held.authorities, held.certificate, held.key) and not wants_rotation(
                held.certificate, names, self.clock.utcnow()
            )
        except NotACertificate:
            return False

    async def _inject_ca_bundle(self, configuration: Object, authorities: bytes | None, token: str) -> None:
        """Write the path of every webhook and, if given, its `caBundle`, over the version that was read."""
        webhooks = configuration.get("webhooks") or []
        injected = [
            {**hook, "clientConfig": _client(hook.get("clientConfig") or {}, authorities, token)} for hook in webhooks
        ]
        if injected == webhooks or not self.leads():
            return
        version = configuration["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "webhooks": injected}
        await self.kubernetes.patch(paths.mutating_webhooks(CONFIGURATION), patch)


def _client(client: Object, authorities: bytes | None, token: str) -> dict[str, Any]:
    """A webhook's `clientConfig` with this token in its path and these authorities."""
    changed = dict(client)
    if authorities is not None:
        changed["caBundle"] = base64.b64encode(authorities).decode()
    if service := client.get("service"):
        changed["service"] = {**service, "path": path_of(token)}
    elif url := client.get("url"):
        changed["url"] = urlsplit(url)._replace(path=path_of(token)).geturl()
    return changed


def _path(client: Object) -> str:
    return (client.get("service") or {}).get("path") or urlsplit(client.get("url") or "").path


def _hosts(configuration: Object) -> list[str]:
    """The host names under which the API server calls the webhooks."""
    hosts: dict[str, None] = {}
    for hook in configuration.get("webhooks") or []:
        client = hook.get("clientConfig") or {}
        if service := client.get("service"):
            host = f"{service['name']}.{service['namespace']}.svc"
            hosts |= {host: None, f"{host}.cluster.local": None}
        elif host := urlsplit(client.get("url") or "").hostname or "":
            hosts[host] = None
    return list(hosts)
