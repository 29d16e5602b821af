"""Keep the certificate of admission: create it, renew it in time, and tell the API server whom to trust.

The holder of the Lease does it, and only where the MutatingWebhookConfiguration `warmhook` exists. Where cert-manager
is asked to (its annotation is there), everything is left to it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import structlog

from adapters.certificates import NotACertificate, Pair, make_pair, still_valid, wants_rotation
from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes, KubernetesError, NotFound
from warmhook.ports import Object, Sleep, Utcnow

__all__ = ["CONFIGURATION", "SECRET", "Certificates"]

_log = structlog.get_logger()

SECRET: Final = "warmhook-tls"  # noqa: S105 - its name
CONFIGURATION: Final = "warmhook"
_CERT_MANAGER: Final = "cert-manager.io/inject-ca-from"
_LOOK_SECONDS: Final = 20.0


@dataclass(slots=True)
class Certificates:
    """The work of the leader."""

    kubernetes: Kubernetes
    namespace: str
    now: Utcnow
    sleep: Sleep
    leads: Callable[[], bool] = lambda: True
    """Asked before each write."""
    _troubled: bool = False

    async def run(self) -> None:
        """Look after it until it is cancelled."""
        while True:
            try:
                await self.look()
                self._troubled = False
            except Conflict:
                # Another wrote meanwhile: look soon what there is now.
                await self.sleep(1.0)
                continue
            except KubernetesError as error:
                if not self._troubled:
                    _log.warning("certificate-not-kept", problem=str(error))
                self._troubled = True
            await self.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Bring Secret and caBundle in order. Raises `KubernetesError`."""
        try:
            configuration = await self.kubernetes.get(paths.mutating_webhooks(CONFIGURATION))
        except NotFound:
            return
        if _CERT_MANAGER in (configuration["metadata"].get("annotations") or {}):
            return
        names = _hosts(configuration)
        if not names:
            return
        secret = await self._secret()
        held = _contents(secret)
        if _is_good(held, names, self.now):
            await self._trust(configuration, held["ca.crt"])
            return
        pair = make_pair(names, self.now())
        # Who trusted the old one goes on doing so until every web has the new one.
        authorities = pair.authority + still_valid(held.get("ca.crt", b""), self.now())
        # First trusted, then used: a web may read the Secret at any moment.
        await self._trust(configuration, authorities)
        await self._keep(secret, pair, authorities)
        _log.info("certificate-made", names=names, renewed=secret is not None)

    async def _secret(self) -> Object | None:
        try:
            return await self.kubernetes.get(paths.secrets(self.namespace, SECRET))
        except NotFound:
            return None

    async def _trust(self, configuration: Object, authorities: bytes) -> None:
        """Make every webhook of the configuration trust these authorities, over the version that was read."""
        bundle = base64.b64encode(authorities).decode()
        webhooks = configuration.get("webhooks") or []
        if all((hook.get("clientConfig") or {}).get("caBundle") == bundle for hook in webhooks) or not self.leads():
            return
        trusting = [{**hook, "clientConfig": {**hook["clientConfig"], "caBundle": bundle}} for hook in webhooks]
        version = configuration["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "webhooks": trusting}
        await self.kubernetes.patch(paths.mutating_webhooks(CONFIGURATION), patch)

    async def _keep(self, secret: Object | None, pair: Pair, authorities: bytes) -> None:
        if not self.leads():
            return
        contents = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authorities}
        metadata: dict[str, Any] = {"name": SECRET, "labels": {"app.kubernetes.io/part-of": "warmhook"}}
        body: Object = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "kubernetes.io/tls",
            "data": {name: base64.b64encode(content).decode() for name, content in contents.items()},
        }
        if secret is None:
            await self.kubernetes.create(paths.secrets_in(self.namespace), body)
        else:
            version = secret["metadata"]["resourceVersion"]
            patch = {"metadata": {"resourceVersion": version}, "data": body["data"]}
            await self.kubernetes.patch(paths.secrets(self.namespace, SECRET), patch)


def _hosts(configuration: Object) -> list[str]:
    """Whom the API server expects to meet."""
    hosts: dict[str, None] = {}
    for hook in configuration.get("webhooks") or []:
        client = hook.get("clientConfig") or {}
        if service := client.get("service"):
            host = f"{service['name']}.{service['namespace']}.svc"
            hosts |= {host: None, f"{host}.cluster.local": None}
        elif host := urlsplit(client.get("url") or "").hostname or "":
            hosts[host] = None
    return list(hosts)


def _contents(secret: Object | None) -> dict[str, bytes]:
    """What the Secret holds; what cannot be read is as if it were absent."""
    data: Mapping[str, str] = (secret or {}).get("data") or {}
    contents = {}
    for name, text in data.items():
        try:
            contents[name] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            continue
    return contents


def _is_good(held: Mapping[str, bytes], names: list[str], now: Utcnow) -> bool:
    if not all(held.get(name) for name in ("ca.crt", "tls.crt", "tls.key")):
        return False
    try:
        return not wants_rotation(held["tls.crt"], names, now())
    except NotACertificate:
        return False
