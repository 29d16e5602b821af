"""What is broken between the WarmImage and the runtime of the node."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from adapters.kubernetes import paths
from adapters.kubernetes.errors import NotFound
from tests.explain.broken import culprit
from tests.explain.scene import AGENTS, IMAGE, NODE, Scene, add_agent_pod
from tests.handlers.world import DIGEST, HOST, NAMESPACE, SOURCES, digest, status
from warmhook.api import API_VERSION
from warmhook.node_lines import desired_name
from warmhook.node_report import report_name
from warmhook.platforms import Platform
from warmhook.ports import ImageConfig, Object

_WARMIMAGES: Final = f"/apis/{API_VERSION}/namespaces/shop/warmimages"

_TEAMS: Final = "namespaces: [{names: [shop], nodes: {matchLabels: {pool: teams}}}]\n"


async def _placed(scene: Scene, **nodes: Any) -> None:
    """Push the image with these `nodes` in the policy."""
    await scene.patch_policy({"template": {"nodes": nodes}})
    await scene.push()
    await scene.settled()


async def _patch_warmimage(scene: Scene, change: Object) -> None:
    (name,) = [obj["metadata"]["name"] for obj in (await scene.world.warmimages()).values()]
    await scene.admin.patch(f"{_WARMIMAGES}/{name}", change)
    await scene.settled()


# --- the WarmImage ---


@culprit("warmimage", "Purged", "warmhook.dev/purge-")
async def the_image_is_purged(scene: Scene) -> None:
    await scene.warm()
    await _patch_warmimage(scene, {"metadata": {"annotations": {"warmhook.dev/purge": "true"}}})


@culprit("warmimage", "Suspended", '"suspend":false', policy=False)
async def a_warmimage_of_a_person_is_suspended(scene: Scene) -> None:
    await scene.world.add_warmimage("mine", suspend=True)
    await scene.settled()


@culprit("warmimage", "Complete", '"type":"Keep"')
async def the_image_was_warmed_once(scene: Scene) -> None:
    await scene.patch_policy({"template": {"lifetime": {"type": "Once"}}})
    await scene.warm()
    await scene.settled()


@culprit(
    "warmimage",
    "BeyondLimits",
    "namespace shop in the section namespaces",
    sources=SOURCES + "namespaces: [{names: [shop], images: ['other.example.com/**']}]\n",
)
async def the_namespace_may_not_have_the_image(scene: Scene) -> None:
    await scene.push()
    await scene.settled()


@culprit("warmimage", "Invalid", "edit warmimage mine", policy=False, patterns=False)
async def the_warmimage_cannot_be_read(scene: Scene) -> None:
    await scene.world.add_warmimage("mine", nodes={"limit": "many"})
    await scene.settled()


# --- placement ---


@culprit("placement", "NotSelected", f"kubectl label node {NODE} pool=web")
async def the_selector_does_not_match_the_node(scene: Scene) -> None:
    await _placed(scene, selector={"matchLabels": {"pool": "web"}})


@culprit("placement", "NotSelected", "edit warmpolicy shop")
async def the_node_is_of_another_pool(scene: Scene) -> None:
    await scene.patch_node({"metadata": {"labels": {"pool": "db"}}})
    await _placed(scene, selector={"matchLabels": {"pool": "web"}})


@culprit("placement", "NotSelected", "edit warmpolicy shop")
async def the_names_do_not_have_the_node(scene: Scene) -> None:
    await _placed(scene, names=["node-2"])


@culprit("placement", "Tainted", '"value":{"key":"gpu","operator":"Exists"}')
async def the_node_has_a_taint(scene: Scene) -> None:
    await scene.patch_node({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}})
    await _placed(scene, tolerations=[{"key": "other", "operator": "Exists"}])


@culprit("placement", "Cordoned", f"kubectl uncordon {NODE}")
async def the_node_is_cordoned_and_a_limit_takes_others(scene: Scene) -> None:
    await scene.world.add_nodes("node-2")
    await scene.patch_node({"spec": {"unschedulable": True}})
    await _placed(scene, limit=1)


@culprit("placement", "BeyondLimit", '"limit":null')
async def the_limit_chooses_no_node(scene: Scene) -> None:
    await _placed(scene, limit=0)


@culprit("placement", "NodeNotFound", "kubectl get nodes")
async def there_is_no_such_node(scene: Scene) -> None:
    await scene.push()
    await scene.settled()
    scene.asked_node = "node-9"


@culprit("placement", "NoRunningPods", "get pods -o wide")
async def no_pod_of_the_kind_runs_on_the_node(scene: Scene) -> None:
    await _placed(scene, runningPods={"matchLabels": {"app": "web"}})


@culprit("placement", "PodsUnknown", "create rolebinding warmhook-pods")
async def the_handlers_may_not_read_pods(scene: Scene) -> None:
    scene.world.answer(status(403, "pods is forbidden"), "GET", "/namespaces/shop/pods")
    await _placed(scene, runningPods={"matchLabels": {"app": "web"}})


@culprit("placement", "NotSelected", "pool=teams", sources=SOURCES + _TEAMS)
async def the_namespace_may_not_use_the_node(scene: Scene) -> None:
    """The configuration of the handlers is in the objects of the manifests too."""
    await scene.configure_handlers(_TEAMS)
    await scene.push()
    await scene.settled()


# --- lines ---


@culprit(
    "line",
    "TooManyLines",
    '"priority":10',
    sources=SOURCES + "namespaces: [{names: [shop], linesPerNode: 1}]\n",
)
async def the_node_has_no_room_for_the_line(scene: Scene) -> None:
    await scene.world.add_warmimage("other", f"{HOST}/shop/other:v1", pull={"priority": 10})
    await scene.settled()
    await scene.push()
    await scene.settled()
    await scene.world.sync()
    await scene.settled()


@culprit("line", "NotWritten", "rollout restart deployment warmhook-handlers")
async def the_line_was_not_written(scene: Scene) -> None:
    """The API server answers that it cannot take the ConfigMap."""
    scene.world.answer(status(500, "etcd is full"), "POST PATCH", f"/namespaces/{NAMESPACE}/configmaps")
    await scene.push()
    await scene.pass_time(120)


@culprit("line", "Malformed", f"label configmap {desired_name(NODE)} line.warmhook.dev/")
async def somebody_edited_the_line(scene: Scene) -> None:
    await scene.warm()
    await scene.stop_watch()
    path = paths.configmaps(NAMESPACE, desired_name(NODE))
    key = next(iter((await scene.admin.get(path))["data"]))
    await scene.admin.patch(path, {"data": {key: "{}"}})


# --- the agent ---


async def _agent_pod_gone(scene: Scene) -> None:
    await scene.stop_agent()
    await scene.admin.delete(f"{paths.pods(AGENTS)}/warmhook-agent-x7k2p")


@culprit("agent", "AgentMissing", "describe daemonset warmhook-agent")
async def no_agent_was_ever_on_the_node(scene: Scene) -> None:
    await _agent_pod_gone(scene)
    await scene.admin.delete(paths.configmaps(NAMESPACE, report_name(NODE)))
    await scene.push()
    await scene.pass_time(120)


@culprit("agent", "AgentGone", "describe daemonset warmhook-agent")
async def the_agent_is_gone(scene: Scene) -> None:
    await scene.settled()
    await _agent_pod_gone(scene)
    await scene.push()
    await scene.pass_time(700)


@culprit("agent", "AgentSilent", "logs warmhook-agent-x7k2p")
async def the_agent_is_silent(scene: Scene) -> None:
    await scene.settled()
    await scene.stop_agent()
    await scene.push()
    await scene.pass_time(700)


@culprit("agent", "AgentNotRunning", "logs warmhook-agent-x7k2p --previous", agent_pod=False)
async def the_agent_crashes(scene: Scene) -> None:
    """The status of the Pod is written as a kubelet writes it."""
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container=agent"}
    await scene.stop_agent()
    container = {"name": "agent", "restartCount": 7, "state": {"waiting": waiting}}
    await add_agent_pod(scene.world, phase="Running", containerStatuses=[container])
    await scene.push()
    await scene.settled()


@culprit("agent", "NodeNotReady", f"kubectl describe node {NODE}")
async def the_node_is_not_ready(scene: Scene) -> None:
    """The condition is written as the node controller writes it."""
    await scene.settled()
    await scene.stop_agent()
    ready = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting"}
    await scene.admin.patch(f"{paths.node(NODE)}/status", {"status": {"conditions": [ready]}})
    await scene.push()
    await scene.pass_time(700)


@culprit("agent", "ClockWrong", "kubectl get node")
async def the_clock_of_the_node_is_wrong(scene: Scene) -> None:
    """The time is written as an agent with such a clock writes it."""
    await scene.settled()
    await scene.stop_agent()
    await scene.push()
    path = paths.configmaps(NAMESPACE, report_name(NODE))
    await scene.admin.patch(path, {"metadata": {"annotations": {"warmhook.dev/seen": "2026-03-02T12:00:00Z"}}})


# --- the report ---


@culprit("report", "Forbidden", "kubectl apply --server-side -k .")
async def the_agent_may_not_write_its_report(scene: Scene) -> None:
    """The embedded API server enforces no RBAC, so the agent is refused here."""
    rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/warmhook-system/rolebindings/warmhook-agent"
    await scene.admin.delete(rbac)
    collection = paths.configmaps(NAMESPACE)
    scene.node.refuse("POST", collection, 403, "Forbidden")
    scene.node.refuse("PATCH", f"{collection}/{report_name(NODE)}", 403, "Forbidden")
    with contextlib.suppress(NotFound):
        await scene.admin.delete(f"{collection}/{report_name(NODE)}")
    await scene.push()
    await scene.pass_time(120)


# --- the runtime ---


@culprit("runtime", "RuntimeDown", f"ssh {NODE} sudo systemctl restart containerd")
async def the_runtime_does_not_answer(scene: Scene) -> None:
    await scene.settled()
    scene.runtime.unreachable = True
    await scene.pass_time(60)
    await scene.push()
    await scene.reported("waiting", reason="RuntimeError")


@culprit("runtime", "DiskFull", f"ssh {NODE} sudo crictl rmi --prune")
async def the_disk_is_full(scene: Scene) -> None:
    scene.pull_error("full disk at a copy")
    await scene.push()
    await scene.reported("failed", reason="DiskFull")


@culprit("runtime", "NotFound", "warmhook.dev/refresh=")
async def the_registry_does_not_have_the_image(scene: Scene) -> None:
    scene.pull_error("404")
    await scene.push()
    await scene.reported("waiting", "failed", reason="NotFound")


@culprit("runtime", "Unauthorized", '"secrets":["<secret>"]')
async def the_registry_wants_an_account(scene: Scene) -> None:
    scene.pull_error("401")
    await scene.push()
    await scene.reported("waiting", "failed", reason="Unauthorized")


@culprit("runtime", "Network", f"https://{HOST}/v2/")
async def the_registry_is_down(scene: Scene) -> None:
    scene.pull_error("no route")
    await scene.push()
    await scene.reported("waiting", "failed", reason="Network")


@culprit("runtime", "Timeout", f"https://{HOST}/v2/")
async def the_pull_takes_too_long(scene: Scene) -> None:
    scene.pull_error("deadline of the call")
    await scene.push()
    await scene.reported("waiting", "failed", reason="Timeout")


@culprit("runtime", "RateLimited", '"secrets":["<secret>"]')
async def the_registry_limits_requests(scene: Scene) -> None:
    scene.pull_error("429")
    await scene.push()
    await scene.reported("waiting", "failed", reason="RateLimited")


@culprit("runtime", "PlatformMissing", "for the platform of the node")
async def the_image_is_for_another_platform(scene: Scene) -> None:
    scene.runtime.configs[DIGEST] = ImageConfig(Platform("linux", "s390x"), layers=1)
    await scene.push()
    await scene.reported("waiting", "failed", reason="PlatformMissing")


@culprit("runtime", "NotRunnable", f"push a container image as {IMAGE}")
async def the_image_is_a_chart(scene: Scene) -> None:
    scene.runtime.configs[DIGEST] = ImageConfig(layers=0)
    await scene.push()
    await scene.reported("waiting", "failed", reason="NotRunnable")


@culprit("runtime", "TagMoved", f"--digest {digest('b')}")
async def the_tag_moved_without_a_delivery(scene: Scene) -> None:
    scene.runtime.registry[IMAGE] = digest("b")
    await scene.push()
    await scene.reported("warm")


@culprit("runtime", "Pulling", "")
async def the_pull_is_under_way(scene: Scene) -> None:
    scene.runtime.hanging.add(IMAGE)
    await scene.push()
    await scene.reported("pulling")
