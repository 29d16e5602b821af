"""Who may not read everything gets what can be known, and how to get the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Unavailable
from cli.explain.command import read_asked
from devcluster.apiserver import InProcessTransport
from tests.cli.commands import cluster_of, read_target, report
from tests.explain.scene import IMAGE, NODE, Scene, in_scene
from tests.handlers.world import HOST, digest, status
from warmhook.api import API_VERSION
from warmhook.explain import Explanation
from warmhook.ports import Response, Unreachable


def tenant(scene: Scene, user: str = "jane") -> InProcessTransport:
    """The connection of somebody who may view the namespace shop, and nothing else."""

    async def before(method: str, path: str) -> Response | None:
        if path.startswith("/apis/warmhook.dev/v1alpha1/namespaces/shop/") or path == "/version":
            return None
        verb = "create" if method == "POST" else "list"
        return status(403, f'things is forbidden: User "{user}" cannot {verb} resource "things"')

    return InProcessTransport(scene.world.server, user_agent="cli", before=before)


def by_subject(found: Explanation) -> dict[str, str]:
    return {check.subject: check.state for check in found.checks}


def test_a_tenant_learns_what_the_namespace_says_and_which_rights_are_missing() -> None:
    async def case(scene: Scene) -> None:
        await scene.warm()
        await scene.settled()
        found = await scene.explain(transport=tenant(scene))
        states = by_subject(found)
        assert [states[each] for each in ("delivery", "policy", "rule", "warmimage")] == ["ok"] * 4
        assert [states[each] for each in ("placement", "line", "agent", "report", "runtime")] == ["unknown"] * 5
        assert not found.warm
        told = {check.subject: check for check in found.checks}
        assert "1/1 nodes are warm" in told["runtime"].message
        assert told["placement"].mend == (
            "kubectl create clusterrole warmhook-explain-nodes --verb=get --resource=nodes && "
            "kubectl create clusterrolebinding warmhook-explain-nodes --clusterrole=warmhook-explain-nodes --user=jane"
        )
        assert "kubectl -n warmhook-system create role" in told["report"].mend

    in_scene(case)


@pytest.mark.parametrize("name", ["app", "warmimage/"])
def test_a_tenant_names_an_image_of_the_namespace_without_its_registry(name: str) -> None:
    async def case(scene: Scene) -> None:
        await scene.warm()
        key = (await scene.explain()).warmimage
        assert key is not None
        transport = tenant(scene)
        theirs = replace(cluster_of(scene.world), kubernetes=Kubernetes(transport), transport=transport)
        target = read_target(f"{name}{key.name}" if name.endswith("/") else name)
        reference, _ = await read_asked(theirs, "", target)
        assert str(reference) == IMAGE

    in_scene(case)


def test_a_tenant_learns_why_the_node_failed_from_the_status() -> None:
    async def case(scene: Scene) -> None:
        scene.pull_error("404")
        await scene.push()
        await scene.reported("failed", reason="NotFound")
        await scene.settled()
        found = await scene.explain(transport=tenant(scene))
        assert found.culprit is not None
        assert (found.culprit.subject, found.culprit.reason) == ("runtime", "NotFound")

    in_scene(case)


def test_a_tenant_without_a_policy_is_not_told_of_other_namespaces() -> None:
    async def case(scene: Scene) -> None:
        await scene.world.add_namespace("other")
        await scene.world.add_policy("theirs", namespace="other")
        found = await scene.explain(transport=tenant(scene))
        assert found.culprit is not None
        assert found.culprit.reason == "NoPolicy"
        assert "namespace shop" in found.culprit.message
        assert "theirs" not in str(found)

    in_scene(case, policy=False)


def test_a_service_account_is_granted_its_rights_as_one() -> None:
    async def case(scene: Scene) -> None:
        await scene.push()
        found = await scene.explain(transport=tenant(scene, "system:serviceaccount:ci:deployer"))
        mends = [check.mend for check in found.checks if check.state == "unknown" and check.mend]
        assert mends
        assert all("--serviceaccount=ci:deployer" in mend for mend in mends)

    in_scene(case)


@pytest.mark.parametrize("path", ["/nodes/", "/configmaps/", "/leases/", "subjectaccessreviews", "/warmimages"])
def test_one_read_that_fails_hides_no_other(path: str) -> None:
    async def case(scene: Scene) -> None:
        await scene.warm()

        async def before(_method: str, asked: str) -> Response | None:
            return status(500, "etcd is slow") if path in asked else None

        broken = InProcessTransport(scene.world.server, user_agent="cli", before=before)
        found = await scene.explain(transport=broken)
        states = list(by_subject(found).values())
        assert states.count("ok") >= 3
        assert "wrong" not in states
        assert "etcd is slow" in str(found.checks)

    in_scene(case)


def test_of_two_broken_things_the_earlier_one_is_named() -> None:
    async def case(scene: Scene) -> None:
        scene.pull_error("404")
        await scene.push()
        await scene.reported("failed", reason="NotFound")
        await scene.patch_policy({"template": {"nodes": {"selector": {"matchLabels": {"pool": "web"}}}}})
        await scene.settled()
        found = await scene.explain()
        assert found.culprit is not None
        assert (found.culprit.subject, found.culprit.reason) == ("placement", "NotSelected")

    in_scene(case)


@pytest.mark.parametrize("pushed", [True, False])
def test_of_a_node_that_does_not_exist_this_is_said_first_with_the_names_that_are_similar(*, pushed: bool) -> None:
    async def case(scene: Scene) -> None:
        await scene.world.add_nodes("node-20", "db-1")
        if pushed:
            await scene.push(secret="wrong")
        scene.asked_node = "node-2"
        found = await scene.explain()
        assert found.culprit is not None
        assert found.culprit.reason == "NodeNotFound"
        assert found.culprit.message == "there is no node node-2 in the cluster; similar: node-20, node-1"
        assert "DaemonSet" not in str(found)

    in_scene(case)


def test_a_broken_agent_is_shown_although_the_delivery_is_the_culprit() -> None:
    async def case(scene: Scene) -> None:
        await scene.settled()
        await scene.stop_agent()
        await scene.push(secret="wrong")
        await scene.pass_time(700)
        found = await scene.explain()
        assert found.culprit is not None
        assert found.culprit.subject == "delivery"
        assert by_subject(found)["agent"] == "wrong"

    in_scene(case)


def test_of_several_warmimages_of_an_image_the_one_that_is_warm_counts() -> None:
    async def case(scene: Scene) -> None:
        await scene.world.add_warmimage("elsewhere", IMAGE, nodes={"names": ["node-7"]})
        await scene.warm()
        found = await scene.explain()
        assert found.warm
        assert found.others == 1
        assert found.node == NODE
        # Whoever names one means that one.
        found = await scene.explain(warmimage="elsewhere")
        assert (str(found.warmimage), found.warm, found.others) == ("shop/elsewhere", False, 1)
        assert found.culprit is not None
        assert found.culprit.reason == "NotSelected"

    in_scene(case)


def test_of_a_pull_that_has_not_begun_only_what_the_report_shows_is_said() -> None:
    async def case(scene: Scene) -> None:
        await scene.settled()
        await scene.stop_agent()
        await scene.patch_policy({"push": [{"repository": f"{HOST}/shop/**", "keep": 2}]})
        await scene.push("v1")
        await scene.push("v2", content=digest("b"))
        await scene.settled()
        one = (await scene.explain()).warmimage
        scene.image = scene.image.replace("v1", "v2")
        two = (await scene.explain()).warmimage
        assert one is not None
        assert two is not None
        await report(scene.world, NODE, {one.name: "waiting", two.name: "waiting"})
        alone = (await scene.explain()).checks[-1]
        assert (alone.state, alone.message) == ("waiting", f"node {NODE} has not begun to pull it, and pulls no other")
        assert "logs warmhook-agent-x7k2p" in alone.mend
        await report(scene.world, NODE, {one.name: "pulling", two.name: "waiting"})
        behind = (await scene.explain()).checks[-1]
        assert behind.message == f"node {NODE} has not begun to pull it: it pulls 1 other image"

    in_scene(case)


def test_what_the_node_has_counts_more_than_a_warmimage_whose_earlier_links_are_in_order() -> None:
    async def case(scene: Scene) -> None:
        await scene.world.add_warmimage("elsewhere", IMAGE, nodes={"names": ["node-7"]})
        await scene.warm()
        await scene.stop_watch()
        await scene.admin.delete(f"/apis/{API_VERSION}/namespaces/shop/warmpolicies/shop")
        found = await scene.explain()
        assert found.warm
        assert found.culprit is not None
        assert found.culprit.reason == "PolicyGone"

    in_scene(case)


def test_no_command_changes_a_warmimage_whose_policy_would_change_it_back() -> None:
    async def case(scene: Scene) -> None:
        await scene.patch_policy({"suspend": True})
        await scene.push()
        await scene.settled()
        found = await scene.explain()
        mends = {check.subject: check.mend for check in found.checks if check.reason == "Suspended"}
        assert set(mends) == {"policy", "warmimage"}
        assert mends["warmimage"] == mends["policy"]

    in_scene(case)


def test_a_server_that_is_silent_is_asked_once() -> None:
    async def case(scene: Scene) -> None:
        asked = []

        async def before(_method: str, path: str) -> Response | None:
            asked.append(path)
            raise Unreachable("no answer")

        silent = InProcessTransport(scene.world.server, user_agent="cli", before=before)
        with pytest.raises(Unavailable, match="no answer"):
            await scene.explain(transport=silent)
        assert asked == ["/version"]

    in_scene(case)


def test_without_its_report_nobody_says_that_an_agent_which_has_no_pod_was_never_there() -> None:
    async def case(scene: Scene) -> None:
        await scene.warm()

        async def before(_method: str, path: str) -> Response | None:
            return status(403, "configmaps is forbidden") if "/configmaps/warmhook-report-" in path else None

        transport = InProcessTransport(scene.world.server, user_agent="cli", before=before)
        found = await scene.explain(transport=transport)
        agent = next(check for check in found.checks if check.subject == "agent")
        assert (agent.state, agent.reason) == ("unknown", "NotRead")
        assert "no Pod of the agent is on node" in agent.message

    in_scene(case, agent_pod=False)


def test_the_guard_of_the_addresses_of_nodes_is_not_opened_without_a_warning() -> None:
    async def case(scene: Scene) -> None:
        await scene.settled()
        await scene.stop_agent()
        await scene.push()
        await scene.settled()
        key = (await scene.explain()).warmimage
        assert key is not None
        await report(scene.world, NODE, {key.name: "failed"}, reason="Refused", message="169.254.169.254 is link-local")
        runtime = (await scene.explain()).checks[-1]
        assert runtime.reason == "Refused"
        assert runtime.mend.startswith("if nodes run this registry themselves, and no namespace may name another")

    in_scene(case)
