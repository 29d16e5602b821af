"""The two kinds follow the conventions of Kubernetes APIs.

https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.kubernetes import paths
from adapters.kubernetes.crd import Rule
from adapters.kubernetes.patterns import IMAGE_RULE, REPOSITORY_RULE, SCHEDULE_RULE
from adapters.kubernetes.warmimage import warmimage_crd, warmimage_object
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from devcluster.apiserver import ApiServer
from devcluster.apiserver.schema import causes
from tests.support.crds import every_field, fields
from warmhook.api import API_VERSION
from warmhook.cron import NotASchedule, parse_schedule
from warmhook.globs import Globs
from warmhook.images import parse_reference
from warmhook.policies import Policy, policy_changes
from warmhook.ports import Object
from warmhook.status import Counts, Failure, condition, invalid_status, status_object
from warmhook.warmimages import ObjectKey, WarmImage

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHOP: Final = paths.warmimages_in("shop")
POLICIES: Final = f"/apis/{API_VERSION}/namespaces/shop/warmpolicies"
POLICY: Final = Policy(ObjectKey("shop", "shop"), images=(parse_reference("harbor.example.com/shop/web:v1.2"),))


def a_warmimage(generation: int) -> WarmImage:
    return WarmImage(ObjectKey("shop", "web"), POLICY.images[0], generation=generation)


class Server:
    """An embedded API server with both kinds."""

    def __init__(self) -> None:
        self.now = NOW
        self._server = ApiServer(lambda: self.now, Random(1))
        for crd in (warmimage_crd(), warmpolicy_crd()):
            self("POST", paths.CRDS, body=crd)
        self("POST", "/api/v1/namespaces", body={"metadata": {"name": "shop"}})

    def __call__(
        self, method: str, path: str, *, body: Object | None = None, accept: str = "application/json", **query: str
    ) -> Any:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        content = b"" if body is None else json.dumps(body).encode()
        return json.loads(
            self._server.handle(method, path, query, {"content-type": kind, "accept": accept}, content).body
        )

    def table(self, path: str) -> list[list[str]]:
        """What `kubectl get` shows: a row of headers, and a row for each object."""
        accept = "application/json;as=Table;g=meta.k8s.io;v=v1"
        table = self("GET", path, accept=accept)
        shown = [at for at, column in enumerate(table["columnDefinitions"]) if not column["priority"]]
        headers = [table["columnDefinitions"][at]["name"].upper() for at in shown]
        return [headers, *([str(row["cells"][at]) for at in shown] for row in table["rows"])]


@pytest.fixture
def server() -> Server:
    return Server()


def warmimage(**spec: Any) -> Object:
    spec = {"image": "nginx:1", **spec}
    return {"apiVersion": API_VERSION, "kind": "WarmImage", "metadata": {"name": "x"}, "spec": spec}


# --- schemas ---------------------------------------------------------------------------------------------------------


def test_every_field_is_described() -> None:
    # Items and values are described by the field that holds them.
    own = [(path, schema) for path, schema in every_field() if not path.endswith(("[]", ".*"))]
    assert len(own) > 150
    assert [path for path, schema in own if len(schema.get("description", "")) < 9] == []


def test_every_list_says_how_writers_share_it() -> None:
    lists = {path: schema for path, schema in every_field() if schema.get("type") == "array"}
    assert {schema["x-kubernetes-list-type"] for schema in lists.values()} == {"atomic", "set", "map"}
    for path, schema in lists.items():
        keys = schema.get("x-kubernetes-list-map-keys", [])
        assert bool(keys) == (schema["x-kubernetes-list-type"] == "map"), path
        assert set(keys) <= set(schema["items"].get("required", [])), path


@pytest.mark.parametrize("crd", [warmimage_crd(), warmpolicy_crd()], ids=["WarmImage", "WarmPolicy"])
def test_conditions_are_those_of_all_apis(crd: Object) -> None:
    found = dict(fields(crd))["status.conditions"]
    assert (found["x-kubernetes-list-type"], found["x-kubernetes-list-map-keys"]) == ("map", ["type"])
    properties = {
        name: {key: value for key, value in each.items() if key != "description"}
        for name, each in found["items"]["properties"].items()
    }
    # As controller-gen generates them from metav1.Condition.
    assert properties == {
        "type": {
            "type": "string",
            "maxLength": 316,
            "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
            r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
        },
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
        "lastTransitionTime": {"type": "string", "format": "date-time", "maxLength": 40},
        "reason": {
            "type": "string",
            "minLength": 1,
            "maxLength": 1024,
            "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        },
        "message": {"type": "string", "maxLength": 32768},
    }
    assert found["items"]["required"] == ["type", "status", "lastTransitionTime", "reason", "message"]


@pytest.mark.parametrize(
    "status",
    [
        status_object({}, a_warmimage(3), Counts(warm=1, failed=1), [Failure("n1", "NotFound", "no such tag")], NOW),
        status_object({}, a_warmimage(1), Counts(), [], NOW),
        invalid_status({}, 1, "x" * 5000, NOW),
        {"conditions": [condition({}, "Degraded", False, "WritesTaken", "", NOW, 0)]},
    ],
    ids=["failed", "no-nodes", "invalid", "no-message"],
)
def test_a_status_that_is_written_has_all_that_a_condition_needs(status: Object) -> None:
    schema = dict(fields(warmimage_crd()))["status"]
    assert list(causes(schema, status)) == []


def test_a_rule_about_an_object_with_a_default_holds_for_the_empty_object() -> None:
    """The API server checks the default `{}` itself, before the defaults of its fields are in it."""
    for path, schema in every_field():
        if schema.get("default") == {} and "properties" in schema:
            for rule in schema.get("x-kubernetes-validations", []):
                read = set(re.findall(r"\b(self(?:\.\w+)+)", re.sub(r"has\([^)]*\)", "", rule["rule"])))
                asked = set(re.findall(r"has\(([^)]*)\)", rule["rule"]))
                assert read <= asked, (path, rule)


# Programs of an older version see a default in every object as soon as the CRDs are newer, and such an object is one
# that they do not know. So fields that a release adds have no default here: absent means what was before.
DEFAULTED: Final = {
    "backoffLimit", "containers", "durationSeconds", "effect", "exclude", "existing", "images", "keep", "key", "labels",
    "lifetime", "matchExpressions", "matchFields", "matchLabels", "message", "moreOwners", "names",
    "nodeSelectorTerms", "nodes", "onRemoval", "operator", "pinned", "policy", "preferWarm", "priority", "pull", "push",
    "refreshWindows", "secrets", "sharePrivate", "suspend", "tags", "template", "timeZone", "timeoutSeconds",
    "tolerations", "type", "untagged", "value", "values",
}  # fmt: skip


def test_a_field_that_is_added_has_no_default() -> None:
    defaulted = {path.rpartition(".")[2] for path, schema in every_field() if "default" in schema}
    assert defaulted == DEFAULTED


# --- changes and selectors -------------------------------------------------------------------------------------------


def test_the_image_of_a_warmimage_cannot_be_changed(server: Server) -> None:
    server("POST", SHOP, body=warmimage())
    refused = server("PATCH", f"{SHOP}/x", body={"spec": {"image": "nginx:2"}})
    assert refused["code"] == 422
    assert "spec.image" in refused["message"]
    assert "create another WarmImage, and delete this one" in refused["message"]
    assert (
        server("PATCH", f"{SHOP}/x", body={"spec": {"image": "nginx:1", "pull": {"priority": 7}}})["kind"]
        == "WarmImage"
    )


def test_warmimages_are_selected_by_their_image_and_by_their_policy(server: Server) -> None:
    for name, image, policy in (("a", "nginx:1", "shop"), ("b", "nginx:2", "shop"), ("c", "nginx:1", "other")):
        obj = warmimage(image=image, policyName=policy)
        server("POST", SHOP, body=obj | {"metadata": {"name": name}})

    def names(selector: str) -> list[str]:
        return [obj["metadata"]["name"] for obj in server("GET", SHOP, fieldSelector=selector)["items"]]

    assert names("spec.image=nginx:1") == ["a", "c"]
    assert names("spec.policyName=shop") == ["a", "b"]
    assert names("spec.image=nginx:1,spec.policyName!=shop") == ["c"]


# --- what kubectl shows ----------------------------------------------------------------------------------------------


def width(rows: list[list[str]]) -> int:
    """The columns of a terminal that kubectl needs: three spaces between columns."""
    return sum(max(map(len, column)) for column in zip(*rows, strict=True)) + 3 * (len(rows[0]) - 1)


def test_kubectl_shows_a_warmimage_with_its_policy_in_eighty_columns(server: Server) -> None:
    (created,) = policy_changes(POLICY, [], NOW).upserts
    made = server("POST", SHOP, body=warmimage_object(created.warmimage))
    status = status_object({}, a_warmimage(1), Counts(warm=12), [], NOW)
    server("PATCH", f"{SHOP}/{made['metadata']['name']}/status", body={"status": status})
    server.now = NOW + timedelta(days=12)
    rows = server.table(SHOP)
    assert rows == [
        ["NAME", "POLICY", "IMAGE", "WARM", "READY", "AGE"],
        [made["metadata"]["name"], "shop", "harbor.example.com/shop/web:v1.2", "12/12", "True", "12d"],
    ]
    assert width(rows) <= 80


def test_kubectl_shows_a_policy_in_eighty_columns(server: Server) -> None:
    body = {
        "apiVersion": API_VERSION,
        "kind": "WarmPolicy",
        "metadata": {"name": "storefront-production-eu"},
        "spec": {},
    }
    server("POST", POLICIES, body=body)
    ready = condition({}, "Ready", True, "Usable", "120 images wanted", NOW, 1)
    server(
        "PATCH", f"{POLICIES}/storefront-production-eu/status", body={"status": {"images": 120, "conditions": [ready]}}
    )
    rows = server.table(POLICIES)
    assert rows == [["NAME", "READY", "IMAGES", "AGE"], ["storefront-production-eu", "True", "120", "0s"]]
    assert width(rows) <= 80


# --- patterns --------------------------------------------------------------------------------------------------------

MOMENTS: Final = ["*", "?", "0", "7", "23", "59", "60", "31", "12", "mon", "JAN", "*/5", "1-5", "5-1", "1,2", "1-", "a"]
PARTS: Final = [
    "a", "B", "0", "1", ".", "/", ":", "-", "_", "__", "@", "localhost", "ghcr.io/", "[::1]:5000/", "x:80/",
    "@sha256:" + "a" * 64,
]  # fmt: skip


def pattern(rule: Rule) -> re.Pattern[str]:
    return re.compile(rule[0].removeprefix("self.matches(r'").removesuffix("')"))


IMAGE: Final = pattern(IMAGE_RULE)
SCHEDULE: Final = pattern(SCHEDULE_RULE)
REPOSITORY: Final = pattern(REPOSITORY_RULE)


@given(st.lists(st.sampled_from(MOMENTS), min_size=4, max_size=6).map(" ".join))
def test_the_api_server_takes_every_schedule_that_can_be_read(text: str) -> None:
    problem = ""
    try:
        parse_schedule(text)
    except NotASchedule as error:
        problem = str(error)
    # What depends on two numbers is left to the programs.
    if not re.search("has no|never comes", problem):
        assert bool(SCHEDULE.search(text)) == (not problem)


@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=8).map("".join))
def test_the_api_server_takes_the_images_that_can_be_read_and_no_others(text: str) -> None:
    try:
        parse_reference(text)
    except ValueError:
        # The programs refuse port 0 as well.
        assert not IMAGE.search(text) or re.search(r":0+(/|$)", text)
    else:
        assert IMAGE.search(text)


@given(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=8).map("".join),
    st.lists(st.sampled_from([*PARTS, "*", "**", "?", "[a-z]", "https:/"]), min_size=1, max_size=8).map("".join),
)
def test_the_api_server_takes_every_glob_that_an_image_can_match(text: str, glob: str) -> None:
    try:
        name = parse_reference(text).canonical.name
    except ValueError:
        return
    assert REPOSITORY.search(name)
    assert REPOSITORY.search(glob) or not Globs([glob]).matching(name)


@pytest.mark.parametrize("glob", ["https://ghcr.io/shop/**", "shop/**", "nginx", "ghcr.io/", "ghcr.io//shop"])
def test_the_api_server_refuses_a_glob_that_no_image_can_match(glob: str) -> None:
    assert not REPOSITORY.search(glob)


@pytest.mark.parametrize(
    "glob", ["**", "*/shop/**", "**/web", "ghcr.io/shop/*", "localhost/**", "[::1]:5000/x", "hub:5000"]
)
def test_the_api_server_takes_globs_with_a_host_or_a_wildcard_for_it(glob: str) -> None:
    assert REPOSITORY.search(glob)
