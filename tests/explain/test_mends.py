"""The command that mends a situation can be pasted, and mends it."""

from __future__ import annotations

import json
import shlex

import pytest

from adapters.kubernetes import paths
from tests.explain import broken_nodes, broken_origins
from tests.explain.broken import TABLE
from tests.explain.scene import IMAGE, Scene, in_scene
from tests.handlers.world import HOST, NAMESPACE
from warmhook.api import API_VERSION
from warmhook.ports import Object

MODULES = (broken_nodes, broken_origins)
MENDED = [
    "the_image_is_purged",
    "a_warmimage_of_a_person_is_suspended",
    "the_image_was_warmed_once",
    "the_policy_is_suspended",
    "the_selector_does_not_match_the_node",
    "the_node_has_a_taint",
    "the_node_is_cordoned_and_a_limit_takes_others",
    "the_limit_chooses_no_node",
    "the_rule_has_other_tags",
    "no_rule_has_the_repository",
    "somebody_edited_the_line",
    "the_namespace_may_not_use_the_node",
]
_PATHS = {
    "warmpolicy": f"/apis/{API_VERSION}/namespaces/shop/warmpolicies",
    "warmimage": f"/apis/{API_VERSION}/namespaces/shop/warmimages",
    "node": paths.NODES,
    "configmap": paths.configmaps(NAMESPACE),
}


async def kubectl(scene: Scene, words: list[str]) -> None:
    """Do what kubectl does with the few commands that are used here."""
    rest = [word for word in words[1:] if word != "--overwrite"]
    if rest[0] == "-n":
        rest = rest[2:]
    if rest[0] == "uncordon":
        await scene.patch_node({"spec": {"unschedulable": None}})
        return
    verb, kind, name, *given = rest
    path = f"{_PATHS[kind]}/{name}"
    if verb == "patch":
        how, change = given[1], given[3]
        headers = {"content-type": f"application/{'merge-patch' if how == 'merge' else 'json-patch'}+json"}
        answer = scene.world.server.handle("PATCH", path, {}, headers, change.encode())
        assert answer.status == 200, answer.body
        return
    key, _, value = given[0].partition("=")
    field = {"label": "labels", "annotate": "annotations"}[verb]
    changed = {key.removesuffix("-"): value if "=" in given[0] else None}
    await scene.admin.patch(path, {"metadata": {field: changed}})


@pytest.mark.parametrize("name", MENDED)
def test_after_its_command_the_situation_is_another_one(name: str) -> None:
    row = TABLE[name]

    async def case(scene: Scene) -> None:
        await row.break_it(scene)
        before = await scene.explain()
        assert before.culprit is not None
        await kubectl(scene, shlex.split(before.culprit.mend.partition(" && ")[0]))
        if not scene.watching:
            await scene.restart_watch()
        await scene.settled()
        await scene.world.sync()
        await scene.settled()
        after = await scene.explain()
        same = (before.culprit.subject, before.culprit.reason)
        assert after.culprit is None or (after.culprit.subject, after.culprit.reason) != same

    in_scene(case, **row.given)


def test_a_policy_can_be_pasted_where_there_is_none() -> None:
    async def case(scene: Scene) -> None:
        found = await scene.explain(namespace="shop")
        assert found.culprit is not None
        created, _, pushed = found.culprit.mend.partition(" && ")
        echo, policy, pipe, *create = shlex.split(created)
        # Of a policy that has this name `apply` would take the other rules.
        assert (echo, pipe, create) == ("echo", "|", ["kubectl", "create", "-f", "-"])
        # Without it a policy that takes pushes brings nothing.
        assert pushed.startswith(f"warmhook push {IMAGE} --to ")
        body: Object = json.loads(policy)
        assert body["metadata"]["namespace"] == "shop"
        await scene.admin.create(_PATHS["warmpolicy"], body)
        await scene.warm()
        assert (await scene.explain()).warm

    in_scene(case, policy=False)


def test_no_policy_of_another_namespace_is_changed_for_an_image_that_is_not_near_its_own() -> None:
    async def case(scene: Scene) -> None:
        await scene.world.add_namespace("other")
        await scene.world.add_policy("aaa", namespace="other")
        await scene.patch_policy({"push": [{"repository": "quay.io/cache/**"}]})
        await scene.world.admin.patch(
            f"/apis/{API_VERSION}/namespaces/other/warmpolicies/aaa",
            {"spec": {"push": [{"repository": "ghcr.io/a/**"}]}},
        )
        found = await scene.explain()
        assert found.culprit is not None
        assert found.culprit.reason == "NoPolicy"
        assert "kubectl create -f -" in found.culprit.mend
        await scene.patch_policy({"push": [{"repository": f"{HOST}/shop/web"}]})
        found = await scene.explain()
        assert found.culprit is not None
        assert "-n shop patch warmpolicy shop" in found.culprit.mend

    in_scene(case)


def test_what_a_newer_build_superseded_is_pushed_again_by_a_whole_command() -> None:
    async def case(scene: Scene) -> None:
        await TABLE["a_newer_build_took_its_place"].break_it(scene)
        found = await scene.explain()
        assert found.culprit is not None
        assert "--to '<URL of web>' --source " in found.culprit.mend

    in_scene(case, **TABLE["a_newer_build_took_its_place"].given)
