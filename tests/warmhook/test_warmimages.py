"""The names of WarmImages are the same for a repeated event, and valid for the API server."""

from __future__ import annotations

import hashlib
import re

from hypothesis import given
from hypothesis import strategies as st

from warmhook.images import from_event, parse_reference
from warmhook.warmimages import ObjectKey, policy_label, repository_label, warmimage_name

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
