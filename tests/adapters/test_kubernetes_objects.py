"""The API server accepts the CRDs, and objects and values agree."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.crd import structural_schema
from adapters.kubernetes.errors import Refused
from adapters.kubernetes.spec import InvalidObject
from adapters.kubernetes.warmimage import read_warmimage, warmimage_crd, warmimage_object, warmimage_patch
from adapters.kubernetes.warmpolicy import read_warmpolicy, warmpolicy_crd
from devcluster.apiserver import ApiServer, InProcessTransport
from tests.support.crds import every_field
from warmhook.api import API_VERSION
from warmhook.cron import NotASchedule, parse_schedule
from warmhook.images import Reference, parse_reference
from warmhook.labels import Requirement, Selector, parse_selector
from warmhook.node_lines import line_of
from warmhook.ports import Object
from warmhook.rules import PushRule
from warmhook.semver import parse_range
from warmhook.warmimages import (
    Limit,
    Nodes,
    ObjectKey,
    Once,
    PodOrigin,
    PodOwner,
    Pull,
    Refresh,
    Source,
    Template,
    WarmImage,
    Window,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICIES = "/apis/warmhook.dev/v1alpha1/namespaces/default/warmpolicies"
WARMIMAGES = paths.warmimages_in("default")


# --- the schemas -----------------------------------------------------------------------------------------------------


def crd_schemas() -> list[dict[str, Any]]:
    return [schema for _, schema in every_field()]


FORBIDDEN = {
    "$ref", "$defs", "const", "discriminator", "exclusiveMinimum", "exclusiveMaximum", "examples", "title", "oneOf",
    "allOf", "propertyNames", "patternProperties", "prefixItems",
}  # fmt: skip


def test_nothing_is_in_the_schemas_that_the_api_server_refuses() -> None:
    for each in crd_schemas():
        assert not FORBIDDEN & each.keys()
        assert each.get("type") != "null"
        assert each.get("additionalProperties") is not False
        assert "anyOf" not in each or each.get("x-kubernetes-int-or-string")
        assert "type" in each or "x-kubernetes-int-or-string" in each


def test_everything_in_the_schemas_is_bounded() -> None:
    for each in crd_schemas():
        if each.get("type") == "array":
            assert "maxItems" in each
        if each.get("type") == "string":
            assert {"maxLength", "enum"} & each.keys()
        if "additionalProperties" in each:
            assert "maxProperties" in each


def test_objects_start_empty_and_their_fields_fill_them() -> None:
    for each in crd_schemas():
        if each.get("type") == "object" and "default" in each:
            assert each["default"] == {}


def test_a_schema_that_the_api_server_would_refuse_is_refused_when_it_is_built() -> None:
    class Unbounded(BaseModel):
        names: list[str]

    class Mapped(BaseModel):
        labels: dict[str, bool]

    for model in (Unbounded, Mapped):
        with pytest.raises(ValueError, match="needs"):
            structural_schema(model)


# --- on a server -----------------------------------------------------------------------------------------------------


class Server:
    """An API server with both CRDs."""

    def __init__(self) -> None:
        self.kubernetes = Kubernetes(InProcessTransport(ApiServer(lambda: NOW, Random(1))))

    async def created(self, collection: str, spec: dict[str, Any]) -> Object:
        for crd in (warmimage_crd(), warmpolicy_crd()):
            await self.kubernetes.create(paths.CRDS, crd)
        kind = "WarmPolicy" if collection == POLICIES else "WarmImage"
        body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
        return await self.kubernetes.create(collection, body)


def created(collection: str, spec: dict[str, Any]) -> Object:
    return asyncio.run(Server().created(collection, spec))


def test_the_server_fills_in_every_default() -> None:
    policy = created(POLICIES, {"push": [{"repository": "ghcr.io/**"}]})
    assert policy["spec"] == {
        "images": [],
        "push": [{"repository": "ghcr.io/**", "tags": ["*"], "exclude": [], "untagged": False, "keep": 1}],
        "preferWarm": False,
        "suspend": False,
        "template": {
            "nodes": {"names": []},
            "pull": {
                "policy": "IfNotPresent",
                "timeoutSeconds": 600,
                "backoffLimit": 3,
                "priority": 0,
                "pinned": False,
                "secrets": [],
                "sharePrivate": False,
                "refreshWindows": [],
            },
            "lifetime": {"type": "Keep"},
            "onRemoval": "Retain",
        },
    }
    assert read_warmpolicy(policy).template == Template()


def test_the_defaults_of_the_crds_are_those_of_the_values() -> None:
    bare: Object = {"metadata": {"namespace": "default", "name": "x"}, "spec": {"push": [{"repository": "ghcr.io/**"}]}}
    filled = read_warmpolicy(created(POLICIES, bare["spec"]))
    assert filled.push == read_warmpolicy(bare).push == (PushRule("ghcr.io/**"),)
    assert filled.template == read_warmpolicy(bare).template


def test_a_source_is_read_as_it_was_meant() -> None:
    source = {"mode": "peers", "seeds": "5%", "seedNodes": {"matchLabels": {"uplink": "good"}}}
    warmimage = read_warmimage(created(WARMIMAGES, {"image": "nginx", "source": source}))
    selector = parse_selector({"matchLabels": {"uplink": "good"}})
    assert warmimage.template.source == Source("peers", Limit(5, percent=True), selector)
    assert read_warmimage(created(WARMIMAGES, {"image": "nginx", "source": {}})).template.source == Source()


@pytest.mark.parametrize("limit", [0, 3, "3", "30%", "100%"])
def test_limits_that_can_be_meant_are_taken(limit: int | str) -> None:
    warmimage = read_warmimage(created(WARMIMAGES, {"image": "nginx", "nodes": {"limit": limit}}))
    assert warmimage.template.nodes.limit == Limit(int(str(limit).rstrip("%")), str(limit).endswith("%"))


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"image": ""},
        {"image": "x" * 801},
        {"image": "nginx", "digest": "sha256:abc"},
        {"image": "nginx", "nodes": {"limit": -1}},
        {"image": "nginx", "nodes": {"limit": "101%"}},
        {"image": "nginx", "nodes": {"limit": "1" * 5000}},
        {"image": "nginx", "nodes": {"limit": "some"}},
        {"image": "nginx", "pull": {"policy": "Never"}},
        {"image": "nginx", "pull": {"timeoutSeconds": 0}},
        {"image": "nginx", "lifetime": {"type": "Twice"}},
        {"image": "nginx", "onRemoval": "Keep"},
        {"image": "nginx", "source": {"mode": "fast"}},
        {"image": "nginx", "source": {"seeds": "some"}},
        {"image": "nginx", "pull": {"secrets": ["Reg_Cred"], "sharePrivate": True}},
        {"image": "nginx", "pull": {"refreshIntervalSeconds": 10}},
        {"image": "nginx", "pull": {"refreshWindows": [{"durationSeconds": 900}]}},
        {"image": "nginx", "pull": {"refreshWindows": [{"schedule": "@daily", "durationSeconds": 899}]}},
        {"image": "nginx", "pull": {"refreshWindows": [{"schedule": "@daily", "timeZone": "../etc"}]}},
        {"image": "nginx", "lifetime": {"expireAfterSeconds": 0}},
        {"image": "nginx", "nodes": {"names": [f"n{i}" for i in range(1025)]}},
        {"image": "nginx", "nodes": {"selector": {"matchExpressions": [{"key": "a", "operator": "Gt"}]}}},
    ],
)
def test_the_server_refuses_what_cannot_be_meant(spec: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        created(WARMIMAGES, spec)
    assert caught.value.status == 422


def test_a_kind_has_a_short_name_columns_and_a_status_of_its_own() -> None:
    for crd, short in ((warmimage_crd(), "wi"), (warmpolicy_crd(), "wp")):
        version = crd["spec"]["versions"][0]
        assert crd["spec"]["names"]["shortNames"] == [short]
        assert crd["spec"]["names"]["categories"] == ["warmhook"]
        assert version["subresources"] == {"status": {}}
        assert version["additionalPrinterColumns"][-1]["name"] == "Age"


# --- values ----------------------------------------------------------------------------------------------------------

labels = st.sampled_from(["pool", "zone", "example.com/kind"])
requirements = st.one_of(
    st.builds(Requirement, labels, st.sampled_from(["In", "NotIn"]), st.sampled_from([("a",), ("a", "b"), ("",)])),
    st.builds(Requirement, labels, st.sampled_from(["Exists", "DoesNotExist"])),
)
templates = st.builds(
    Template,
    nodes=st.builds(
        Nodes,
        selector=st.none() | st.builds(Selector, st.lists(requirements, max_size=4).map(tuple)),
        names=st.lists(st.sampled_from(["n1", "n2"]), unique=True).map(tuple),
        limit=st.none()
        | st.builds(Limit, st.integers(0, 99999))
        | st.builds(Limit, st.integers(0, 100), st.just(True)),
        running_pods=st.none() | st.builds(Selector, st.lists(requirements, max_size=2).map(tuple)),
    ),
    pull=st.builds(
        Pull,
        st.sampled_from(["IfNotPresent", "Always"]),
        st.integers(1, 7200),
        st.integers(0, 100),
        st.integers(-1000, 1000),
        st.booleans(),
        st.lists(st.sampled_from(["regcred", "other"]), unique=True).map(tuple),
    ),
    expire_after_seconds=st.none() | st.integers(1, 10**6),
    refresh=st.builds(
        Refresh,
        st.none() | st.integers(300, 10**6),
        st.lists(st.builds(Window, st.just("0 2 * * *"), st.integers(900, 3600)), max_size=2).map(tuple),
    ),
    once=st.none() | st.builds(Once, st.none() | st.integers(1, 10**6), st.none() | st.integers(0, 10**6)),
    on_removal=st.sampled_from(["Retain", "Delete"]),
    suspend=st.booleans(),
)


def as_run(warmimage: WarmImage) -> WarmImage:
    """One that a person could have made has an image of the digest it has."""
    if warmimage.policy_label or not warmimage.digest:
        return warmimage
    return replace(warmimage, image=replace(warmimage.image, tag="", digest=warmimage.digest))


warmimages = st.builds(
    WarmImage,
    key=st.just(ObjectKey("default", "x")),
    image=st.sampled_from(
        [Reference("ghcr.io", "a/b", "v1"), Reference("h:5000", "x" * 255, "t" * 128), Reference("ghcr.io", "c", "2")]
    ),
    digest=st.sampled_from(["", "sha256:" + "a" * 64, "sha512:" + "b" * 128]),
    pushed_at=st.none() | st.integers(0, 10**9).map(lambda micro: NOW + timedelta(microseconds=micro)),
    template=templates,
    policy_label=st.sampled_from(["", "0123456789abcdef"]),
    policy_name=st.sampled_from(["", "shop"]),
    event_id=st.sampled_from(["", "e" * 32]),
    pod_origin=st.none()
    | st.builds(
        PodOrigin,
        st.lists(
            st.builds(
                PodOwner,
                st.sampled_from(["Deployment/web", "Pod/once-"]),
                st.sampled_from([(), (("a", "b"), ("c", "d"))]),
                st.sampled_from([(), ("app", "side")]),
                st.sampled_from([None, NOW]),
            ),
            min_size=1,
            max_size=2,
            unique_by=lambda owner: owner.owner,
        ).map(tuple),
        more=st.booleans(),
    ),
    policy_gone_since=st.sampled_from([None, NOW]),
).map(as_run)


@given(warmimages)
def test_an_object_reads_back_as_its_value(warmimage: WarmImage) -> None:
    assert read_warmimage(json.loads(json.dumps(warmimage_object(warmimage)))) == warmimage


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(warmimages, warmimages)
def test_a_patch_turns_any_warmimage_into_any_other(one: WarmImage, other: WarmImage) -> None:
    # The image cannot be changed, and the digest in it is that of the object.
    other = as_run(replace(other, image=one.image, digest=one.image.digest or other.digest))

    async def case() -> WarmImage:
        kubernetes = Kubernetes(InProcessTransport(SERVER))
        await kubernetes.delete(paths.warmimages(one.key))
        made = await kubernetes.create(WARMIMAGES, warmimage_object(one))
        path = paths.warmimages(one.key)
        return read_warmimage(await kubernetes.patch(path, warmimage_patch(other, made["metadata"]["resourceVersion"])))

    found = asyncio.run(case())
    assert (found.image, found.digest, found.pushed_at) == (other.image, other.digest, other.pushed_at)
    assert (found.template, found.policy_label, found.event_id) == (other.template, other.policy_label, other.event_id)


SERVER = ApiServer(lambda: NOW, Random(1))
for _crd in (warmimage_crd(), warmpolicy_crd()):
    SERVER.handle("POST", paths.CRDS, {}, {"content-type": "application/json"}, json.dumps(_crd).encode())


def warmimage(**spec: Any) -> Object:
    return {"metadata": {"namespace": "default", "name": "x"}, "spec": {"image": "nginx", **spec}}


def test_an_image_is_read_as_a_pod_would_name_it() -> None:
    assert str(read_warmimage(warmimage()).image) == "docker.io/library/nginx:latest"


DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "spec",
    [
        {"image": f"nginx:1@{DIGEST}"},
        {"image": f"nginx@{DIGEST}"},
        {"image": "nginx:1", "digest": DIGEST},
        {"image": f"nginx:1@{DIGEST}", "digest": DIGEST},
    ],
)
def test_a_digest_that_a_person_wrote_is_what_nodes_pull(spec: dict[str, Any]) -> None:
    pinned = read_warmimage(warmimage(**spec))
    assert line_of(pinned).image == f"docker.io/library/nginx@{DIGEST}"
    assert pinned.digest == DIGEST


def test_a_digest_that_a_push_brought_is_what_the_tag_is_expected_to_point_at() -> None:
    obj = warmimage(image="nginx:1", digest=DIGEST)
    obj["metadata"]["labels"] = {"warmhook.dev/policy": "0" * 16}
    line = line_of(read_warmimage(obj))
    assert (line.image, line.digest) == ("docker.io/library/nginx:1", DIGEST)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"image": "UPPER CASE"}, "spec.image"),
        ({"image": f"nginx@{DIGEST}", "digest": "sha256:" + "b" * 64}, "spec.image"),
        ({"pushedAt": "yesterday"}, "spec.pushedAt"),
        ({"nodes": {"selector": {"matchLabels": {"bad key!": "x"}}}}, "nodes.selector"),
        ({"nodes": {"limit": "200%"}}, "nodes.limit"),
        ({"pull": {"timeoutSeconds": "soon"}}, "spec.pull.timeoutSeconds"),
        ({"pull": {"secrets": ["regcred"]}}, "pull.secrets: need sharePrivate: true, as every Pod"),
        (
            {
                "nodes": {
                    "selector": {
                        "matchLabels": {f"a{i}": "x" for i in range(40)},
                        "matchExpressions": [{"key": f"b{i}", "operator": "Exists"} for i in range(40)],
                    }
                }
            },
            "nodes.selector",
        ),
    ],
)
def test_a_bad_value_that_the_schema_allows_names_its_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidObject, match=field.replace(".", r"\.")):
        read_warmimage(warmimage(**spec))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"images": ["ok", "NOT OK"]}, r"spec\.images\[1\]"),
        ({"push": [{"repository": "x", "semver": "one"}]}, r"spec\.push\[0\]\.semver"),
        ({"push": [{"repository": "x"}, {"keep": 1}]}, r"spec\.push\[1\]\.repository"),
        ({"push": ["x"]}, r"spec\.push\[0\]"),
        ({"pods": {"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}}, r"spec\.pods.*values"),
        ({"template": {"nodes": {"selector": {"matchLabels": {"!": ""}}}}}, r"spec\.template\.nodes\.selector"),
        ({"template": {"lifetime": {"type": "Twice"}}}, r"spec\.template\.lifetime\.type"),
    ],
)
def test_an_unreadable_part_of_a_policy_is_named_and_the_rest_works(spec: dict[str, Any], field: str) -> None:
    good: dict[str, Any] = {"images": ["nginx"], "push": [{"repository": "ghcr.io/**"}]}
    both = {**spec, **{name: [*spec.get(name, []), *listed] for name, listed in good.items()}}
    policy = read_warmpolicy({"metadata": {"namespace": "default", "name": "x"}, "spec": both})
    (problem,) = policy.problems
    assert re.match(field, problem)
    assert [str(image) for image in policy.images][-1] == "docker.io/library/nginx:latest"
    assert policy.wants(Reference("ghcr.io", "a/b", "v1"))


def test_a_policy_without_a_spec_that_can_be_read_is_refused() -> None:
    with pytest.raises(InvalidObject, match="spec"):
        read_warmpolicy({"metadata": {"namespace": "default", "name": "x"}, "spec": "all"})


def test_a_policy_is_read_with_all_it_says() -> None:
    rule = {
        "repository": "ghcr.io/**",
        "tags": ["v*"],
        "exclude": ["*-x"],
        "semver": ">=1",
        "untagged": True,
        "keep": 3,
    }
    spec = {"images": ["nginx"], "push": [rule]}
    policy = read_warmpolicy({"metadata": {"namespace": "default", "name": "x"}, "spec": spec})
    assert policy.push == (PushRule("ghcr.io/**", ("v*",), ("*-x",), parse_range(">=1"), untagged=True, keep=3),)
    assert str(policy.images[0]) == "docker.io/library/nginx:latest"


# --- what the API server should refuse -------------------------------------------------------------------------------


def pattern_of(*path: str) -> re.Pattern[str]:
    """The pattern of a field of a WarmPolicy's spec."""
    schema = warmpolicy_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for name in path:
        schema = schema["items"] if name == "[]" else schema["properties"][name]
    (rule,) = schema["x-kubernetes-validations"]
    return re.compile(rule["rule"].removeprefix("self.matches(r'").removesuffix("')"))


def reads(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


tokens = st.sampled_from(
    ["1", "0", "01", ".", ".", "x", "*", "-rc.1", "+b", " ", ",", "||", ">=", "<", "~", "^", "v", "="]
)


@given(st.lists(tokens, max_size=9).map("".join))
def test_the_pattern_of_a_range_takes_what_can_be_read_and_nothing_else(text: str) -> None:
    matches = pattern_of("push", "[]", "semver").search(text) is not None
    assert matches == reads(parse_range, text)


fields = st.lists(
    st.sampled_from(["0", "7", "12", "31", "60", "*", "?", "*/5", "/2", "1-", "-5", "mon", "JAN", ",", "x"]),
    min_size=1,
    max_size=3,
).map("".join)


@given(st.lists(fields, min_size=4, max_size=6).map(" ".join) | st.sampled_from(["@daily", " @Weekly", "@never", ""]))
def test_the_pattern_of_a_schedule_takes_what_can_be_read_and_more_only_in_its_numbers(text: str) -> None:
    """A range may end before it begins, and a day may never come."""
    matches = pattern_of("template", "pull", "refreshWindows", "[]", "schedule").search(text) is not None
    try:
        problem = bool(parse_schedule(text)) and ""
    except NotASchedule as error:
        problem = str(error)
    assert matches if not problem else not matches or "has no" in problem or "never comes" in problem


@pytest.mark.parametrize("name", ["UTC", "Europe/Paris", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "GMT0"])
def test_names_of_time_zones_are_taken(name: str) -> None:
    window = {"schedule": "@daily", "timeZone": name}
    warmimage = read_warmimage(created(WARMIMAGES, {"image": "nginx", "pull": {"refreshWindows": [window]}}))
    assert warmimage.template.refresh.windows == (Window("@daily", 3600, name),)


@pytest.mark.parametrize(
    "name", ["", "../etc/passwd", "/UTC", "Europe/", "Europe", "Mars/Base", "a" * 65, "UTC\n", "\x00"]
)
def test_a_time_zone_that_the_system_lacks_cannot_be_read(name: str) -> None:
    with pytest.raises(InvalidObject, match=r"pull\.refreshWindows"):
        read_warmimage(warmimage(pull={"refreshWindows": [{"schedule": "@daily", "timeZone": name}]}))


parts = st.sampled_from(["a", "B", "0", ".", "/", ":", "-", "_", "@", "ghcr.io/", "[::1]:5000/", "@sha256:" + "a" * 64])


@given(st.lists(parts, max_size=8).map("".join))
def test_the_pattern_of_an_image_takes_all_that_can_be_read(text: str) -> None:
    if text and reads(parse_reference, text):
        assert pattern_of("images", "[]").search(text)


@pytest.mark.parametrize("image", ["Not An Image!", "nginx:", "nginx@sha256:abc", "https://ghcr.io/a", "a//b", "-a"])
def test_an_image_that_cannot_be_meant_is_refused(image: str) -> None:
    with pytest.raises(Refused, match="422"):
        created(POLICIES, {"images": [image]})


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"images": ["Bad Image!!"]}, 'spec.images[0]: Invalid value: "Bad Image!!": must be an image such as '),
        ({"push": [{"repository": "r.io/**", "semver": ">>1"}]}, "must be a range of versions, such as '>=1.2 <3'"),
    ],
    ids=["image", "range"],
)
def test_a_typo_is_refused_with_an_example_and_not_with_an_expression_nobody_can_read(
    spec: dict[str, Any], says: str
) -> None:
    with pytest.raises(Refused) as refused:
        created(POLICIES, spec)
    assert says in str(refused.value)
    assert "[0-9]" not in str(refused.value)


def test_a_policy_takes_no_time_after_which_its_images_are_deleted() -> None:
    """They would come back at once, or with a repeated event."""
    schema = warmpolicy_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    rules = {rule["rule"] for rule in schema["x-kubernetes-validations"]}
    assert "!has(self.template.lifetime.ttlSecondsAfterFinished)" in rules
    for name in ("template", "lifetime"):
        # The rule reads them, so they must be there.
        schema = schema["properties"][name]
        assert schema["default"] == {}


def test_every_selector_and_the_globs_of_a_policy_have_their_rules() -> None:
    rules = [rule["message"] for each in crd_schemas() for rule in each.get("x-kubernetes-validations", [])]
    assert rules.count("In and NotIn need values, Exists and DoesNotExist take none") == 3 + 2 + 2 + 1 + 1 + 1 + 2
    assert rules.count("Gt and Lt take exactly one integer") == 3
    assert sum("characters together" in rule for rule in rules) == 2
