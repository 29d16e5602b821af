"""The command that mends a situation can be pasted, and mends it."""

from __future__ import annotations

import json
import shlex

import pytest

from adapters.kubernetes import paths
from tests.explain import broken_nodes, broken_origins
from tests.explain.broken import TABLE
from tests.explain.scene import Scene, in_scene
from tests.handlers.world import NAMESPACE
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
        echo, policy, pipe, *apply = shlex.split(found.culprit.mend)
        assert (echo, pipe, apply) == ("echo", "|", ["kubectl", "apply", "-f", "-"])
        body: Object = json.loads(policy)
        assert body["metadata"]["namespace"] == "shop"
        await scene.admin.create(_PATHS["warmpolicy"], body)
        await scene.warm()
        assert (await scene.explain()).warm

    in_scene(case, policy=False)
