"""Blobs that are being received can be read by others before they are complete."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodeagent.peers import incoming
from nodeagent.peers.incoming import Incoming, IncomingBlobs
from tests.support.instant import instant

DIGEST = "sha256:" + "a" * 64


async def at_once(call: Callable[..., Any], *arguments: Any) -> Any:
    return call(*arguments)


def blobs(folder: Path) -> IncomingBlobs:
    return IncomingBlobs(folder / "incoming", at_once)


def content(size: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(size))


async def read_all(blob: Incoming, step: int) -> bytes:
    read = bytearray()
    while len(read) < blob.size_bytes - 1 and await blob.wait_beyond(len(read)):
        read += blob.read(len(read), step)
    return bytes(read)


@instant
async def test_a_reader_gets_the_first_byte_before_the_last_one_has_come(tmp_path: Path) -> None:
    received = blobs(tmp_path)
    async with received.receiving(DIGEST, 10) as blob:
        await blob.receive(0, b"12345")
        found = received.get(DIGEST)
        assert found is blob
        assert await found.wait_beyond(0)
        assert bytes(found.read(0, 100)) == b"12345"
        assert blob.received_bytes == 5


@instant
async def test_a_slow_and_a_fast_reader_both_get_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "WINDOW_BYTES", 300)
    text = content(5000)
    async with blobs(tmp_path).receiving(DIGEST, len(text)) as blob, asyncio.TaskGroup() as group:
        fast = group.create_task(read_all(blob, 1000))
        slow = group.create_task(read_all(blob, 7))
        for offset in range(0, len(text), 100):
            await blob.receive(offset, text[offset : offset + 100])
            await asyncio.sleep(0)
        assert await fast == text[:-1]
        assert await slow == text[:-1]


@instant
async def test_bytes_before_the_window_come_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "WINDOW_BYTES", 300)
    text = content(5000)
    async with blobs(tmp_path).receiving(DIGEST, len(text)) as blob:
        for offset in range(0, len(text), 100):
            await blob.receive(offset, text[offset : offset + 100])
        assert blob._window_bytes <= 300
        assert bytes(blob.read(0, 5000)) == text[:-1]


@instant
async def test_the_last_byte_is_not_readable_before_the_blob_is_verified(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        async with blobs(tmp_path).receiving(DIGEST, 10) as blob:
            await blob.receive(0, b"0123456789")
            assert bytes(blob.read(8, 5)) == b"8"
            assert bytes(blob.read(9, 5)) == b""
            waiting = group.create_task(blob.wait_beyond(9))
            await asyncio.sleep(1)
            assert not waiting.done()
        assert await waiting is False


@instant
async def test_many_blobs_share_the_memory_of_a_few(tmp_path: Path) -> None:
    received, piece = blobs(tmp_path), bytes(500_000)
    async with contextlib.AsyncExitStack() as stack:
        found = [
            await stack.enter_async_context(received.receiving(f"sha256:{number:064x}", 10_000_000))
            for number in range(12)
        ]
        for offset in range(0, 5_000_000, len(piece)):
            for blob in found:
                await blob.receive(offset, piece)
        assert sum(blob._window_bytes for blob in found) <= 12 * 1024 * 1024
        assert len(bytes(found[0].read(0, 500_000))) == 500_000


@instant
async def test_bytes_that_are_known_already_change_nothing(tmp_path: Path) -> None:
    async with blobs(tmp_path).receiving(DIGEST, 10) as blob:
        await blob.receive(0, b"12345")
        await blob.receive(3, b"xx678")
        await blob.receive(0, b"zz")
        assert bytes(blob.read(0, 5)) + bytes(blob.read(5, 5)) == b"12345678"


@instant
async def test_waiting_readers_see_the_end(tmp_path: Path) -> None:
    received = blobs(tmp_path)
    async with asyncio.TaskGroup() as group:
        async with received.receiving(DIGEST, 10) as blob:
            await blob.receive(0, b"123")
            waiting = group.create_task(blob.wait_beyond(3))
            await asyncio.sleep(0)
        assert await waiting is False
    assert blob.read(0, 3) == b""
    assert received.get(DIGEST) is None


@instant
async def test_the_file_of_a_blob_goes_with_it(tmp_path: Path) -> None:
    received = blobs(tmp_path)
    async with received.receiving(DIGEST, 10) as blob:
        await blob.receive(0, b"123")
        assert [file.stat().st_size for file in (tmp_path / "incoming").iterdir()] == [10]
    assert list((tmp_path / "incoming").iterdir()) == []


@instant
async def test_files_of_an_agent_that_was_killed_are_removed(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "sha256-left").write_bytes(b"left")
    received = blobs(tmp_path)
    received.remove_files()
    received.remove_files()
    async with received.receiving(DIGEST, 1):
        assert len(list((tmp_path / "incoming").iterdir())) == 1


@instant
async def test_a_disk_without_room_is_noticed_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    received = blobs(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        async with received.receiving(DIGEST, 10):
            pass
    assert received.get(DIGEST) is None
    assert list((tmp_path / "incoming").iterdir()) == []


@instant
async def test_copies_for_others_take_a_small_part_of_the_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "_free_bytes", lambda _folder: 800)
    received = blobs(tmp_path)
    async with received.receiving(DIGEST, 100):
        assert received.get(DIGEST) is not None
    with pytest.raises(OSError, match="101 bytes are too much of the free space"):
        async with received.receiving(DIGEST, 101):
            pass
    assert received.get(DIGEST) is None


@instant
async def test_all_copies_for_others_together_take_a_small_part_of_the_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 800
    monkeypatch.setattr(incoming, "_free_bytes", lambda _folder: free)
    received, other = blobs(tmp_path), "sha256:" + 64 * "b"
    async with received.receiving(DIGEST, 60):
        free -= 60
        with pytest.raises(OSError, match="too much of the free space"):
            async with received.receiving(other, 41):
                pass
        async with received.receiving(other, 40):
            assert received.get(other) is not None


@instant
async def test_bytes_that_come_after_the_end_are_dropped(tmp_path: Path) -> None:
    async with blobs(tmp_path).receiving(DIGEST, 10) as blob:
        blob.end()
        await blob.receive(0, b"123")
        assert blob.received_bytes == 0
        assert not await blob.wait_beyond(0)
