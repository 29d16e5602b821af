"""A node gives its children the blobs of their image, and everybody else learns nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random

import pytest

from adapters.peer_key import sign_proof
from nodeagent.peers.access import Refusal, Served
from nodeagent.peers.incoming import Incoming
from nodeagent.peers.server import BODIES_PER_CHILD_MAX, REFUSAL_SECONDS, REQUESTS_BURST, REQUESTS_PER_SECOND
from tests.support.content import unreachable
from tests.support.instant import instant, until
from tests.support.peers import LINE, Parent, a_parent, digest_of, index, key_of, manifest, request
from warmhook.peer_requests import AUDIENCE, KEY_HEADER, PROOF_HEADER, blob_path, done_path

CONFIG, LAYER, OTHER = b"a configuration", b"a layer of an image" * 500, b"a layer of another image"
ABSENT = b"a layer that has not come yet"
IMAGE = manifest(CONFIG, LAYER, ABSENT)
REFUSED = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


def holding(parent: Parent, *children: str) -> None:
    """Have the image, and other blobs, and a hint that names these children."""
    parent.have(IMAGE, CONFIG, LAYER, OTHER)
    parent.serve(digest_of(IMAGE), *children)


@instant
async def test_a_child_gets_every_blob_of_its_image_and_parts_of_them() -> None:
    async with a_parent() as parent:
        holding(parent, "child")
        for blob in (IMAGE, CONFIG, LAYER):
            whole = await parent.answer(await parent.request("child", digest_of(blob)))
            assert whole == f"HTTP/1.1 200 OK\r\ncontent-length: {len(blob)}\r\n\r\n".encode() + blob
        size = len(LAYER)
        for wanted, part in ((f"bytes={size - 3}-", LAYER[-3:]), ("bytes=0-4", LAYER[:5]), ("bytes=0-", LAYER)):
            head, _, body = (
                await parent.answer(await parent.request("child", digest_of(LAYER), Range=wanted))
            ).partition(b"\r\n\r\n")
            first = int(wanted.removeprefix("bytes=").partition("-")[0])
            assert body == part
            assert (
                head
                == (
                    f"HTTP/1.1 206 Partial Content\r\ncontent-length: {len(part)}\r\n"
                    f"content-range: bytes {first}-{first + len(part) - 1}/{size}"
                ).encode()
            )
        sizes = len(IMAGE) + len(CONFIG) + 2 * len(LAYER) + 8
        assert parent.observed.sent_bytes == {"child": sizes}
        assert parent.observed.refusals == []


@instant
async def test_head_says_the_size_and_sends_nothing() -> None:
    async with a_parent() as parent:
        holding(parent, "child")
        answer = await parent.answer(await parent.request("child", digest_of(LAYER), method="HEAD"))
        assert answer == f"HTTP/1.1 200 OK\r\ncontent-length: {len(LAYER)}\r\n\r\n".encode()


@instant
async def test_one_connection_takes_one_request_after_the_other_whatever_the_answers_are() -> None:
    async with a_parent() as parent:
        holding(parent, "child")
        known, missing = (
            await parent.request("child", digest_of(CONFIG)),
            await parent.request("child", "sha256:" + "0" * 64),
        )
        answer = await parent.answer(missing, known, missing)
        assert answer.startswith(REFUSED)
        assert answer.endswith(CONFIG + REFUSED)


@instant
async def test_an_index_serves_the_manifests_that_it_names_and_what_these_name() -> None:
    async with a_parent() as parent:
        other = manifest(b"for another platform", b"its layer")
        root = index(IMAGE, other)
        holding(parent, "child")
        parent.have(root)
        parent.serve(digest_of(root), "child")
        assert (await parent.answer(await parent.request("child", digest_of(LAYER)))).endswith(LAYER)
        # This node does not have the other manifest, so it does not know what that names.
        parent.have(b"its layer")
        assert await parent.answer(await parent.request("child", digest_of(b"its layer"))) == REFUSED


@instant
async def test_blobs_become_known_with_the_manifests_that_name_them() -> None:
    async with a_parent() as parent:
        parent.have(LAYER)
        parent.serve(digest_of(IMAGE), "child")
        asked = await parent.request("child", digest_of(LAYER))
        assert await parent.answer(asked) == REFUSED
        parent.have(IMAGE)
        await asyncio.sleep(1)
        assert (await parent.answer(asked)).endswith(LAYER)


@instant
async def test_blobs_of_a_push_that_lasts_are_served_by_name() -> None:
    async with a_parent() as parent:
        parent.have(LAYER, OTHER)
        parent.serve("", "child", blobs=frozenset({digest_of(LAYER)}))
        assert (await parent.answer(await parent.request("child", digest_of(LAYER)))).endswith(LAYER)
        assert await parent.answer(await parent.request("child", digest_of(OTHER))) == REFUSED


@instant
async def test_a_child_that_is_done_says_so() -> None:
    async with a_parent() as parent:
        holding(parent, "child")
        answer = await parent.answer(request("POST", done_path(LINE), await parent.headers("child")))
        assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        assert parent.observed.finished == [(LINE, "child")]
        assert await parent.answer(request("POST", done_path(LINE), await parent.headers("stranger"))) == REFUSED
        assert parent.observed.finished == [(LINE, "child")]


# --- refusals --------------------------------------------------------------------------------------------------------

DIGEST = digest_of(LAYER)
HERE = blob_path(LINE, DIGEST)


@dataclass(frozen=True)
class Case:
    """A request that differs in one thing from one that is answered."""

    reason: Refusal
    token_of: str = "child"
    key_of: str = "child"
    proof_for: str = "parent"
    """Whose key the proof names."""
    proof_of: str = "child"
    """The node whose token the proof names."""
    audience: str = AUDIENCE
    method: str = "GET"
    path: str = HERE
    headers: Mapping[str, str | None] = field(default_factory=dict)

    async def request(self, parent: Parent) -> bytes:
        token, key = await parent.token(self.token_of, audience=self.audience), key_of(self.key_of)
        proved = token if self.proof_of == self.token_of else await parent.token(self.proof_of)
        proof = sign_proof(key, key_of(self.proof_for).name, proved)
        proper = {"Authorization": f"Bearer {token}", KEY_HEADER: key.public, PROOF_HEADER: proof}
        return request(self.method, self.path, proper, self.headers)


REFUSALS = {
    "not here": Case("absent", path=blob_path(LINE, digest_of(ABSENT))),
    "of no image": Case("digest", path=blob_path(LINE, "sha256:" + "0" * 64)),
    "of another image": Case("digest", path=blob_path(LINE, digest_of(OTHER))),
    "another node": Case("child", token_of="stranger", key_of="stranger", proof_of="stranger"),
    "another node's token": Case("child", token_of="stranger", proof_of="stranger"),
    "another audience": Case("token", audience="https://kubernetes.default.svc"),
    "no token": Case("request", headers={"Authorization": None}),
    "something for a token": Case("token", headers={"Authorization": "Bearer a.b.c"}),
    "another scheme": Case("request", headers={"Authorization": "Basic eDp5"}),
    "no key": Case("proof", headers={KEY_HEADER: None}),
    "something for a key": Case("proof", headers={KEY_HEADER: "A" * 122}),
    "another key": Case("child", key_of="stranger"),
    "no proof": Case("proof", headers={PROOF_HEADER: None}),
    "a proof for another parent": Case("proof", proof_for="stranger"),
    "a proof of another token": Case("proof", proof_of="stranger"),
    "another line": Case("child", path=blob_path("f" * 16, DIGEST)),
    "no such path": Case("request", path="/metrics"),
    "no such method": Case("request", method="PUT"),
    "no digest": Case("request", path=blob_path(LINE, "sha256:0")),
    "a range beyond the end": Case("absent", headers={"Range": f"bytes={len(LAYER)}-"}),
    "two ranges": Case("request", headers={"Range": "bytes=0-1,2-3"}),
    "a header twice": Case("request", headers={"authorization": "Bearer x"}),
    "a body": Case("request", headers={"Content-Length": "5"}),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_every_refusal_is_the_same_bytes_after_the_same_time(name: str) -> None:
    case = REFUSALS[name]

    @instant
    async def ask() -> None:
        async with a_parent() as parent:
            holding(parent, "child")
            asked = await case.request(parent)
            began = parent.clock.monotonic()
            assert await parent.answer(asked) == REFUSED
            assert parent.clock.monotonic() - began == pytest.approx(REFUSAL_SECONDS)
            assert parent.observed.refusals == [case.reason]
            assert parent.observed.sent_bytes == {}

    ask()


@instant
async def test_a_request_with_a_changed_byte_is_refused_unless_the_byte_does_not_matter() -> None:
    async with a_parent() as parent:
        holding(parent, "child")
        asked, random = await parent.request("child", digest_of(CONFIG)), Random(1)
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(CONFIG)
        answers = Counter[bytes]()
        for _ in range(150):
            changed = bytearray(asked)
            changed[random.randrange(len(asked))] ^= 1 << random.randrange(8)
            answers[await parent.answer(bytes(changed))] += 1
        # Without the end of its head nothing is answered.
        assert answers.keys() <= {REFUSED, head + CONFIG, b""}
        assert answers[REFUSED] > 120


@instant
async def test_a_hint_that_has_ended_and_one_without_children_serve_nobody() -> None:
    async with a_parent() as parent:
        holding(parent, "child")
        asked = await parent.request("child", DIGEST)
        parent.served[LINE] = Served({}, digest_of(IMAGE))
        assert await parent.answer(asked) == REFUSED
        del parent.served[LINE]
        assert await parent.answer(asked) == REFUSED


@instant
async def test_a_token_that_expired_is_refused_also_if_it_was_good_before() -> None:
    async with a_parent() as parent:
        holding(parent, "child")
        asked = await parent.request("child", DIGEST)
        assert (await parent.answer(asked)).endswith(LAYER)
        await asyncio.sleep(3600 + 61)
        assert await parent.answer(asked) == REFUSED
        assert parent.observed.refusals == ["token"]


@instant
async def test_a_content_store_that_does_not_answer_looks_like_one_without_the_blob() -> None:
    async with a_parent() as parent:
        holding(parent, "child")
        parent.content.error = unreachable()
        assert await parent.answer(await parent.request("child", DIGEST)) == REFUSED


# --- what is expected ------------------------------------------------------------------------------------------------

LATER = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n"


def expecting(parent: Parent, *children: str) -> None:
    """Have a hint that names these children, for an image that this node is still to get."""
    parent.serve(digest_of(IMAGE), *children)
    parent.served[LINE] = replace(parent.served[LINE], expected=True)


@instant
async def test_a_child_gets_a_blob_that_comes_a_moment_later() -> None:
    async with a_parent() as parent:
        expecting(parent, "child")
        answering = asyncio.create_task(parent.answer(await parent.request("child", digest_of(IMAGE))))
        await asyncio.sleep(0.5)
        parent.have(IMAGE)
        assert (await answering).endswith(IMAGE)


@instant
async def test_only_a_child_learns_that_a_node_expects_an_image() -> None:
    async with a_parent() as parent:
        expecting(parent, "child")
        assert await parent.answer(await parent.request("child", DIGEST)) == LATER
        assert await parent.answer(await parent.request("stranger", DIGEST)) == REFUSED
        assert parent.observed.refusals == ["expected", "child"]


@instant
async def test_no_blob_is_expected_that_the_manifests_of_the_image_do_not_name() -> None:
    async with a_parent() as parent:
        expecting(parent, "child")
        parent.have(IMAGE)
        assert await parent.answer(await parent.request("child", DIGEST)) == LATER
        assert await parent.answer(await parent.request("child", digest_of(OTHER))) == REFUSED


@instant
async def test_a_child_that_is_none_any_more_does_not_get_what_came_meanwhile() -> None:
    async with a_parent() as parent:
        expecting(parent, "child")
        answering = asyncio.create_task(parent.answer(await parent.request("child", digest_of(IMAGE))))
        await asyncio.sleep(0.5)
        holding(parent, "other")
        assert await answering == REFUSED


# --- limits ----------------------------------------------------------------------------------------------------------


@instant
async def test_a_child_that_asks_for_more_blobs_at_once_than_it_fetches_is_told_to_wait() -> None:
    async with a_parent(rate=1) as parent:
        holding(parent, "child", "other")
        asked = await parent.request("child", DIGEST)
        sending = [asyncio.create_task(parent.answer(asked)) for _ in range(BODIES_PER_CHILD_MAX)]
        await asyncio.sleep(1)
        answer = await parent.answer(asked)
        assert answer == LATER
        assert parent.observed.refusals == ["busy"]
        # Nobody else learns that it is busy, and other children are served.
        assert await parent.answer(await parent.request("stranger", DIGEST)) == REFUSED
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        assert (await parent.answer(asked)).startswith(b"HTTP/1.1 200")


@instant
async def test_a_child_that_asks_for_many_blobs_in_the_same_moment_gets_no_more_of_them() -> None:
    async with a_parent(rate=1) as parent:
        holding(parent, "child", "other")
        asked = await parent.request("child", DIGEST)
        sending = [asyncio.create_task(parent.answer(asked)) for _ in range(10 * BODIES_PER_CHILD_MAX)]
        await asyncio.sleep(1)
        assert parent.server.sending.total() == BODIES_PER_CHILD_MAX
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        assert parent.server.sending.total() == 0


@instant
async def test_a_child_that_asks_without_end_is_slowed_down_alone() -> None:
    async with a_parent() as parent:
        holding(parent, "child", "other")
        done = request("POST", done_path(LINE), await parent.headers("child"))
        began = parent.clock.monotonic()
        await parent.answer(*[done] * (REQUESTS_BURST - 10))
        assert parent.clock.monotonic() == began
        hammering = asyncio.create_task(parent.answer(*[done] * 1000))
        await asyncio.sleep(1)
        began = parent.clock.monotonic()
        assert (await parent.answer(await parent.request("other", DIGEST))).endswith(LAYER)
        assert parent.clock.monotonic() - began < 0.1
        await hammering
        assert parent.clock.monotonic() - began == pytest.approx(1000 / REQUESTS_PER_SECOND, rel=0.1)


@instant
async def test_no_more_bytes_are_sent_in_a_second_than_the_setting_says() -> None:
    async with a_parent(rate=1000) as parent:
        holding(parent, "child")
        asked = await parent.request("child", DIGEST)
        began = parent.clock.monotonic()
        answers = await asyncio.gather(parent.answer(asked), parent.answer(asked))
        seconds = 2 * len(LAYER) / 1000
        assert all(answer.endswith(LAYER) for answer in answers)
        assert seconds - 2 < parent.clock.monotonic() - began < seconds + 2


# --- while it arrives ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def half_sent(parent: Parent) -> AsyncIterator[tuple[Incoming, asyncio.Task[bytes]]]:
    """A layer that is being received, and the answer to a child that has all bytes that came so far."""
    parent.have(IMAGE)
    parent.serve(digest_of(IMAGE), "child")
    async with parent.incoming.receiving(DIGEST, len(LAYER)) as blob:
        await blob.receive(0, LAYER[:4000])
        answering = asyncio.create_task(parent.answer(await parent.request("child", DIGEST)))
        await until(lambda: parent.observed.sent_bytes == {"child": 4000})
        yield blob, answering


@instant
async def test_bytes_flow_on_as_they_arrive() -> None:
    async with a_parent() as parent:
        async with half_sent(parent) as (blob, answering):
            await blob.receive(4000, LAYER[4000:])
            # The last byte is the sign that this node has verified what it sent.
            await until(lambda: parent.observed.sent_bytes == {"child": len(LAYER) - 1})
            assert not answering.done()
            parent.have(LAYER)
        assert (await answering).endswith(b"\r\n\r\n" + LAYER)


@instant
async def test_a_child_that_is_behind_gets_the_rest_from_the_content_store() -> None:
    async with a_parent() as parent:
        async with half_sent(parent) as (_, answering):
            parent.have(LAYER)
        assert (await answering).endswith(b"\r\n\r\n" + LAYER)


@instant
async def test_a_blob_that_fails_to_arrive_ends_the_answer_in_the_middle() -> None:
    async with a_parent() as parent:
        async with half_sent(parent) as (_, answering):
            pass
        assert (await answering).endswith(LAYER[:4000])


@instant
async def test_a_blob_that_stops_arriving_holds_a_place_for_a_minute_at_most() -> None:
    async with a_parent() as parent:
        parent.have(IMAGE)
        parent.serve(digest_of(IMAGE), "child")
        async with parent.incoming.receiving(DIGEST, len(LAYER)) as blob:
            await blob.receive(0, LAYER[:10])
            began = parent.clock.monotonic()
            assert (await parent.answer(await parent.request("child", DIGEST))).endswith(LAYER[:10])
            assert parent.clock.monotonic() - began < 70
