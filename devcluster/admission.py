"""Register the webhook for Pods with the API server of this cluster, as the manifests do, but by address."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from warmhook.ports import Object

CONFIGURATIONS: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
SECRET: Final[Object] = {"metadata": {"name": "warmhook-tls"}, "type": "Opaque"}
"""Empty; `watch` writes certificate and token into it."""
_MANIFEST: Final = Path(__file__).parents[1] / "knative" / "base" / "admission.yaml"


def configuration(tls_port: int) -> Object:
    """The MutatingWebhookConfiguration of the manifests, for a `web` that serves TLS on that port of this machine.

    `watch` adds the path and the authorities.
    """
    made: Object = yaml.safe_load(_MANIFEST.read_text())
    (hook,) = made["webhooks"]
    hook["clientConfig"] = {"url": f"https://127.0.0.1:{tls_port}/"}
    return made
