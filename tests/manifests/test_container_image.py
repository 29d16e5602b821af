"""The container image is assembled as the Dockerfile says, and its programs run in it as the manifests say."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from adapters.certificates import make_pair
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import NotFound, Unavailable
from adapters.kubernetes.paths import NODES, configmaps
from adapters.kubernetes.transport import open_transport
from devcluster.install import NAMESPACE, install, register
from tests.bench.network import GIGABIT, Host, open_network
from tests.manifests.rendered import BASE, KNATIVE, UI, find, pod_templates, render
from tests.real.container_image import ContainerImage, Mount, build_image
from tests.real.containerd import Containerd, start_containerd
from tests.real.programs import eventually, need, real_time, running
from tests.support.image import INSTRUCTIONS, compressed_mib
from warmhook import __version__
from warmhook.node_report import report_name
from warmhook.ports import Object

pytestmark = [pytest.mark.containerd, pytest.mark.e2e]

NODE: Final = "node-1"
API_PORT: Final = 6443
STOP_SECONDS: Final = 20


def programs() -> list[tuple[str, str, Object, Object]]:
    """Each container of both forms and of the page: its form, its name, its Pod and itself."""
    return [
        (folder.name, obj["metadata"]["name"], template["spec"], container)
        for folder in (BASE, KNATIVE, UI)
        for obj, template in pod_templates(render(folder))
        for container in template["spec"]["containers"]
        if folder == BASE or obj["kind"] != "DaemonSet"
    ]


@pytest.fixture(scope="module")
def image() -> Iterator[ContainerImage]:
    need("umoci", "umoci", "runc", "mmdebstrap", "chroot", root=True)
    folder = Path(tempfile.mkdtemp(prefix="wh-image"))
    yield build_image(folder)
    shutil.rmtree(folder)


def test_the_configuration_of_the_image_is_that_of_the_dockerfile(image: ContainerImage) -> None:
    configuration = image.configuration()["config"]
    said = dict(INSTRUCTIONS)
    assert configuration["User"] == said["USER"]
    assert configuration["Cmd"] == ["python", "-m", "handlers", "--watch"]
    assert configuration["Env"][0].startswith("PATH=/venv/bin:")
    assert configuration["Labels"]["org.opencontainers.image.version"] == __version__
    assert configuration["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    # The base, the venv, and the user.
    assert len(image.manifest()["layers"]) == 3


def test_the_layer_of_the_programs_is_small_and_that_of_the_user_almost_nothing(image: ContainerImage) -> None:
    _, _, user = image.manifest()["layers"]
    assert compressed_mib(image.root / "venv") <= 30
    assert user["size"] < 4096


def test_the_image_holds_no_demo_no_tests_and_nothing_that_builds(image: ContainerImage) -> None:
    (packages,) = image.root.glob("venv/lib/python3.*/site-packages")
    there = {path.name for path in packages.iterdir()}
    assert {"warmhook", "adapters", "handlers", "nodeagent", "cli"} <= there
    assert not there & {"devcluster", "tests", "pip", "setuptools", "wheel", "pytest", "rich"}
    assert not (packages / "cli" / "demo_run").exists()
    left = {path.name for path in image.root.iterdir()} - {"bin", "sbin", "lib", "lib32", "lib64", "libx32"}
    assert not left & {"src", "dist", "build", "work"}


def test_no_file_of_the_programs_can_be_changed_by_the_user_of_the_image_or_gives_its_rights_away(
    image: ContainerImage,
) -> None:
    for path in (image.root / "venv").rglob("*"):
        found = path.lstat()
        if not stat.S_ISLNK(found.st_mode):
            assert (found.st_uid, found.st_gid) == (0, 0), path
            assert not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID), path


@pytest.mark.parametrize("module", ["handlers", "handlers.watch", "nodeagent"])
@pytest.mark.parametrize("user", [65532, 0, 71234], ids=["nonroot", "root", "nobody-knows"])
def test_a_program_with_nothing_in_its_environment_says_in_one_line_what_is_missing(
    image: ContainerImage, module: str, user: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        image.command(tmp_path, ["python", "-m", module], {}, user=user),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("warmhook ")
    assert done.stderr.count("\n") == 1


def test_the_command_of_the_image_runs_without_a_home_and_writes_nothing(image: ContainerImage, tmp_path: Path) -> None:
    command = image.command(tmp_path, ["warmhook", "--version"], {}, user=71234)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("warmhook ")


@dataclass(frozen=True, slots=True)
class Place:
    """An API server over TLS, and a host with a network of its own that reaches it."""

    host: Host
    kubernetes: Kubernetes
    account: Path
    """The files of a ServiceAccount, as a kubelet mounts them."""
    server: str

    def environ(self) -> dict[str, str]:
        """What a kubelet adds to every container."""
        return {"KUBERNETES_SERVICE_HOST": self.server, "KUBERNETES_SERVICE_PORT": str(API_PORT)}


@contextlib.asynccontextmanager
async def open_place(folder: Path) -> AsyncIterator[Place]:
    async with contextlib.AsyncExitStack() as stack:
        network = await stack.enter_async_context(open_network({"pod": GIGABIT}))
        pair = make_pair([network.address], datetime.now(UTC))
        (certificate := folder / "server.pem").write_bytes(pair.certificate + pair.key + pair.authority)
        (account := folder / "account").mkdir()
        (account / "ca.crt").write_bytes(pair.authority)
        (account / "token").write_text("token-of-the-pod")
        (account / "namespace").write_text(NAMESPACE)
        kubeconfig = folder / "kubeconfig"
        command = (sys.executable, "-m", "devcluster.apiserver", "--host", network.address, "--port", str(API_PORT))
        options = ("--certificate", str(certificate), "--kubeconfig", str(kubeconfig))
        await stack.enter_async_context(running(*command, *options, log=folder / "apiserver.log"))
        # It prints so when the kubeconfig is written.
        await eventually(
            lambda: "ready on" in (folder / "apiserver.log").read_text(), what="the API server has its port"
        )
        transport = await stack.enter_async_context(open_transport(str(kubeconfig)))
        kubernetes = Kubernetes(transport)

        async def answers() -> bool:
            try:
                await kubernetes.list(NODES)
            except Unavailable:
                return False
            return True

        await eventually(answers, what="the API server answers")
        await install(kubernetes)
        await register(kubernetes, NODE)
        yield Place(network.hosts["pod"], kubernetes, account, network.address)


def environment(container: Object, place: Place) -> dict[str, str]:
    """The variables that the manifest gives, those of the Pod's own fields included."""
    fields = {"spec.nodeName": NODE, "status.hostIP": place.host.address, "metadata.namespace": NAMESPACE}
    return {
        each["name"]: each.get("value") or fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
        for each in container.get("env", [])
    }


def mounts(pod: Object, container: Object, form: str, folder: Path, runtime: Path) -> list[Mount]:
    """The volumes that the manifest mounts."""
    objects = render(BASE if form == "base" else KNATIVE)
    sources: dict[str, Path | None] = {}
    for volume in pod.get("volumes", []):
        match volume:
            case {"emptyDir": _}:
                sources[volume["name"]] = None
                continue
            case {"hostPath": {"path": "/run/containerd"}}:
                sources[volume["name"]] = runtime
                continue
        (source := folder / "volumes" / volume["name"]).mkdir(parents=True)
        sources[volume["name"]] = source
        match volume:
            case {"configMap": {"name": name}}:
                for file, text in find(objects, "ConfigMap", name)["data"].items():
                    (source / file).write_text(text)
            case {"projected": _}:
                (source / "token").write_text("token-for-peers")
            case {"hostPath": _} | {"secret": _}:
                pass
            case _:
                raise AssertionError(f"nobody here knows the volume {volume}")
    found = []
    for mount in container.get("volumeMounts", []):
        source = sources[mount["name"]]
        if source is not None and (inner := mount.get("subPath")):
            source = source / inner
        found.append(Mount(mount["mountPath"], source, mount.get("readOnly", False)))
    return found


async def reports(place: Place) -> bool:
    """Whether the node has a report."""
    with contextlib.suppress(NotFound):
        return bool(await place.kubernetes.get(configmaps(NAMESPACE, report_name(NODE))))
    return False


async def is_ready(place: Place, container: Object) -> bool:
    """What the readiness probe of the container answers; `watch`, which has no port, is ready when it leads."""
    if "readinessProbe" not in container:
        leases = await place.kubernetes.list("/apis/coordination.k8s.io/v1/leases")
        return any(lease["spec"].get("holderIdentity") for lease in leases.items)
    asked = container["readinessProbe"]["httpGet"]
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    port: Any = asked.get("port", 8080)
    with contextlib.suppress(httpx.TransportError):
        async with httpx.AsyncClient(timeout=5) as http:
            answer = await http.get(f"http://{place.host.address}:{ports.get(port, port)}{asked['path']}")
            return answer.status_code == 200
    return False


async def shows_the_page(place: Place) -> None:
    """Templates and static files are in the image."""
    async with httpx.AsyncClient(timeout=5, base_url=f"http://{place.host.address}:8080/ui") as http:
        assert "<form" in (await http.get("/sign-in")).text
        for file in ("page.css", "page.js"):
            assert (await http.get(f"/static/{file}")).status_code == 200


def folder_of(containerd: Containerd) -> Path:
    """The folder of the socket of a runtime, which also has its usual name there."""
    (containerd.socket.parent / "containerd.sock").symlink_to(containerd.socket.name)
    return containerd.socket.parent


def checked(pod: Object, container: Object) -> int:
    """The user of the container; its rights must be those that `ContainerImage.command` gives."""
    context: Mapping[str, Any] = {**pod.get("securityContext", {}), **container["securityContext"]}
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    user: int = context["runAsUser"]
    return user


@pytest.mark.parametrize(
    ("form", "name", "pod", "container"), [pytest.param(*each, id=f"{each[0]}-{each[1]}") for each in programs()]
)
@real_time
async def test_each_container_of_the_manifests_becomes_ready_and_stops(
    image: ContainerImage, form: str, name: str, pod: Object, container: Object, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        place = await stack.enter_async_context(open_place(tmp_path))
        runtime = tmp_path
        if agent := name == "warmhook-agent":
            runtime = folder_of(await stack.enter_async_context(start_containerd()))
        account = Mount("/var/run/secrets/kubernetes.io/serviceaccount", place.account)
        (bundle := tmp_path / f"c-{form}-{name}").mkdir()
        command = image.command(
            bundle,
            container["command"],
            environment(container, place) | place.environ(),
            user=checked(pod, container),
            mounts=[account, *mounts(pod, container, form, tmp_path, runtime)],
            network=place.host.namespace,
        )
        if agent:
            await place.kubernetes.create(configmaps(NAMESPACE), {"metadata": {"name": f"warmhook-desired-{NODE}"}})
        log = tmp_path / "log"
        async with running(*command, log=log) as process:

            async def ready() -> bool:
                assert process.returncode is None, log.read_text()
                return await is_ready(place, container)

            try:
                await eventually(ready, what=f"{name} is ready", seconds=60)
            except TimeoutError:
                pytest.fail(f"{name} is not ready: {log.read_text()[-2000:]}")
            if agent:
                await eventually(functools.partial(reports, place), what="the agent reports")
            if form == "ui":
                await shows_the_page(place)
            # runc hands the signal on.
            process.terminate()
            status = await asyncio.wait_for(process.wait(), STOP_SECONDS)
        assert status == 0, log.read_text()
        assert "Traceback" not in log.read_text()
