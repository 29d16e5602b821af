"""Read recordings of a real Knative, one file each, from the folder that `WARMHOOK_TEST_KNATIVE` names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Message", "needs_recordings", "read_answer", "read_request", "recorded"]

FOLDER = Path(os.environ.get("WARMHOOK_TEST_KNATIVE") or "absent")
needs_recordings = pytest.mark.skipif(not FOLDER.is_dir(), reason="WARMHOOK_TEST_KNATIVE names no folder")


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer; header names in lower case."""

    first_line: str
    headers: dict[str, str]
    body: bytes

    def attributes(self) -> dict[str, str]:
        """What is said of the event, without what every request differs in."""
        return {
            name: text
            for name, text in self.headers.items()
            if (name.startswith("ce-") and name != "ce-knativearrivaltime")
            or name in ("content-type", "kn-namespace", "prefer")
        }


def recorded(prefix: str) -> list[str]:
    """The names of the recordings that begin so."""
    return sorted(path.stem for path in FOLDER.glob(f"{prefix}*.http"))


def read_request(name: str) -> Message:
    """The request of a recording."""
    return _message(_part(name, 0))


def read_answer(name: str) -> Message:
    """The answer of a recording that has one."""
    return _message(_part(name, 1))


def _part(name: str, number: int) -> str:
    text = (FOLDER / f"{name}.http").read_bytes().decode().replace("\r\n", "\n")
    return text.removeprefix("# request\n").partition("\n# answer")[2 * number]


def _message(text: str) -> Message:
    if text.startswith(" of"):
        text = text.partition("\n")[2]
    head, _, body = text.partition("\n\n")
    first, *lines = head.split("\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    return Message(first, headers, body.encode()[:length])
