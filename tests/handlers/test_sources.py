"""A configuration file that would not do what it says is refused at start, in a line that names the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.env import BadSetting
from adapters.strictyaml import decode
from handlers.configuration import read_configuration
from warmhook.labels import Requirement, Selector
from warmhook.limits import Limits

SOURCE = "{name: harbor, kind: harbor, secret: {env: S}, registryHost: a.example}"


def _read(tmp_path: Path, text: str) -> str:
    """What is wrong with a file of that text; empty where nothing is."""
    (tmp_path / "config.yaml").write_text(text)
    try:
        read_configuration(str(tmp_path / "config.yaml"), {"S": "s3cret"})
    except BadSetting as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"sources: [{SOURCE}]\nsources: []\n", "line 2, column 1: the key 'sources' is given twice"),
        ("sources:\n- name: a\n  kind: harbor\n  name: b\n", "line 4, column 3: the key 'name' is given twice"),
        ('"sources": []\nsources: []\n', "the key 'sources' is given twice"),
        ("sources: [{options: {rename: {a: b, a: c}}}]", "the key 'a' is given twice"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in _read(tmp_path, text)


def test_a_mapping_may_be_merged_and_overruled() -> None:
    assert decode("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ({"kind": "harbor", "registryHost": "A.example"}, "a.example"),
        ({"kind": "nexus", "registryHost": "a.example:5000"}, "a.example:5000"),
        ({"kind": "nexus", "options": {"hosts": {"docker-hosted": "A.example:8083"}}}, "a.example:8083"),
        ({"kind": "dockerhub"}, "docker.io"),
        ({"kind": "chainguard"}, "cgr.dev"),
    ],
    ids=str,
)
def test_a_host_that_no_payload_decides_must_be_allowed(tmp_path: Path, given: dict[str, Any], host: str) -> None:
    source = {"name": "one", "secret": {"env": "S"}, "allowedHosts": ["b.example"], **given}

    assert _read(tmp_path, json.dumps({"sources": [source | {"allowedHosts": ["b.example", host]}]})) == ""
    assert f"sources[0] (one): allowedHosts: {host!r} is missing" in _read(tmp_path, json.dumps({"sources": [source]}))


def test_a_registry_host_alone_is_allowed_and_replaces_that_of_the_sender(tmp_path: Path) -> None:
    source = {"name": "one", "kind": "dockerhub", "secret": {"env": "S"}, "registryHost": "mirror.example"}

    assert _read(tmp_path, json.dumps({"sources": [source]})) == ""


def test_a_host_in_options_that_is_none_is_refused(tmp_path: Path) -> None:
    options = {"hosts": {"docker-hosted": "https://a.example"}}
    source = {"name": "one", "kind": "nexus", "secret": {"env": "S"}, "allowedHosts": ["a.example"], "options": options}

    assert "options: 'https://a.example' is no registry host" in _read(tmp_path, json.dumps({"sources": [source]}))


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"s3cret\n", b"s3cret"),
        (b"s3cret\r\n", b"s3cret"),
        (b"s3cret", b"s3cret"),
        (b" s3cret ", b" s3cret "),
        (b"s3cret\r", b"s3cret\r"),
        (b"s3cret\n\n", b"s3cret\n"),
        (b"\xff\x00\xc3\xa0\n", b"\xff\x00\xc3\xa0"),
    ],
)
def test_only_a_closing_line_end_of_a_secret_file_is_no_part_of_the_secret(
    tmp_path: Path, content: bytes, secret: bytes
) -> None:
    (tmp_path / "secret").write_bytes(content)
    text = f"sources: [{{name: a, kind: harbor, secret: {{file: {tmp_path}/secret}}, registryHost: a.example}}]"
    (tmp_path / "config.yaml").write_text(text)

    (configured,) = read_configuration(str(tmp_path / "config.yaml"), {}).sources.values()

    assert configured.current().secrets == (secret,)


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"\n\n", b" \n"])
def test_a_secret_file_without_a_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)

    assert "is empty" in _read(
        tmp_path, f"sources: [{{name: a, kind: harbor, secret: {{file: {tmp_path}/secret}}, registryHost: a.example}}]"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("namespaces: [{names: []}]", "namespaces[0].names"),
        ("namespaces: [{names: [a], nodes: {matchLabel: {a: b}}}]", "namespaces[0].nodes: matchLabel: unknown field"),
        ("namespaces: [{names: [a], allow: [delete]}]", "namespaces[0].allow[0]"),
        ("namespaces: [{names: [a], linesPerNode: 257}]", "namespaces[0].linesPerNode"),
        ("namespaces: [{names: [a], linePerNode: 7}]", "did you mean linesPerNode?"),
        ("namespaces: [{names: [a], images: [team/**]}]", "namespaces[0].images: 'team/**' must begin with the host"),
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused_with_its_key(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in _read(tmp_path, text)


def test_limits_of_namespaces_are_read(tmp_path: Path) -> None:
    text = "namespaces: [{names: [team-*], images: [a.example/**], nodes: {matchLabels: {a: b}}, allow: [Delete]}]"
    (tmp_path / "config.yaml").write_text(text)

    limits = read_configuration(str(tmp_path / "config.yaml"), {}).tenancy.of("team-a")

    nodes = Selector((Requirement("a", "In", ("b",)),))
    assert limits == Limits(("a.example/**",), nodes, allow=frozenset({"Delete"}))


@pytest.mark.parametrize("kind", ["harbor", "gitlab", "zot"])
def test_early_blobs_of_a_sender_that_reports_none_are_refused(tmp_path: Path, kind: str) -> None:
    source = {"name": "one", "kind": kind, "secret": {"env": "S"}, "registryHost": "a.example", "earlyBlobs": True}

    problem = _read(tmp_path, json.dumps({"sources": [source]}))

    assert f"earlyBlobs: a sender of kind {kind} reports no blobs before their image, only distribution" in problem
    assert _read(tmp_path, json.dumps({"sources": [source | {"kind": "distribution"}]})) == ""
