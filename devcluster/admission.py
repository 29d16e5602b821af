"""Have the API server of this cluster tell Warmhook of Pods, as the manifests do, but by address."""

from __future__ import annotations

from typing import Final

from warmhook.ports import Object

__all__ = ["CONFIGURATIONS", "SECRET", "configuration"]

CONFIGURATIONS: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
SECRET: Final[Object] = {"metadata": {"name": "warmhook-tls"}, "type": "Opaque"}
"""Empty; `watch` puts certificate and token into it."""
_NO_MIRROR_POD: Final = (
    '!has(object.metadata.annotations) || !("kubernetes.io/config.mirror" in object.metadata.annotations)'
)
_NO_DAEMONSET_POD: Final = (
    '!has(object.metadata.ownerReferences) || !object.metadata.ownerReferences.exists(o, o.kind == "DaemonSet")'
)


def configuration(tls_port: int, namespace: str) -> Object:
    """The MutatingWebhookConfiguration; `watch` adds the path, and whose certificate `web` shows on that port."""
    outside = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", namespace]}
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    hook = {
        "name": "pods.warmhook.dev",
        "clientConfig": {"url": f"https://127.0.0.1:{tls_port}/"},
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Ignore",
        "timeoutSeconds": 1,
        "sideEffects": "NoneOnDryRun",
        "reinvocationPolicy": "IfNeeded",
        "rules": [rule],
        "namespaceSelector": {"matchExpressions": [outside]},
        "matchConditions": [
            {"name": "no-mirror-pod", "expression": _NO_MIRROR_POD},
            {"name": "no-daemonset-pod", "expression": _NO_DAEMONSET_POD},
        ],
    }
    return {"metadata": {"name": "warmhook"}, "webhooks": [hook]}
