"""Push images to a cluster that runs, and wait until its objects say what they should."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Conflict, NotFound
from adapters.kubernetes.paths import configmaps, warmimages_in
from devcluster.cluster import Cluster
from devcluster.programs import Program
from devcluster.registry.images import Image, write_image
from tests.real.programs import eventually
from warmhook.api import API_VERSION
from warmhook.node_lines import desired_name
from warmhook.node_report import report_name
from warmhook.ports import Object

SECRET: Final = "Bearer planted-of-the-registry"
"""What the registry proves itself with; the whole `Authorization` header."""
_DISTRIBUTION_TYPES: Final = "application/vnd.oci.image.manifest.v1+json"


class BaseStack:
    """A cluster with one registry that sends notifications, and policies in one namespace."""

    def __init__(self, cluster: Cluster, registry: str, *, system: str, namespace: str) -> None:
        """`registry` is its host; `system` the namespace of the node ConfigMaps, `namespace` that of the policies."""
        self.cluster, self.registry_host, self.system, self.namespace = cluster, registry, system, namespace
        self.agents, self.runtimes = cluster.agents, cluster.runtimes
        self.http = httpx.AsyncClient(timeout=10)

    @property
    def kubernetes(self) -> Kubernetes:
        """The test's own client."""
        return self.cluster.kubernetes

    @property
    def folder(self) -> Path:
        """Where the programs write."""
        return self.cluster.plan.folder

    # --- programs ---

    async def stop(self, program: Program) -> int:
        """Send SIGTERM to the program itself; its exit status."""
        program.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(program.process.wait(), 20)

    def logs(self) -> list[Path]:
        """What Warmhook's own programs have printed."""
        return sorted(path for path in (self.folder / "logs").iterdir() if not path.name.startswith("runtime-"))

    # --- what people and registries do ---

    async def apply_policy(self, spec: Object, *, name: str = "shop") -> None:
        """Create a WarmPolicy, or change it."""
        collection = f"/apis/{API_VERSION}/namespaces/{self.namespace}/warmpolicies"
        policy = {"apiVersion": API_VERSION, "kind": "WarmPolicy", "metadata": {"name": name}, "spec": spec}
        try:
            await self.kubernetes.create(collection, policy)
        except Conflict:
            await self.kubernetes.patch(f"{collection}/{name}", {"spec": spec})

    async def notify(self, repository: str, tag: str, digest: str, *, port: int = 0) -> httpx.Response:
        """Post what a registry posts when `repository:tag` was pushed; to the first `web` if `port` is 0."""
        target = {"mediaType": _DISTRIBUTION_TYPES, "digest": digest, "repository": repository, "tag": tag}
        event = {
            "id": f"{repository}:{tag}@{digest}",
            "timestamp": datetime.now(UTC).isoformat(),
            "action": "push",
            "target": target,
            "request": {"host": self.registry_host},
        }
        url = f"http://127.0.0.1:{port}" if port else self.cluster.web_url
        headers = {"authorization": SECRET}
        return await self.http.post(f"{url}/webhooks/registry", json={"events": [event]}, headers=headers)

    async def push_to(self, root: Path, repository: str, tag: str, image: Image, *, port: int = 0) -> str:
        """Put an image into the registry that serves `root` and notify `web` until it accepts; the reference."""
        digest = write_image(root, repository, tag, image)

        async def accepted() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (await self.notify(repository, tag, digest, port=port)).status_code == 202
            return False

        await eventually(accepted, what=f"web accepts the push of {repository}:{tag}")
        return f"{self.registry_host}/{repository}:{tag}"

    # --- what is to be seen ---

    async def warmimages(self) -> list[Object]:
        """The WarmImages of the policies' namespace."""
        return (await self.kubernetes.list(warmimages_in(self.namespace))).items

    async def status(self, image: str) -> Object:
        """The status of the WarmImage for a reference; empty if there is none."""
        found = [each for each in await self.warmimages() if each["spec"]["image"] == image]
        status: Object = found[0].get("status") or {} if found else {}
        return status

    async def counts(self, image: str) -> str:
        """`warm/desired`, and `+unreachable` if some are."""
        status = await self.status(image)
        silent = status.get("unreachable", 0)
        return f"{status.get('warm')}/{status.get('desired')}" + (f"+{silent}" if silent else "")

    async def becomes(self, image: str, counts: str) -> None:
        """Wait until the WarmImage's `counts` are these."""

        async def agree() -> bool:
            return await self.counts(image) == counts

        await self.eventually(agree, what=f"{image} is {counts}")

    async def eventually(
        self, holds: Callable[[], Coroutine[Any, Any, bool]] | Callable[[], bool], *, what: str, seconds: float = 60
    ) -> None:
        """Wait until `holds` does; otherwise fail with everything that the programs printed."""
        try:
            await eventually(holds, what=what, seconds=seconds)
        except TimeoutError as error:
            printed = "\n".join(f"--- {path.name}\n{path.read_text()[-6000:]}" for path in self.logs())
            raise AssertionError(f"{error}\n{json.dumps(await self.warmimages(), indent=1)}\n{printed}") from error

    async def desired(self, node: str) -> Object | None:
        """The ConfigMap that the handlers write for the node."""
        return await self._configmap(desired_name(node))

    async def report(self, node: str) -> Object | None:
        """The ConfigMap that the node's agent writes."""
        return await self._configmap(report_name(node))

    async def _configmap(self, name: str) -> Object | None:
        try:
            return await self.kubernetes.get(configmaps(self.system, name))
        except NotFound:
            return None


def source_of(registry: str) -> Object:
    """The sender in `web`'s configuration; its secret is in the variable `WARMHOOK_SECRET`."""
    return {
        "name": "registry",
        "kind": "distribution",
        "registryHost": registry,
        "secret": {"env": "WARMHOOK_SECRET"},
    }


def events_of(program: Program, name: str) -> list[dict[str, Any]]:
    """The lines of a program's log with that event name."""
    lines = [json.loads(line) for line in program.output().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == name]


def inherited() -> dict[str, str]:
    """The test's environment without settings of Warmhook's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("WARMHOOK_", "KUBE"))}


@contextlib.contextmanager
def stack_folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
