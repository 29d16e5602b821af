"""`warmhook parse` prints what a delivery announces, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import warmhook
from cli.parse import report

DIGEST = "sha256:" + "a1" * 32


def run(*arguments: str, body: str | bytes = "") -> Result:
    # Through the group, as a person runs it: click keeps the help option that a command was first given.
    return CliRunner().invoke(warmhook, ["parse", *arguments], input=body)


def pushed(tag: str, action: str = "push") -> dict[str, object]:
    target = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "repository": "a/b", "tag": tag}
    return {"action": action, "target": target, "request": {"host": "h.example"}}


def test_prints_one_reference_per_line_in_the_order_of_the_events() -> None:
    result = run("distribution", body=json.dumps({"events": [pushed("2"), pushed("0", action="pull"), pushed("1")]}))

    assert (result.exit_code, result.output) == (0, "h.example/a/b:2\nh.example/a/b:1\n")


def test_reads_a_file(tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text(json.dumps({"events": [pushed("1")]}))

    assert run("distribution", str(tmp_path / "body.json")).output == "h.example/a/b:1\n"


def test_a_list_is_several_deliveries() -> None:
    body = json.dumps([{"events": [pushed("1")]}, {"events": [pushed("2")]}, "not a delivery"])

    assert run("distribution", body=body).output == "h.example/a/b:1\nh.example/a/b:2\n"


def test_a_list_is_one_delivery_where_the_sender_sends_lists() -> None:
    validation = {"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "1"}}

    assert run("acr", body=json.dumps([validation])).output == "skip: handshake\n"


def test_prints_one_reason_where_nothing_is_emitted() -> None:
    result = run("distribution", body=json.dumps({"events": [pushed("1", action="pull"), pushed("")]}))

    assert (result.exit_code, result.output) == (0, "skip: no-tag-no-digest\n")


@pytest.mark.parametrize("body", ["", "{", "[]", b"\xff", "7"])
def test_a_body_that_is_no_delivery_is_a_skip(body: str | bytes) -> None:
    result = run("harbor", body=body)

    assert (result.exit_code, result.output) == (0, "skip: malformed\n")


def test_the_host_can_be_given_where_the_payload_has_none() -> None:
    body = json.dumps({"action": "CREATED", "component": {"format": "docker", "name": "a/b", "version": "1"}})

    assert run("nexus", body=body).output == "skip: no-registry-host\n"
    assert run("nexus", "--registry-host", "H.example:5000", body=body).output == "h.example:5000/a/b:1\n"


def test_headers_are_read_whatever_their_case() -> None:
    result = run("github", "--header", "X-GitHub-Event: ping", body="{}")

    assert result.output == "skip: ping\n"


def test_the_reason_that_came_closest_to_an_image_wins() -> None:
    assert report([], ["not-a-push", "not-runnable", "ping"]) == ["skip: not-runnable"]
    assert report([], ["not-a-push", "a-reason-of-another-reader"]) == ["skip: not-a-push"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["carrier-pigeon"], "known are acr, admission, aliyun"),
        (["harbor", "/nowhere/body.json"], "/nowhere/body.json: No such file or directory"),
        (["harbor", "/"], "/: Is a directory"),
        (["harbor", "--header", "no colon"], "expected 'Name: value'"),
        (["harbor", "--registry-host", "a/b"], "is no registry host"),
    ],
)
def test_a_parse_that_cannot_start_says_so_in_one_line(arguments: list[str], words: str) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
