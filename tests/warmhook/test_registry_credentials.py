"""Images and the credentials that fit them, as for a kubelet."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.images import parse_reference
from warmhook.ports import Object
from warmhook.registry_credentials import (
    Entry,
    NotCredentials,
    fitting_credentials,
    location_matches,
    location_of,
    read_secret,
)

PASSWORD = "correct-horse-battery"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def secret(auths: Any, kind: str = "kubernetes.io/dockerconfigjson") -> Object:
    """A Secret with these credentials; `auths` may be anything."""
    key, content = {
        "kubernetes.io/dockerconfigjson": (".dockerconfigjson", {"auths": auths}),
        "kubernetes.io/dockercfg": (".dockercfg", auths),
    }[kind]
    return {"type": kind, "data": {key: encoded(json.dumps(content))}}


def users(locations: list[str], image: str) -> list[str]:
    """The locations whose credentials are tried for an image, in order."""
    entries = [Entry(location_of(location), location, PASSWORD) for location in locations]
    return [found.username for found in fitting_credentials(entries, parse_reference(image))]


@pytest.mark.parametrize("kind", ["kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"])
def test_a_secret_has_user_and_password_together_or_apart(kind: str) -> None:
    auths = {
        "https://a.example.com/v2/": {"auth": encoded(f"me:{PASSWORD}:x")},
        "b.example.com/team": {"username": "you", "password": PASSWORD, "email": "you@example.com"},
        "c.example.com": {"auth": encoded("both:1"), "username": "ignored", "password": "ignored"},
    }
    content = read_secret(secret(auths, kind))
    assert content.entries == (
        Entry("a.example.com", "me", f"{PASSWORD}:x"),
        Entry("b.example.com/team", "you", PASSWORD),
        Entry("c.example.com", "both", "1"),
    )
    assert content.skipped == ()


def test_of_an_identity_token_and_a_user_only_the_token_is_used() -> None:
    auths = {"a.example.com": {"auth": encoded("00000000-0000-0000-0000-000000000000:"), "identitytoken": PASSWORD}}
    assert read_secret(secret(auths)).entries == (Entry("a.example.com", identity_token=PASSWORD),)


def test_base64_without_padding_is_read_as_a_kubelet_reads_it() -> None:
    for user in ("u", "us", "use"):
        auths = {"a.example.com": {"auth": encoded(f"{user}:{PASSWORD}").rstrip("=") + "\n"}}
        assert read_secret(secret(auths)).entries == (Entry("a.example.com", user, PASSWORD),)


def test_an_entry_that_cannot_be_used_leaves_the_others_and_its_reason_repeats_no_secret() -> None:
    auths = {
        "a.example.com": {"auth": PASSWORD + "!"},
        "b.example.com": {"auth": encoded(PASSWORD)},
        "c.example.com": PASSWORD,
        "d.example.com": {"password": PASSWORD},
        "e.example.com": {"username": ["me"], "password": PASSWORD},
        f"https://me:{PASSWORD}@f.example.com": {},
        "h.example.com": {"username": "me", "password": PASSWORD + "\ud800"},
        "g.example.com": {"auth": encoded("me:1")},
    }
    content = read_secret(secret(auths))
    assert content.entries == (Entry("g.example.com", "me", "1"),)
    assert [why.partition(":")[0] for why in content.skipped] == [f"'{host}.example.com'" for host in "abcdefh"]
    assert PASSWORD not in " ".join(content.skipped)
    assert PASSWORD not in repr(content)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {".dockerconfigjson": "no base64!"},
        {".dockerconfigjson": encoded(f'{{"auths": "{PASSWORD}')},
        {".dockerconfigjson": encoded("[]")},
        {".dockerconfigjson": encoded("{}")},
        {".dockerconfigjson": encoded(f'{{"auths": ["{PASSWORD}"]}}')},
        {".dockerconfigjson": encoded("[" * 100_000)},
        {".dockerconfigjson": 1},
        {".dockercfg": encoded("{}")},
        None,
    ],
    ids=["absent", "no-base64", "cut", "list", "no-auths", "auths-no-object", "deep", "number", "other-key", "null"],
)
def test_a_secret_without_credentials_says_so_without_its_content(data: Any) -> None:
    with pytest.raises(NotCredentials) as raised:
        read_secret({"type": "kubernetes.io/dockerconfigjson", "data": data})
    assert PASSWORD not in str(raised.value)


def test_a_secret_of_another_type_says_which_type_is_needed() -> None:
    with pytest.raises(NotCredentials, match="it is of type 'Opaque', not kubernetes"):
        read_secret({"type": "Opaque", "data": {".dockerconfigjson": encoded("{}")}})


def test_the_longest_location_is_tried_first_and_the_others_after_it() -> None:
    locations = ["registry.example.com", "registry.example.com/team/web", "registry.example.com/team"]
    assert users(locations, "registry.example.com/team/web/app:1") == locations[1:] + locations[:1]


def test_several_credentials_of_one_location_are_tried_in_the_order_of_the_secrets() -> None:
    entries = [
        Entry("a.example.com", "old", "1"),
        Entry("a.example.com", "new", "2"),
        Entry("a.example.com", "old", "1"),
    ]
    found = fitting_credentials(entries, parse_reference("a.example.com/web:1"))
    assert [each.username for each in found] == ["old", "new"]


def test_credentials_are_for_the_host_of_the_image_and_no_other() -> None:
    (found,) = fitting_credentials([Entry("*.example.com", "me", PASSWORD)], parse_reference("a.example.com/web:1"))
    assert found.server_address == "a.example.com"


@pytest.mark.parametrize(
    ("location", "name", "matches"),
    [
        ("*.example.com", "a.example.com/web", True),
        ("*.example.com", "a.b.example.com/web", False),
        ("*.*.example.com", "a.b.example.com/web", True),
        ("prefix*.example.com", "prefix-1.example.com/web", True),
        ("*-*a.example.com", "x-ya.example.com/web", True),
        ("a*a.example.com", "a.example.com/web", False),
        ("a.example.com:5000", "a.example.com/web", False),
        ("a.example.com", "a.example.com:5000/web", False),
        ("*.example.com:5000", "a.example.com:5000/web", True),
        ("[::1]:5000", "[::1]:5000/web", True),
        ("[::1]:5001", "[::1]:5000/web", False),
        ("a.example.com/team", "a.example.com/team-b/web", True),
        ("a.example.com/team/", "a.example.com/team-b/web", False),
        ("a.example.com/*", "a.example.com/web", False),
        ("A.example.com", "a.example.com/web", False),
        ("example.com", "a.example.com/web", False),
        ("*", "a.example.com/web", False),
    ],
)
def test_a_location_matches_labels_port_and_path_as_for_a_kubelet(location: str, name: str, matches: bool) -> None:
    assert location_matches(location, name) is matches


@pytest.mark.parametrize(
    "location", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "https://docker.io"]
)
def test_credentials_for_docker_hub_are_found_under_its_names(location: str) -> None:
    assert users([location], "nginx:1") == [location]
    assert users([location], "docker.io/team/web:1") == [location]
    assert users([location], "registry.example.com/web:1") == []


def test_a_path_of_docker_hub_goes_before_the_address_of_its_api() -> None:
    assert users(["https://index.docker.io/v1/", "docker.io/team"], "docker.io/team/web:1") == ["docker.io/team"]


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_breaks_the_comparison(location: str, name: str) -> None:
    assert location_matches(location_of(location), name) in (True, False)


def test_many_stars_take_no_time() -> None:
    assert not location_matches("*a" * 500 + ".example.com", "a" * 400 + "b.example.com/web")
