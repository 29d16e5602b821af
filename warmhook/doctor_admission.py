"""Check what the API server needs to call Warmhook about new Pods: the configuration, its Service and certificate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from warmhook.checks import Check, CheckState

_WATCH_WRITES: Final = "watch writes it: see the check leader"
_SOON: Final = 4
"""A certificate is renewed after two thirds of its lifetime; if only a quarter is left, that failed."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """The MutatingWebhookConfiguration `warmhook`."""

    failure_policy: str
    has_authorities: bool
    """Whether `caBundle` is there."""
    has_token: bool
    """Whether the path of the Service has a token."""
    service: str
    """Its name; empty if a URL is called instead."""
    injected: bool = False
    """Whether cert-manager writes `caBundle`."""


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """The certificate of the Secret `warmhook-tls`, and whether the API server trusts it."""

    begins: datetime
    ends: datetime
    trusted: bool | None
    """Whether `caBundle` has its CA; `None` if the configuration could not be read."""


def webhook_check(webhook: Webhook | None, ready: int | None, namespace: str) -> Check:
    """`ready` is how many endpoints of the Service are; `None` if that could not be read."""
    if webhook is None:
        message = "there is no MutatingWebhookConfiguration warmhook: images of new Pods are not seen"
        return Check("admission", "skipped", message, "kubectl apply -f knative/base/admission.yaml, if you want that")
    if webhook.failure_policy != "Ignore":
        message = f"failurePolicy is {webhook.failure_policy}: without Warmhook no Pod could be created"
        return Check("admission", "wrong", message, "set failurePolicy: Ignore", "FailsClosed")
    if unwritten := _unwritten(webhook):
        return unwritten
    return _endpoints(webhook.service, ready, namespace)


def _unwritten(webhook: Webhook) -> Check | None:
    """What watch or cert-manager has not written."""
    if not webhook.has_authorities:
        mend = "check the Certificate of cert-manager" if webhook.injected else _WATCH_WRITES
        return Check("admission", "wrong", "caBundle is empty, so the API server calls nobody", mend, "NoAuthority")
    if not webhook.has_token:
        message = "the path has no token, so every review is refused"
        return Check("admission", "wrong", message, _WATCH_WRITES, "NoToken")
    return None


def _endpoints(service: str, ready: int | None, namespace: str) -> Check:
    if not service:
        return Check("admission", "ok", "the API server calls a URL and not a Service, and fails open")
    if ready is None:
        return Check("admission", "unknown", f"the endpoints of {service} could not be read", "", "Unread")
    if not ready:
        message = f"no Pod of the Service {service} is ready: new Pods start without Warmhook"
        return Check("admission", "wrong", message, f"kubectl -n {namespace} get endpointslices,pods", "NoEndpoints")
    return Check("admission", "ok", f"the API server calls {service}, with {ready} ready endpoints, and fails open")


def certificate_check(found: CertificateFacts | None, now: datetime, *, wanted: bool) -> Check:
    """`found` is `None` if the Secret has no certificate; `wanted` says whether the API server needs one."""
    if found is None and not wanted:
        return Check("certificate", "skipped", "nothing needs one")
    reason, message = _certificate_problem(found, now)
    if not reason:
        return Check("certificate", "ok", message)
    mend = "watch renews it: see the check leader; with cert-manager see its Certificate"
    state: CheckState = "waiting" if reason == "ExpiresSoon" else "wrong"
    return Check("certificate", state, message, mend, reason)


def _certificate_problem(found: CertificateFacts | None, now: datetime) -> tuple[str, str]:
    """A reason, empty if all is well, and a message."""
    if found is None:
        return "NoCertificate", "the Secret warmhook-tls has no certificate"
    if now >= found.ends:
        return "Expired", f"it expired at {found.ends:%Y-%m-%d %H:%M} UTC"
    if now < found.begins:
        return "NotYetValid", f"it is not valid before {found.begins:%Y-%m-%d %H:%M} UTC: is a clock wrong?"
    if found.trusted is False:
        return "NotTrusted", "caBundle of the webhook configuration does not have its CA: the API server refuses it"
    until = f"valid until {found.ends:%Y-%m-%d}"
    if found.ends - now < (found.ends - found.begins) / _SOON:
        return "ExpiresSoon", f"{until}, and should have been renewed"
    return "", until
