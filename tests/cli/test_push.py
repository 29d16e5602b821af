"""`warmhook push` announces an image as a good sender does: signed, repeated, and never with the secret."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from adapters.push_sender import Delivered, NotDelivered, push_body, send_push
from cli.main import warmhook
from tests.handlers.world import DIGEST, HOST, START, WARMIMAGES, World, digest, in_world, logged, status
from tests.support.instant import instantly, loop_clock

SECRET = "planted-hunter2"
CI = f"""
sources:
- {{name: ci, kind: webhook, secret: {{env: HARBOR}}, allowedHosts: [{HOST}]}}
"""
IMAGE = f"{HOST}/shop/app:v1@{DIGEST}"
URL = "http://web/webhooks/ci"


async def push(world: World, secret: str, url: str = URL, seconds: float = 60) -> Delivered:
    body = push_body(IMAGE)
    return await send_push(world.client, url, body, secret.encode(), clock=world.clock, seconds=seconds)


@in_world(sources=CI, policy=True)
async def test_a_push_that_was_announced_becomes_a_warmimage_with_its_digest(world: World) -> None:
    sent = await push(world, world.environ["HARBOR"])
    assert sent == Delivered(202, 1)
    (found,) = (await world.warmimages()).values()
    assert (found["spec"]["image"], found["spec"]["digest"]) == (f"{HOST}/shop/app:v1", DIGEST)


@in_world(sources=CI, policy=True)
async def test_it_is_repeated_as_late_as_web_asks_until_it_is_stored(world: World) -> None:
    world.answer(status(503), "POST PATCH PUT", WARMIMAGES, after=2, times=3)
    began = world.monotonic()
    sent = await push(world, world.environ["HARBOR"])
    assert sent.attempts > 1
    assert world.monotonic() - began >= 5
    assert len(await world.warmimages()) == 1


@in_world(sources=CI, policy=True)
async def test_a_push_that_cannot_be_stored_for_long_is_given_up_with_what_to_do(world: World) -> None:
    world.answer(status(503), "POST PATCH PUT", WARMIMAGES)
    began = world.monotonic()
    with pytest.raises(NotDelivered, match=r"could not be stored; tried .* times\. The image is not announced: run"):
        await push(world, world.environ["HARBOR"], seconds=40)
    assert world.monotonic() - began < 60


@pytest.mark.parametrize(
    ("secret", "url", "words"),
    [
        ("wrong", URL, "answered 401: the secret is not that of the source, or the source is not of kind webhook"),
        ("right", "http://web/webhooks/other", "answered 404: web has no source of that name"),
        ("right", "http://web/healthz", "answered 405: --to is not the address of web"),
    ],
)
@in_world(sources=CI)
async def test_a_refusal_is_said_at_once_with_what_to_check(world: World, secret: str, url: str, words: str) -> None:
    began = world.monotonic()
    with pytest.raises(NotDelivered) as caught:
        await push(world, world.environ["HARBOR"] if secret == "right" else secret, url)
    assert words in str(caught.value)
    assert world.monotonic() - began < 1


@in_world(sources=CI)
async def test_a_log_line_and_the_error_have_no_secret(world: World) -> None:
    with pytest.raises(NotDelivered) as caught:
        await push(world, SECRET)
    assert SECRET not in str(caught.value) + json.dumps(logged(), default=str)


def answered(handler: Callable[[httpx.Request], httpx.Response], seconds: float = 30) -> Delivered:
    """What comes of a push that this answers."""

    async def run() -> Delivered:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            return await send_push(client, URL, b"{}", b"s", clock=loop_clock(START, 1), seconds=seconds)

    return instantly(run())


def test_what_is_in_front_of_web_may_fail_for_a_while() -> None:
    answers: Iterator[httpx.Response | Exception] = iter(
        [
            httpx.ConnectError("refused"),
            httpx.Response(502),
            httpx.Response(429, headers={"retry-after": "7"}),
            httpx.ReadTimeout(""),
            httpx.Response(202),
        ]
    )

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["x-warmhook-signature"].startswith("sha256=")
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    assert answered(answer).attempts == 5


def test_a_server_that_was_never_there_is_named_when_the_time_is_over() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused")

    with pytest.raises(NotDelivered, match=r"http://web/webhooks/ci gave no answer .*refused.*tried \d times"):
        answered(refuse)
    with pytest.raises(NotDelivered, match="tried once"):
        answered(refuse, seconds=0)


def test_a_redirect_is_not_followed_with_the_signature() -> None:
    asked = []

    def move(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(301, headers={"location": "https://elsewhere/"})

    with pytest.raises(NotDelivered, match=r"is at another address, .*: give that with --to"):
        answered(move)
    assert len(asked) == 1


def test_a_certificate_that_is_not_trusted_is_not_tried_again() -> None:
    asked = []

    def distrust(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")

    with pytest.raises(NotDelivered, match="set SSL_CERT_FILE"):
        answered(distrust)
    assert len(asked) == 1


# --- the command ------------------------------------------------------------------------------------------------------


def call(*arguments: str, secret: str | None = SECRET, stdin: str = "") -> Result:
    given = ["push", "--to", "http://127.0.0.1:9", "--source", "ci", "--timeout", "0", *arguments]
    return CliRunner(env={"WARMHOOK_SECRET": secret}).invoke(warmhook, given, input=stdin)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shop/web:1"], "write it with its registry, such as registry.example.com/shop/web:1"),
        (["r.example/web"], "add a tag or a digest; latest is not assumed"),
        (["r.example/Web:1"], "is no repository"),
        ([f"r.example/web:sha256-{'a' * 64}.sig"], "another companion of an image"),
        (["r.example/web:1@sha256:abc"], "is no sha256 or sha512 digest"),
        (["r.example/web:1", "--digest", "abc"], "--digest 'abc': expected sha256:"),
        ([f"r.example/web:1@{DIGEST}", "--digest", digest("b")], "leave one of them out"),
        (["r.example/web:1", "--to", "hooks.example.com"], "expected the address of web, such as https://"),
        (["r.example/web:1", "--to", "http://[x"], "expected the address of web"),
        (["r.example/web:1", "--to", "https://me:pw@h"], "leave out user names, queries and fragments"),
        (["r.example/web:1", "--to", "https://h?token=x"], "leave out user names, queries and fragments"),
        (["r.example/web:1", "--to", "https://h/webhooks/ci"], "leave out /webhooks/ and what follows"),
        (["r.example/web:1", "--secret-file", "/nowhere"], "--secret-file /nowhere: No such file or directory"),
        (["r.example/web:1", "--secret-file", "-"], "--secret-file: it is empty"),
        (["r.example/web:1", "--secret-env", "NONE"], "the variable NONE is not set, or empty"),
        (["r.example/web:1", "--secret-env", "A", "--secret-file", "b"], "exclude each other"),
    ],
)
def test_what_web_would_skip_is_refused_before_it_is_sent(arguments: list[str], words: str) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "pw" not in result.stderr


def test_without_a_secret_the_command_says_where_to_give_it() -> None:
    result = call("r.example/web:1", secret=None)
    assert result.exit_code == 2
    assert "WARMHOOK_SECRET is not set, or empty; give the secret of the source with --secret-file" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("--secret-file", "-")], ids=["variable", "stdin"])
def test_a_delivery_that_failed_is_status_1_and_names_no_secret(arguments: tuple[str, ...]) -> None:
    result = call("r.example/web:1", *arguments, stdin=f"{SECRET}\n")
    assert result.exit_code == 1
    assert "http://127.0.0.1:9/webhooks/ci gave no answer" in result.stderr
    assert SECRET not in result.output


@pytest.mark.slow
def test_the_secret_of_a_file_is_read_without_its_newline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    async def send(_client: object, url: str, body: bytes, secret: bytes, **_: object) -> Delivered:
        seen.update(url=url, body=body, secret=secret)
        return Delivered(202, 2)

    monkeypatch.setattr("adapters.push_sender.send_push", send)
    (tmp_path / "secret").write_bytes(b" s3cret \r\n")
    arguments = ["R.example/shop/web:1", "--digest", DIGEST, "--secret-file", str(tmp_path / "secret")]
    result = call(*arguments, "--to", "https://h.example/hooks/", "--source", "a/b", "-o", "json")
    image = f"r.example/shop/web:1@{DIGEST}"
    assert seen == {
        "url": "https://h.example/hooks/webhooks/a%2Fb",
        "body": json.dumps({"image": image}, separators=(",", ":")).encode(),
        "secret": b" s3cret ",
    }
    assert json.loads(result.stdout) == {"image": image, "url": seen["url"], "attempts": 2}
    announced = call(*arguments)
    assert announced.stdout == f"delivered {image} to http://127.0.0.1:9/webhooks/ci\n"
    # Whoever sends a push need not know the namespace, and the wrong one would be waited in.
    assert f"warmhook status --wait -n '<namespace of its policy>' {image}\n" in announced.stderr
