"""Read the webhook configuration, the endpoints of its Service, and its certificate. No key leaves this module."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from adapters.certificates import NotACertificate, beginning, expiry, has_signed
from adapters.kubernetes import paths
from adapters.kubernetes.errors import KubernetesError, NotFound
from adapters.kubernetes.webhook_secret import BY_CERT_MANAGER, SECRET, read_admission_secret
from cli.cluster import Cluster
from warmhook.admission_tokens import token_of
from warmhook.checks import Check
from warmhook.doctor_admission import CertificateFacts, Webhook, certificate_check, webhook_check
from warmhook.ports import Object

_CONFIGURATION: Final = "warmhook"
_SERVICE_LABEL: Final = "kubernetes.io/service-name"


async def admission(cluster: Cluster, now: datetime) -> list[Check]:
    """The checks `admission` and `certificate`."""
    try:
        configuration = await cluster.kubernetes.get(paths.mutating_webhooks(_CONFIGURATION))
    except NotFound:
        configuration = None
    hook = _hook(configuration)
    webhook = None if configuration is None else _webhook(configuration, hook)
    ready = await _ready(cluster, webhook.service) if webhook is not None else 0
    authorities = _bundle(hook)
    return [
        webhook_check(webhook, ready, cluster.system_namespace),
        await _certificate(cluster, webhook, authorities, now),
    ]


def _hook(configuration: Object | None) -> Object:
    hooks = (configuration or {}).get("webhooks") or [{}]
    found: Object = hooks[0]
    return found


def _bundle(hook: Object) -> bytes:
    text = (hook.get("clientConfig") or {}).get("caBundle") or ""
    return read_admission_secret({"data": {"ca.crt": text}}).authorities


def _webhook(configuration: Object, hook: Object) -> Webhook:
    client: dict[str, Any] = hook.get("clientConfig") or {}
    service = client.get("service") or {}
    path = service.get("path") or urlsplit(client.get("url") or "").path
    annotations = configuration["metadata"].get("annotations") or {}
    return Webhook(
        str(hook.get("failurePolicy") or "Fail"),
        bool(client.get("caBundle")),
        bool(token_of(path)),
        str(service.get("name") or ""),
        BY_CERT_MANAGER in annotations,
    )


async def _ready(cluster: Cluster, service: str) -> int | None:
    """How many endpoints of the Service are ready; `None` if they cannot be read, or a URL is called."""
    if not service:
        return None
    path = f"/apis/discovery.k8s.io/v1/namespaces/{cluster.system_namespace}/endpointslices"
    try:
        slices = await cluster.kubernetes.list(path, labels=f"{_SERVICE_LABEL}={service}")
    except KubernetesError:
        return None
    endpoints = [each for found in slices.items for each in found.get("endpoints") or ()]
    # Absent counts as ready: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
    return sum((each.get("conditions") or {}).get("ready") is not False for each in endpoints)


async def _certificate(cluster: Cluster, webhook: Webhook | None, authorities: bytes, now: datetime) -> Check:
    try:
        secret = await cluster.kubernetes.get(paths.secrets(cluster.system_namespace, SECRET))
    except NotFound:
        return certificate_check(None, now, wanted=webhook is not None)
    except KubernetesError as error:
        return Check("certificate", "unknown", f"could not be read: {error}", "", "Unread")
    held = read_admission_secret(secret)
    if not held.certificate:
        return certificate_check(None, now, wanted=webhook is not None)
    try:
        begins, ends = beginning(held.certificate), expiry(held.certificate)
        trusted = has_signed(authorities, held.certificate) if authorities else None
    except NotACertificate:
        return certificate_check(None, now, wanted=True)
    return certificate_check(CertificateFacts(begins, ends, trusted), now, wanted=True)
