"""Dead letters say which event was not taken and why, and never a secret."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from handlers.reconcile.dead_letters import read_dead_letter
from tests.handlers.world import World, in_world, logged
from warmhook.events import CHANGED


def letter(**attributes: str) -> dict[str, str]:
    """What is read of an event with these attributes."""
    return read_dead_letter({f"ce-{name}": text for name, text in attributes.items()})


@in_world(serve=frozenset({"dead-letters"}))
async def test_a_dead_letter_is_logged_and_counted_by_a_process_without_rights_or_configuration(world: World) -> None:
    headers = {"ce-id": "1", "ce-type": CHANGED, "ce-specversion": "1.0", "ce-source": "/watch"}
    headers |= {"ce-knativeerrorcode": "503", "ce-knativeerrordata": base64.b64encode(b"down\n").decode()}
    client = world.new_client(world.app, "10.0.0.1")
    answer = await client.post("/dead-letters", content=b"no JSON", headers=headers)
    assert (answer.status_code, answer.content) == (202, b"")
    (line,) = logged("dead-letter")
    assert (line["event_id"], line["type"], line["code"], line["answer"]) == ("1", CHANGED, "503", "down")
    assert world.metric("warmhook_dead_letters_total", type=CHANGED, code="503") == 1
    assert (await client.post("/events", content=b"")).status_code == 404
    assert (await client.post("/webhooks/harbor", content=b"")).status_code == 404
    assert world.requests == []


@in_world()
async def test_other_processes_take_no_dead_letters(world: World) -> None:
    assert (await world.client.post("/dead-letters", content=b"")).status_code == 404


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://a.example:8080/in?access_token=s3cret#x", "http://a.example:8080/in"),
        ("https://user:s3cret@a.example/in", "https://a.example/in"),
        ("http://a.example%3Faccess_token=s3cret", "http://a.example"),
        ("http://a.example:s3cret/", ""),
        ("s3cret", ""),
        ("http://[s3cret/", ""),
        ("", ""),
    ],
)
def test_the_destination_is_shown_without_what_may_be_a_token(given: str, shown: str) -> None:
    assert letter(knativeerrordest=given)["destination"] == shown


def test_texts_are_one_line_and_cut() -> None:
    answer = base64.b64encode(b"\x1b[31m" + b"x\n" * 5000 + b"\xff").decode()
    found = letter(id="a%0Ab", subject="s" * 5000, type="t\x00", knativeerrordata=answer, knativeerrorcode="5" * 900)
    assert all(text.isprintable() and len(text) <= 200 for text in found.values())
    assert found["event_id"] == "a b"
    assert found["answer"].startswith("[31mx x x")


@pytest.mark.parametrize("data", ["no base64!", "c29tZSB0ZXh", "é"])
def test_data_that_is_no_base64_is_left_out(data: str) -> None:
    assert letter(knativeerrordata=data)["answer"] == ""


@pytest.mark.parametrize(
    "headers", [{}, {"ce-knativeerrorcode": "²²²"}, {"ce-knativeerrorcode": "599"}, {"ce-type": "made-up"}]
)
@in_world(serve=frozenset({"dead-letters"}))
async def test_made_up_letters_do_not_fill_the_metrics(world: World, headers: Any) -> None:
    sent = {name: text.encode() for name, text in headers.items()}
    assert (await world.client.post("/dead-letters", content=b"", headers=sent)).status_code == 202
    assert world.metric("warmhook_dead_letters_total", type="foreign", code="none") == 1
