"""A request of another agent is read exactly, and nothing else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.peer_requests import PeerRequest, blob_path, done_path, proof_message, read_request

LINE, DIGEST = "0123456789abcdef", "sha256:" + "a" * 64
HEADERS = ("Host: x", "Authorization: Bearer a.b.c", "Warmhook-Key: k", "Warmhook-Proof: p")


def head(first: str, *headers: str) -> bytes:
    return "\r\n".join([first, *headers, "", ""]).encode("latin-1")


def ask(*headers: str, method: str = "GET", path: str = blob_path(LINE, DIGEST)) -> PeerRequest | None:
    return read_request(head(f"{method} {path} HTTP/1.1", *HEADERS, *headers))


def test_a_request_has_the_line_the_digest_and_what_proves_the_sender() -> None:
    expected = PeerRequest("GET", LINE, DIGEST, token="a.b.c", public="k", proof="p")
    assert ask() == expected
    assert (
        read_request(head(f"GET {blob_path(LINE, DIGEST)} HTTP/1.1", *(each.upper() for each in HEADERS))) is not None
    )
    assert ask("Content-Length: 0") == expected
    done = ask(method="POST", path=done_path(LINE))
    assert done == PeerRequest("POST", LINE, "", token="a.b.c", public="k", proof="p")


@pytest.mark.parametrize(
    ("text", "size", "part"),
    [
        ("bytes=0-", 10, (0, 10)),
        ("bytes=3-", 10, (3, 7)),
        ("bytes=3-5", 10, (3, 3)),
        ("bytes=3-500", 10, (3, 7)),
        ("bytes=9-9", 10, (9, 1)),
        ("bytes=10-", 10, None),
        ("bytes=0-", 0, None),
    ],
)
def test_a_range_is_a_part_of_the_blob(text: str, size: int, part: tuple[int, int] | None) -> None:
    request = ask(f"Range: {text}")
    assert request is not None
    assert request.ranged
    assert request.part(size) == part


def test_without_a_range_it_is_the_whole_blob_however_small() -> None:
    request = ask()
    assert request is not None
    assert [request.part(size) for size in (0, 1, 2**40)] == [(0, 0), (0, 1), (0, 2**40)]


@pytest.mark.parametrize(
    "text", ["bytes=-5", "bytes=5-3", "bytes=1-2,4-5", "bytes=x-", "lines=1-2", "bytes=1-" + "9" * 16, "bytes=\xb2-"]
)
def test_a_range_of_another_form_is_refused(text: str) -> None:
    assert ask(f"Range: {text}") is None


@pytest.mark.parametrize(
    "headers",
    [
        ("Transfer-Encoding: chunked",),
        ("Content-Length: 1",),
        ("Host: y",),
        (" folded",),
        ("no colon",),
        (": no name",),
        ("Space : x",),
    ],
)
def test_headers_that_two_readers_could_read_in_two_ways_are_refused(headers: tuple[str, ...]) -> None:
    assert ask(*headers) is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", done_path(LINE)),
        ("POST", blob_path(LINE, DIGEST)),
        ("PUT", blob_path(LINE, DIGEST)),
        ("GET", blob_path("short", DIGEST)),
        ("GET", blob_path(LINE.upper(), DIGEST)),
        ("GET", blob_path(LINE, "sha256:..")),
        ("GET", blob_path(LINE, f"{DIGEST}/../x")),
        ("GET", f"{blob_path(LINE, DIGEST)}?x=1"),
        ("GET", f"http://x{blob_path(LINE, DIGEST)}"),
        ("GET", "/"),
    ],
)
def test_every_other_path_and_method_is_refused(method: str, path: str) -> None:
    assert ask(method=method, path=path) is None


def test_a_request_without_a_token_or_of_another_version_is_refused() -> None:
    assert read_request(head(f"GET {blob_path(LINE, DIGEST)} HTTP/1.1", "Host: x")) is None
    assert read_request(head(f"GET {blob_path(LINE, DIGEST)} HTTP/1.1", "Authorization: Basic eDp5")) is None
    assert read_request(head(f"GET {blob_path(LINE, DIGEST)} HTTP/1.0", *HEADERS)) is None
    assert read_request(head(f"GET {blob_path(LINE, DIGEST)}", *HEADERS)) is None


@given(st.binary(max_size=300))
def test_whatever_comes_is_read_or_refused(head: bytes) -> None:
    request = read_request(head + b"\r\n\r\n")
    assert request is None or request.line_key


def test_a_proof_is_for_one_parent_and_one_token() -> None:
    messages = {proof_message(parent, token) for parent in ("p", "q") for token in ("t", "u", "t\n", "")}
    assert len(messages) == 8


def test_what_proves_the_sender_is_in_no_log() -> None:
    assert "a.b.c" not in repr(ask())
    assert "proof" not in repr(ask())
