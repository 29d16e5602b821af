"""The names of WarmImages are the same for a repeated event, and valid for the API server."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.images import from_event, parse_reference
from warmhook.labels import Requirement
from warmhook.node_affinity import Constraints, Term
from warmhook.taints import Toleration
from warmhook.warmimages import (
    ObjectKey,
    owner_label,
    pod_warmimage_name,
    policy_label,
    repository_label,
    warmimage_name,
)

SHOP = ObjectKey("shop", "shop")
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
elements = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,4}", fullmatch=True).filter(lambda it: len(it) < 90)


def test_the_name_is_the_repositorys_last_element_and_a_hash_over_policy_and_image() -> None:
    unique = hashlib.sha256(b"shop/shop\nghcr.io/acme/app:v1").hexdigest()[:10]
    assert warmimage_name(SHOP, parse_reference("ghcr.io/acme/app:v1")) == f"app-{unique}"


def test_the_digest_matters_only_where_there_is_no_tag() -> None:
    a, b = ("sha256:" + letter * 64 for letter in "ab")
    tagged = {warmimage_name(SHOP, parse_reference(f"ghcr.io/x/app:v1@{digest}")) for digest in (a, b)}
    untagged = {warmimage_name(SHOP, parse_reference(f"ghcr.io/x/app@{digest}")) for digest in (a, b)}
    assert (len(tagged), len(untagged)) == (1, 2)


def test_policies_do_not_share_warmimages() -> None:
    image = parse_reference("ghcr.io/x/app:v1")
    assert warmimage_name(SHOP, image) != warmimage_name(ObjectKey("shop", "other"), image)


@given(st.lists(elements, min_size=1, max_size=3))
def test_every_name_is_one_that_the_api_server_takes(path: list[str]) -> None:
    image = from_event("ghcr.io", "/".join(path), "v1")
    assert image is not None
    name = warmimage_name(SHOP, image)
    assert _OBJECT_NAME.fullmatch(name)
    assert len(name) <= 51


def test_spellings_of_one_image_have_one_repository_label_and_a_warmimage_each() -> None:
    written, canonical = parse_reference("Ghcr.IO/a/b:1"), parse_reference("ghcr.io/a/b:1")
    assert repository_label(written) == repository_label(canonical)
    assert warmimage_name(SHOP, written) != warmimage_name(SHOP, canonical)


def test_labels_are_sixteen_hex_digits() -> None:
    assert policy_label(SHOP) == hashlib.sha256(b"shop/shop").hexdigest()[:16]
    assert repository_label(parse_reference("nginx:1")) == hashlib.sha256(b"docker.io/library/nginx").hexdigest()[:16]


# --- names and labels of objects that exist: a change here orphans them ----------------------------------------------

DIGEST = "sha256:" + "a" * 64
POOL = Requirement("pool", "In", ("web", "api"))
CONSTRAINTS = {
    "none": Constraints(),
    "no node": Constraints(affinity=()),
    "a selector": Constraints(affinity=(Term((POOL,)),)),
    "an operator without values": Constraints(affinity=(Term((Requirement("gpu", "Exists"),)),)),
    "a name": Constraints(affinity=(Term((), (Requirement("metadata.name", "In", ("n1",)),)),)),
    "a toleration": Constraints(tolerations=(Toleration("dedicated", "Equal", "web", "NoSchedule"),)),
    "any taint": Constraints(tolerations=(Toleration(operator="Exists"),)),
    "all": Constraints((Term((POOL,)),), (Toleration("dedicated", "Exists"),)),
}


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("nginx:1.27", "nginx-56a9662dbf"),
        ("ghcr.io/acme/app:v1", "app-c59ad12dae"),
        (f"ghcr.io/acme/app:v1@{DIGEST}", "app-c59ad12dae"),
        (f"ghcr.io/acme/app@{DIGEST}", "app-0d2db1b7c6"),
        ("[::1]:5000/a__b/c_d:1", "c-d-8679095cd2"),
    ],
)
def test_the_name_of_the_warmimage_of_a_push_never_changes(image: str, name: str) -> None:
    assert warmimage_name(SHOP, parse_reference(image)) == name


@pytest.mark.parametrize(
    ("constraints", "name"),
    [
        ("none", "app-605e369eaf"),
        ("no node", "app-4e4d82cd04"),
        ("a selector", "app-314f066745"),
        ("an operator without values", "app-259ea5cb09"),
        ("a name", "app-56cb0426a8"),
        ("a toleration", "app-095da8deec"),
        ("any taint", "app-564b7bc8b1"),
        ("all", "app-2fcc0b912f"),
    ],
)
def test_the_name_of_the_warmimage_of_a_pod_never_changes(constraints: str, name: str) -> None:
    assert pod_warmimage_name(SHOP, parse_reference("ghcr.io/acme/app:v1"), CONSTRAINTS[constraints]) == name


def test_the_labels_of_a_warmimage_never_change() -> None:
    assert policy_label(SHOP) == "0b6553f432465da1"
    assert repository_label(parse_reference("ghcr.io/acme/app:v1")) == "5aaba65fadaf3a9e"
    assert owner_label("shop", "Deployment/web") == "84b75d055c99349c"
