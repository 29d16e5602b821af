"""`warmhook plan` says what a policy or a WarmImage would bring, names what is wrong with it, and writes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.warmimage import read_warmimage
from cli.plan.manifest_files import read_manifests
from cli.plan.output import print_plan
from cli.plan.run import Outcome, Planned, run_plan
from tests.cli.installed import HOST, NAMESPACE, NOW, SHOP, Installed, installed, prepared
from warmhook.api import API_VERSION, POLICY_LABEL
from warmhook.checks import Check
from warmhook.images import parse_reference
from warmhook.limits import LINES_PER_NODE
from warmhook.node_lines import desired_name, line_key, line_of, new_configmap, node_patch
from warmhook.node_report import LineReport, Report, report_name, report_patch
from warmhook.peers import PeerReport
from warmhook.placement import Node
from warmhook.ports import Object
from warmhook.preview import Facts, ImagePreview, NodeFacts, Wanted, preview, preview_nodes
from warmhook.timestamps import format_time
from warmhook.warmimages import ObjectKey, Template, WarmImage, policy_label, warmimage_name

DIGEST = "sha256:" + "a" * 64
GIB = 1024**3
WEB = f"{HOST}/shop/web:v1"
pytestmark = pytest.mark.usefixtures(prepared.__name__)
Before = Callable[[Installed], Awaitable[object]]


def policy(name: str = "new", **spec: Any) -> Object:
    return {"apiVersion": API_VERSION, "kind": "WarmPolicy", "metadata": {"name": name}, "spec": spec}


def warmimage(name: str = "one", image: str = WEB, **spec: Any) -> Object:
    metadata = {"name": name}
    return {"apiVersion": API_VERSION, "kind": "WarmImage", "metadata": metadata, "spec": {"image": image, **spec}}


def plan(folder: Path, *objects: Object, before: Before | None = None) -> Outcome:
    """What the command works out for a file with these objects."""
    file = folder / "objects.yaml"
    file.write_text("\n---\n".join(map(json.dumps, objects)))
    found: list[Outcome] = []

    async def test(here: Installed) -> None:
        if before is not None:
            await before(here)
        version = here.server.store.version
        found.append(await run_plan(here.cluster, read_manifests([str(file)], "shop", given=False), ask=False))
        assert here.server.store.version == version, "something was written"

    installed(test)
    return found[0]


def only(outcome: Outcome) -> Planned:
    (planned,) = outcome.objects
    return planned


def check(outcome: Outcome, subject: str) -> Check:
    checks = [each for planned in outcome.objects for each in planned.checks] + outcome.checks
    (found,) = [each for each in checks if each.subject == subject]
    return found


def images(outcome: Outcome) -> dict[str, ImagePreview]:
    shown = only(outcome).preview
    assert shown is not None
    return {image.image: image for image in shown.images}


async def hold(here: Installed, name: str, *nodes: str) -> None:
    """These nodes have the line of a WarmImage and are warm."""
    line = line_of(read_warmimage(await here.admin.get(f"{SHOP}/warmimages/{name}")))
    for node in nodes:
        uid = (await here.admin.get(paths.node(node)))["metadata"]["uid"]
        desired = new_configmap(desired_name(node), node_patch(node, uid, {line.key: line}))
        await here.admin.create(paths.configmaps(NAMESPACE), desired)
        report = report_patch(node, uid, NOW, {}, {line.key: LineReport(line.version, "warm")})
        await here.admin.patch(paths.configmaps(NAMESPACE, report_name(node)), report)


def resolved(size: int, platforms: list[str] | None = None) -> Object:
    found = {"image": f"{HOST}/shop/web@{DIGEST}", "digest": DIGEST, "sizeBytes": size, "checkedAt": format_time(NOW)}
    return {"resolved": {**found, "mediaType": "application/vnd.oci.image.index.v1+json", "platforms": platforms or []}}


# --- what it would bring ---------------------------------------------------------------------------------------------


def test_a_new_policy_with_images_would_bring_them_to_the_nodes_that_it_selects(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        await here.add_node("db-1", labels={"pool": "db"})

    template = {"nodes": {"selector": {"matchLabels": {"pool": "web"}}}}
    outcome = plan(tmp_path, policy(images=[WEB], template=template), before=before)
    assert (only(outcome).state, outcome.has_problems) == ("new", False)
    assert images(outcome)[WEB].nodes == {"node-1", "node-2", "node-3"}
    assert images(outcome)[WEB].change == "new"
    assert check(outcome, "nodes").message == "3 of 4 nodes are selected"
    assert check(outcome, "valid").state == "ok"


def test_what_nodes_have_is_not_pulled_and_sizes_come_from_known_warmimages(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        await here.add_warmimage("known", WEB, digest=DIGEST, status=resolved(GIB))
        await hold(here, "known", "node-1")

    image = images(plan(tmp_path, warmimage(digest=DIGEST), before=before))[f"{HOST}/shop/web@{DIGEST}"]
    assert image.present == {"node-1"}
    assert image.pulling == {"node-2", "node-3"}
    assert image.size_bytes == GIB


def test_sizes_and_presence_come_from_kubelets_as_well(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        names = ["docker.io/library/nginx:1.25", f"docker.io/library/nginx@{DIGEST}"]
        await here.add_node("node-4", images=[{"names": names, "sizeBytes": 70_000_000}, {"names": ["<none>@<none>"]}])

    image = images(plan(tmp_path, policy(images=["nginx:1.25"]), before=before))["docker.io/library/nginx:1.25"]
    assert image.present == {"node-4"}
    assert image.size_bytes == 70_000_000


def test_a_known_push_that_a_rule_would_take_comes_with_the_next_push(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        pushed = {"digest": DIGEST, "metadata": {"labels": {POLICY_LABEL: "of-another-policy"}}}
        for tag, at in (("v1", "2026-02-01T00:00:00Z"), ("v2", "2026-02-02T00:00:00Z")):
            await here.add_warmimage(tag, f"{HOST}/shop/web:{tag}", pushedAt=at, **pushed)
        await here.add_warmimage("other", f"{HOST}/team/web:v1", pushedAt="2026-02-01T00:00:00Z", **pushed)

    found = images(plan(tmp_path, policy(push=[{"repository": f"{HOST}/shop/**"}]), before=before))
    assert {name: image.change for name, image in found.items()} == {f"{HOST}/shop/web:v2": "next push"}


def test_images_of_existing_pods_and_of_rollouts_are_part_of_the_plan(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        spec = {"containers": [{"name": "app", "image": f"{HOST}/shop/pod:v1"}], "nodeName": "node-1"}
        await here.admin.create(paths.pods("shop"), {"metadata": {"name": "p", "labels": {"app": "a"}}, "spec": spec})

    found = images(plan(tmp_path, policy(pods={"selector": {}, "existing": True}), before=before))
    assert {name: image.change for name, image in found.items()} == {f"{HOST}/shop/pod:v1": "new"}


def test_pods_that_may_not_be_read_are_unknown(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        here.refused.append("/pods")

    running = {"nodes": {"runningPods": {"matchLabels": {"app": "a"}}}}
    outcome = plan(tmp_path, policy(images=[WEB], template=running), before=before)
    assert images(outcome)[WEB].pods_unknown
    assert check(outcome, "pods").state == "unknown"
    assert not outcome.has_problems


def test_a_limit_counts_for_each_image(tmp_path: Path) -> None:
    outcome = plan(tmp_path, warmimage(nodes={"limit": "50%"}))
    assert len(images(outcome)[WEB].nodes) == 2
    assert check(outcome, "nodes").message == "3 of 3 nodes are selected, of which each image gets 2"


# --- what changes ----------------------------------------------------------------------------------------------------


def test_a_changed_policy_is_compared_with_the_one_of_its_name(tmp_path: Path) -> None:
    policy_name = "named"

    async def before(here: Installed) -> None:
        await here.add_policy(policy_name, images=[WEB])
        key = ObjectKey("shop", policy_name)
        name = warmimage_name(key, parse_reference(WEB))
        metadata = {"labels": {POLICY_LABEL: policy_label(key)}}
        await here.add_warmimage(name, WEB, metadata=metadata, policyName=policy_name)
        await hold(here, name, "node-1")

    template = {"nodes": {"names": ["node-1"]}}
    other = f"{HOST}/shop/other:v1"
    outcome = plan(tmp_path, policy(policy_name, images=[other], template=template), before=before)
    shown = only(outcome).preview
    assert shown is not None
    assert only(outcome).state == "changed"
    assert shown.nodes_removed == {"node-2", "node-3"}
    assert {name: image.change for name, image in images(outcome).items()} == {other: "new", WEB: "removed"}
    assert images(outcome)[WEB].nodes == {"node-1"}
    (node,) = outcome.nodes
    assert (node.facts.node.name, node.lines_before, node.lines_after) == ("node-1", 1, 1)


def test_an_object_that_is_applied_already_is_unchanged(tmp_path: Path) -> None:
    shipped = policy("shop", push=[{"repository": f"{HOST}/shop/**"}])
    assert only(plan(tmp_path, shipped)).state == "unchanged"


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        (policy(push=[{"repository": "x/**", "keep": 0}]), "spec.push[0].keep: "),
        (policy(push=[{"repository": "x/**", "sever": ">1"}]), '"spec.push[0].sever"'),
        (policy(images=["UPPER"]), "spec.images[0]"),
        (policy(template={"nodes": {"limit": "200%"}}), "spec.template"),
        (policy(push=[{"repository": f"{HOST}/**", "semver": "nonsense >"}]), "spec.push[0].semver: "),
        (warmimage(image="a b"), "image"),
        (warmimage(pull={"priority": "high"}), "spec.pull.priority"),
    ],
)
def test_a_field_that_is_not_accepted_is_named_with_its_path(tmp_path: Path, obj: Object, field: str) -> None:
    outcome = plan(tmp_path, obj)
    assert outcome.has_problems
    problems = [each.message for each in only(outcome).checks if (each.subject, each.state) == ("valid", "wrong")]
    assert any(field in problem for problem in problems), problems


def test_the_image_of_a_warmimage_cannot_be_changed(tmp_path: Path) -> None:
    outcome = plan(tmp_path, warmimage("one", "x/y:2"), before=lambda here: here.add_warmimage("one", "x/y:1"))
    assert outcome.has_problems
    assert "spec.image" in check(outcome, "valid").message


def test_a_namespace_that_is_not_there_is_wrong_unless_the_file_creates_it(tmp_path: Path) -> None:
    obj = policy(images=[WEB])
    obj["metadata"]["namespace"] = "nowhere"
    outcome = plan(tmp_path, obj)
    assert check(outcome, "namespace").mend == "kubectl create namespace nowhere"
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "nowhere"}}
    outcome = plan(tmp_path, namespace, obj)
    assert check(outcome, "valid").state == "unknown"
    assert not outcome.has_problems


def test_without_the_right_to_create_it_the_command_checks_it_alone(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        here.refused.append("namespaces/shop/warmpolicies")
        here.cluster.kubernetes._transport.before = only_posts(here)  # type: ignore[attr-defined]

    outcome = plan(tmp_path, policy(images=[WEB]), before=before)
    assert check(outcome, "valid").message == "the API server did not check it: no"
    assert not outcome.has_problems


def only_posts(here: Installed) -> Callable[[str, str], Awaitable[Any]]:
    async def before(method: str, path: str) -> Any:
        return await here._before(method, path) if method == "POST" else None

    return before


@pytest.mark.parametrize(
    ("nodes", "reason", "words"),
    [
        ({"selector": {"matchLabels": {"pool": "nope"}}}, "NoNodes", "none of 3 nodes is selected"),
        ({"names": ["node-1", "node-9"]}, "NoSuchNode", "node-9: no such node"),
    ],
)
def test_a_template_that_selects_nothing_is_wrong(tmp_path: Path, nodes: Object, reason: str, words: str) -> None:
    found = check(plan(tmp_path, policy(images=[WEB], template={"nodes": nodes})), "nodes")
    assert (found.state, found.reason) == ("wrong", reason)
    assert words in found.message


async def limit_shop(here: Installed, entry: str) -> None:
    config = f"namespaces: [{{names: [shop], {entry}}}]"
    await here.admin.patch(paths.configmaps(NAMESPACE, "warmhook-handlers-config"), {"data": {"config.yaml": config}})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"pull": {"pinned": True}}, "spec.pull.pinned: not allowed in namespace shop"),
        ({"pull": {"priority": 500}}, "spec.pull.priority: the highest of namespace shop is 10"),
        ({"onRemoval": "Delete"}, "spec.onRemoval: Delete is not allowed"),
    ],
)
def test_what_the_namespace_may_not_have_is_wrong(tmp_path: Path, spec: Object, words: str) -> None:
    found = check(
        plan(tmp_path, warmimage(**spec), before=lambda here: limit_shop(here, "highestPriority: 10")), "limits"
    )
    assert (found.state, found.reason) == ("wrong", "NotAllowed")
    assert words in found.message


def test_nodes_that_the_namespace_may_not_use_are_left_out(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        await here.add_node("team-1", labels={"pool": "team"})
        await limit_shop(here, "nodes: {matchLabels: {pool: team}}")

    outcome = plan(tmp_path, policy(images=[WEB]), before=before)
    assert images(outcome)[WEB].nodes == {"team-1"}
    assert "only nodes that the namespace may use" in check(outcome, "limits").message


def test_limits_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        here.refused.append("/deployments")

    found = check(plan(tmp_path, policy(images=[WEB]), before=before), "limits")
    assert (found.state, found.reason) == ("unknown", "Unread")


def test_an_image_that_does_not_fit_on_a_disk_is_wrong(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        await here.add_node("small", capacity={"ephemeral-storage": "2Gi"})
        await here.add_warmimage("known", WEB, digest=DIGEST, status=resolved(GIB))

    outcome = plan(tmp_path, warmimage(digest=DIGEST), before=before)
    found = check(outcome, "disk")
    assert (found.state, found.reason) == ("wrong", "NotEnoughDisk")
    assert "such as small: about 3.5 GiB needed, at most 1.6 GiB free" in found.message
    assert outcome.has_problems


def test_a_node_with_disk_pressure_has_no_room(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        await here.add_node("full", conditions=[{"type": "DiskPressure", "status": "True"}])

    found = check(plan(tmp_path, warmimage(), before=before), "disk")
    assert (found.state, found.reason) == ("wrong", "NotEnoughDisk")
    assert "such as full: it has DiskPressure" in found.message


def test_more_images_than_a_namespace_may_have_on_a_node_are_wrong(tmp_path: Path) -> None:
    names = [f"{HOST}/shop/web:{number}" for number in range(5)]
    outcome = plan(tmp_path, policy(images=names), before=lambda here: limit_shop(here, "linesPerNode: 3"))
    found = check(outcome, "lines")
    assert (found.state, found.reason) == ("wrong", "TooManyLines")
    assert "3 nodes have no room for all images" in found.message
    assert all(len(node.refused) == 2 for node in outcome.nodes)


def test_an_image_for_another_platform_is_named(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        await here.add_warmimage("one", WEB, digest=DIGEST, status=resolved(GIB, ["linux/arm64"]))

    outcome = plan(tmp_path, warmimage("one", digest=DIGEST), before=before)
    assert check(outcome, "platform").state == "wrong"
    assert images(outcome)[f"{HOST}/shop/web@{DIGEST}"].pulling == frozenset()


def test_nodes_without_an_agent_are_waited_for(tmp_path: Path) -> None:
    found = check(plan(tmp_path, warmimage(), before=lambda here: here.add_node("node-4")), "agents")
    assert (found.state, found.message) == ("waiting", "1 of the nodes have no agent, 0 have a silent one: node-4")


def test_unknown_sizes_are_said_to_be_unknown(tmp_path: Path) -> None:
    outcome = plan(tmp_path, warmimage())
    assert check(outcome, "sizes").state == "unknown"
    assert check(outcome, "disk").state == "unknown"
    assert not outcome.has_problems


def test_what_is_on_nodes_may_be_unreadable_and_is_then_unknown(tmp_path: Path) -> None:
    async def before(here: Installed) -> None:
        here.refused.append(f"namespaces/{NAMESPACE}/configmaps")

    outcome = plan(tmp_path, warmimage(), before=before)
    assert "what is on the nodes could not be read" in check(outcome, "read").message


# --- many nodes ------------------------------------------------------------------------------------------------------


def many(count: int, *, peers: bool) -> list[NodeFacts]:
    """Nodes with 200 other images each; with `peers` their agents serve images."""
    others = frozenset(line_key(ObjectKey("other", f"w{number}")) for number in range(200))
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    found = []
    for number in range(count):
        name = f"node-{number:04}"
        peer = PeerReport(f"10.0.{number // 250}.{number % 250}:9465", "k" * 43) if peers else None
        report = Report(name, NOW, peer=peer)
        found.append(NodeFacts(Node(name, name, labels), others, report=report, disk_bytes=200 * GIB))
    return found


def wanted(count: int, **template: Any) -> Wanted:
    """A new policy with so many images."""
    key, given = ObjectKey("shop", "many"), Template(**template)
    after = [
        WarmImage(ObjectKey("shop", f"i{number}"), parse_reference(f"{HOST}/shop/i{number}:v1"), template=given)
        for number in range(count)
    ]
    return Wanted("WarmPolicy", key, given, after=after)


def test_large_images_for_many_nodes_come_from_other_nodes() -> None:
    sizes = {f"{HOST}/shop/i0:v1": GIB}
    by_peers = preview(wanted(1), Facts(NOW, many(200, peers=True), sizes=sizes)).images[0]
    direct = preview(wanted(1), Facts(NOW, many(200, peers=False), sizes=sizes)).images[0]
    assert (by_peers.outcome, direct.outcome) == ("Peers", "TooFewNodes")
    assert by_peers.readers < 20
    assert direct.readers == 200
    assert 0 < by_peers.seconds * 10 < direct.seconds


@pytest.mark.slow
def test_two_hundred_images_for_five_thousand_nodes_are_planned_within_a_minute() -> None:
    sizes = {f"{HOST}/shop/i{number}:v1": GIB for number in range(200)}
    began = time.process_time()
    facts = Facts(NOW, many(5_000, peers=True), sizes=sizes)
    nodes = preview_nodes([preview(wanted(200), facts)], facts)
    assert time.process_time() - began < 60
    assert len(nodes) == 5_000
    assert {node.pull_bytes for node in nodes} == {200 * GIB}
    assert {len(node.refused) for node in nodes} == {200 - LINES_PER_NODE}


# --- several objects, and how it is printed --------------------------------------------------------------------------


def test_several_objects_share_the_room_of_a_node(tmp_path: Path) -> None:
    objects = [warmimage(f"w{number}", f"{HOST}/shop/web:{number}") for number in range(3)]
    outcome = plan(tmp_path, *objects, {"kind": "Service"})
    assert [planned.key.name for planned in outcome.objects] == ["w0", "w1", "w2"]
    assert {node.lines_after for node in outcome.nodes} == {3}
    assert check(outcome, "files").message == "1 object of another kind is not part of the plan"


def test_json_has_what_the_tables_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(plan(tmp_path, warmimage()), "json")
    printed = json.loads(capsys.readouterr().out)
    assert printed["objects"][0]["images"][0]["pulling"] == ["node-1", "node-2", "node-3"]
    assert "sizeBytes" not in printed["objects"][0]["images"][0]
    assert printed["nodes"][0]["freeBytesAtMost"] == 80 * GIB
    assert {each["subject"] for each in printed["checks"]} == {"disk", "lines"}


def test_the_table_names_images_nodes_and_what_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(plan(tmp_path, warmimage()), "table")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["WarmImage shop/one: new", "nodes: node-1, node-2, node-3"]
    assert lines[3].split() == [WEB, "new", "3", "0", "unknown", "unknown", "registry"]
    assert any(line.startswith("node-1   0        1") for line in lines)


def test_a_hostile_image_name_reaches_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(plan(tmp_path, policy(images=["\x1b[31mred"])), "wide")
    assert "\x1b[31m" not in capsys.readouterr().out


def test_a_line_key_is_that_of_the_handlers() -> None:
    assert (
        line_key(ObjectKey("shop", "one"))
        == line_of(read_warmimage({**warmimage(), "metadata": {"namespace": "shop", "name": "one"}})).key
    )
