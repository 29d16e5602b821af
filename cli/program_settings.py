"""Read the environment and the configuration file of a program from what starts its Pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from adapters.kubernetes import paths
from adapters.kubernetes.errors import NotFound
from cli.cluster import Cluster
from warmhook.ports import Object

_KEY: Final = "config.yaml"


@dataclass(frozen=True, slots=True)
class ProgramSettings:
    """What the manifests give to a program."""

    environ: Mapping[str, str] = field(default_factory=dict)
    """Variables with a value of their own."""
    config: str = ""
    """The text of its configuration file; secrets are never in it. Empty if it has none."""


async def read_settings(cluster: Cluster, names: tuple[str, ...], config: str) -> ProgramSettings | None:
    """Of the first Deployment or Knative Service of one of these names; `None` if there is none.

    `config` begins the name of its ConfigMap: kustomize appends a hash. Raises `KubernetesError`.
    """
    found = await _find(cluster, names)
    if found is None:
        return None
    template = ((found.get("spec") or {}).get("template") or {}).get("spec") or {}
    listed = [variable for container in template.get("containers") or () for variable in container.get("env") or ()]
    environ = {str(variable.get("name")): str(variable.get("value", "")) for variable in listed}
    volumes = (str((volume.get("configMap") or {}).get("name", "")) for volume in template.get("volumes") or ())
    name = next((name for name in volumes if name.startswith(config)), "")
    data: Mapping[str, Any] = {}
    if name:
        data = (await cluster.kubernetes.get(paths.configmaps(cluster.system_namespace, name))).get("data") or {}
    return ProgramSettings(environ, str(data.get(_KEY, "")))


async def _find(cluster: Cluster, names: tuple[str, ...]) -> Object | None:
    namespace = cluster.system_namespace
    services = f"/apis/serving.knative.dev/v1/namespaces/{paths.segment(namespace)}/services"
    for collection in (paths.workloads("Deployment", namespace), services):
        for name in names:
            try:
                return await cluster.kubernetes.get(f"{collection}/{name}")
            except NotFound:
                continue
    return None
