"""The parts that several adapters share read loose input and refuse untrusted input."""

from __future__ import annotations

import asyncio
import importlib
from datetime import UTC, datetime

import pytest

from adapters.registries import BadOptions, Delivery, Outcome, Source, find_adapters
from adapters.registries.common.auth import verify_header, verify_query
from adapters.registries.common.bodies import each, quoted, read_json, read_payload, read_time
from adapters.registries.common.delivery import Unreadable
from adapters.registries.common.images import LooseReference, host_of, pushed, split_reference
from tests.adapters.registries.cases import RECEIVED
from warmhook.events import Pushed, Skip

ADAPTERS = find_adapters()
DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ghcr.io/a/b:1", ("ghcr.io", "a/b", "1", "")),
        ("https://h:5000/a/b:1", ("h:5000", "a/b", "1", "")),
        ("ghcr.io/a/b:", ("ghcr.io", "a/b", "", "")),
        (f"h.example/a:1@{DIGEST}", ("h.example", "a", "1", DIGEST)),
        (f"h.example/a:{DIGEST}", ("h.example", "a", "", DIGEST)),
        ("h.example/a@sha256:6ec1...", ("h.example", "a", "", "sha256:6ec1...")),
        ("localhost/a/b", ("localhost", "a/b", "", "")),
        ("a/b:1", ("", "a/b", "1", "")),
        ("https://user:s3cret@h.example/a/b:1", ("h.example", "a/b", "1", "")),
        ("user:s3cret@h.example/a", ("h.example", "a", "", "")),
        ("h.example/a@md5:00", ("h.example", "a", "", "")),
        ("", ("", "", "", "")),
    ],
)
def test_a_loose_reference_is_split(text: str, parts: tuple[str, str, str, str]) -> None:
    assert split_reference(text) == parts


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://u:p@h.example:1/x?y", "h.example:1"),
        ("h.example/x", "h.example"),
        ("[::1]:5000/x", "[::1]:5000"),
        ("", ""),
    ],
)
def test_the_host_of_a_url_or_reference_is_found(text: str, host: str) -> None:
    assert host_of(text) == host


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("2026-01-15T09:30:00.123456789Z", datetime(2026, 1, 15, 9, 30, 0, 123456, tzinfo=UTC)),
        ("2026-01-15T09:30:00-08:00", datetime(2026, 1, 15, 17, 30, tzinfo=UTC)),
        (1760000000, datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        (0, None),
        (1e300, None),
        (True, None),
        ("yesterday", None),
        ([], None),
    ],
)
def test_a_time_is_read_or_left_out(value: object, time: datetime | None) -> None:
    assert read_time(value) == time


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h.example/v2/a/b?token=s3cret&x=1", "'https://h.example/v2/a/b'"),
        ("https://robot:s3cret@h.example/a:1", "'https://h.example/a:1'"),
        ("https://robot:" + "s3cret" * 20 + "@h.example/a", "'https://h.example/a'"),
        ("Bearer s3cret-s3cret", "'Bearer ***'"),
        ("what?", "'what?'"),
    ],
)
def test_no_credentials_of_a_url_are_quoted(text: str, shown: str) -> None:
    assert quoted(text) == shown
    for image in (LooseReference(text, "a", "1"), LooseReference("h.example", text, "1"), split_reference(text)):
        skip = pushed(Source("s"), image)
        assert not isinstance(skip, Skip) or "s3cret" not in skip.detail


@pytest.mark.parametrize("body", [b"", b'{"a":1,"a":2}', b"NaN", b"\xff", b"[" * 50_000, b"9" * 5000])
def test_malformed_or_ambiguous_json_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        read_json(body)


@pytest.mark.parametrize("body", [b"payload=", b"payload=1&payload=2", b"other=1", b"payload=%ff", b"&"])
def test_a_form_without_one_readable_payload_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        read_payload(Delivery(body, RECEIVED, headers={"content-type": "application/x-www-form-urlencoded"}))


def test_json_with_the_content_type_of_a_form_is_read() -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}

    assert read_payload(Delivery(b' {"a": "1&2"}', RECEIVED, headers=headers)) == {"a": "1&2"}


def test_one_unreadable_event_does_not_hide_the_others() -> None:
    def read(part: int) -> Outcome:
        if part == 2:
            raise Unreadable("two")
        return Skip("ping")

    assert each([1, 2, 3], read) == [Skip("ping"), Skip("malformed", "two"), Skip("ping")]


def test_a_delivery_has_at_most_ten_thousand_events() -> None:
    outcomes = each(range(1_000_000), lambda _: Skip("ping"))

    assert len(outcomes) == 10_001
    assert outcomes[-1] == Skip("malformed", "more than 10000 events in one delivery")


def test_the_configured_host_replaces_that_of_the_payload() -> None:
    push = pushed(Source("s", registry_host="nodes.example"), LooseReference("evil.example", "a", "1"))

    assert isinstance(push, Pushed)
    assert push.image.host == "nodes.example"


@pytest.mark.parametrize("tag", [f"sha256-{'a1' * 32}{end}" for end in ("", ".sig", ".att", ".sbom")])
def test_a_tag_of_cosign_is_skipped(tag: str) -> None:
    assert pushed(Source("s"), LooseReference("h.example", "a", tag, DIGEST)) == Skip(
        "not-runnable", f"tag {tag[:60]!r}"
    )


def test_an_insecure_source_needs_no_secret() -> None:
    adapter = ADAPTERS["harbor"]

    assert asyncio.run(adapter.verify(Delivery(b"", RECEIVED), Source("s", insecure=True)))
    assert not asyncio.run(adapter.verify(Delivery(b"", RECEIVED), Source("s")))


def test_credentials_beyond_ascii_are_compared_byte_by_byte() -> None:
    source = Source("s", secrets=("ü?".encode(), "ü".encode("latin-1")))

    assert verify_header(Delivery(b"", RECEIVED, headers={"authorization": "ü"}), source)
    assert verify_query(Delivery(b"", RECEIVED, query={"token": "ü?"}), source)
    assert not verify_query(Delivery(b"", RECEIVED, query={"token": "\ud800"}), source)


def test_a_source_does_not_print_its_secrets() -> None:
    assert "s3cret" not in repr(Source("s", secrets=(b"s3cret",)))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("harbor", {"auth": "hmac"}, "options.auth: sources of kind harbor take no options"),
        ("artifactory", {"auth": "s3cret"}, "options.auth: must be 'token' or 'hmac'"),
        ("artifactory", {"colour": "s3cret"}, "options.colour: no such key"),
        ("nexus", {"hosts": "s3cret"}, "options.hosts: must be a mapping of keys to values"),
        ("gar", {"audience": "s3cret"}, "options: audience and email are given together or not at all"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name_without_its_value(
    kind: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(BadOptions) as refused:
        ADAPTERS[kind].read_options(options)

    assert str(refused.value) == message


@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_docstring_of_every_adapter_states_authentication_host_and_what_is_told_apart(kind: str) -> None:
    doc = importlib.import_module(f"adapters.registries.{kind}").__doc__ or ""

    for word in ("Source", "Authentication:", "Host"):
        assert word in doc
    assert "told apart" in doc.lower()
