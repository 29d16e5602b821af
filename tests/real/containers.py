"""Make Pod sandboxes and containers at a real containerd. Their processes sleep outside of any namespace.

What CRI lists, and what keeps an image, is containerd's; only the OCI runtime is a script, because machines that run
tests often may not make namespaces.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc.aio
from cri_api.v1 import api_pb2 as cri
from cri_api.v1.api_pb2_grpc import RuntimeServiceStub

from devcluster.registry.images import incompressible_image, write_image
from devcluster.registry.serve import Registry
from tests.real.containerd import Containerd, start_containerd

__all__ = ["Containers", "start_containerd_with_containers"]

# The commands of runc that containerd's shim uses: create, start, state, kill, delete.
_RUNTIME: Final = """\
#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in
    --root|--log|--log-format|--bundle) shift 2;;
    --pid-file) pid_file=$2; shift 2;;
    -*) shift;;
    *) if [ -z "$command" ]; then command=$1; else [ -n "$id" ] || id=$1; fi; shift;;
  esac
done
process={folder}/$id
case "$command" in
  create) setsid sleep 3600 >/dev/null 2>&1 </dev/null & printf %s $! > "$pid_file"; printf %s $! > "$process";;
  kill|delete) [ ! -f "$process" ] || kill -9 "$(cat "$process")" 2>/dev/null;;
esac
exit 0
"""
_CONFIG: Final = """\
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{folder}/runtime"
"""
_PAUSE_HOST: Final = "registry.invalid"


@dataclass(slots=True)
class Containers:
    """The containers of one containerd, each in a sandbox of its own."""

    containerd: Containerd
    pause: str
    """The image of the sandboxes."""
    _runtime: Any

    async def start(self, image: str) -> str:
        """Start a container of a present image; returns its ID."""
        on_node = cri.LinuxSandboxSecurityContext(namespace_options=cri.NamespaceOption(network=cri.NamespaceMode.NODE))
        name = image.rpartition("/")[2]
        sandbox = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, namespace="shop", uid=name),
            linux=cri.LinuxPodSandboxConfig(security_context=on_node),
        )
        sandbox_id = (await self._runtime.RunPodSandbox(cri.RunPodSandboxRequest(config=sandbox))).pod_sandbox_id
        container = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name), image=cri.ImageSpec(image=image), command=["/sleep"]
        )
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=container, sandbox_config=sandbox)
        container_id: str = (await self._runtime.CreateContainer(request)).container_id
        await self._runtime.StartContainer(cri.StartContainerRequest(container_id=container_id))
        return container_id

    async def stop(self, container_id: str) -> None:
        """Stop a container, which stays listed."""
        await self._runtime.StopContainer(cri.StopContainerRequest(container_id=container_id, timeout=0))

    async def states(self) -> list[str]:
        """The states of all containers, sorted."""
        listed = await self._runtime.ListContainers(cri.ListContainersRequest())
        return sorted(cri.ContainerState.Name(container.state) for container in listed.containers)

    async def remove_all(self) -> None:
        """Remove all sandboxes with their containers."""
        for sandbox in (await self._runtime.ListPodSandbox(cri.ListPodSandboxRequest())).items:
            await self._runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox.id))
            await self._runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox.id))


@contextlib.asynccontextmanager
async def start_containerd_with_containers(registry: Registry) -> AsyncIterator[Containers]:
    """A containerd whose sandboxes and containers can be started; `registry` gets their pause image."""
    write_image(registry.root, "pause", "1", incompressible_image(0.1, "pause"))
    with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
        script = Path(folder) / "runtime"
        script.write_text(_RUNTIME.format(folder=folder))
        script.chmod(0o755)
        async with start_containerd(more=_CONFIG.format(folder=folder)) as containerd:
            mirror = containerd.certs / _PAUSE_HOST
            mirror.mkdir()
            (mirror / "hosts.toml").write_text(f'server = "http://{registry.host}"\n[host."http://{registry.host}"]\n')
            async with grpc.aio.insecure_channel(containerd.endpoint) as channel:
                containers = Containers(containerd, f"{_PAUSE_HOST}/pause:1", RuntimeServiceStub(channel))
                try:
                    yield containers
                finally:
                    await containers.remove_all()
