"""Bodies of typed clients are read as the objects that they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from devcluster.apiserver.errors import StatusError
from devcluster.apiserver.protobuf import json_of

# The Secret `default/s` with the empty text in generateName that clients send.
SECRET = (
    b"k8s\x00\n\x0c\n\x02v1\x12\x06Secret"
    b"\x12\x1d\n\x0e\n\x01s\x12\x00\x1a\x07default\x12\x06\n\x01a\x12\x01b\x1a\x03abc"
)


def read(body: bytes) -> Any:
    return json.loads(json_of(body))


def test_a_secret_is_read_with_its_bytes_in_base64_and_without_what_is_empty() -> None:
    assert read(SECRET) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": "default"},
        "data": {"a": "Yg=="},
        "type": "abc",
    }


def test_numbers_flags_lists_and_unknown_fields_are_read() -> None:
    # gracePeriodSeconds, preconditions.uid, a propagation policy, two values of dryRun, and a field 7 of 8 bytes.
    options = b"\x08\x00\x12\x03\n\x01u\x22\x0aBackground*\x03All*\x00\x39\x01\x02\x03\x04\x05\x06\x07\x08"
    envelope = b"k8s\x00\n\x13\n\x02v1\x12\x0dDeleteOptions\x12"
    assert read(envelope + bytes([len(options)]) + options) == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u"},
        "propagationPolicy": "Background",
        "dryRun": ["All", ""],
    }
    negative = b"\x08" + b"\xff" * 9 + b"\x01"
    assert read(envelope + bytes([len(negative)]) + negative)["gracePeriodSeconds"] == -1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 415),
        (b"{}", 400),
        (b"k8s\x00\n\x0b\n\x02v1\x12\x05Other", 415),
        (SECRET[:-1], 400),
        (SECRET.replace(b"\x1a\x03abc", b"\x1b\x03abc"), 400),
        (b"k8s\x00" + b"\xff" * 12, 400),
        (b"k8s\x00\x08\x01", 400),
    ],
    ids=["empty", "JSON", "another kind", "cut off", "an unknown type", "an endless number", "a number for a message"],
)
def test_what_is_no_such_object_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(StatusError) as refused:
        json_of(body)
    assert refused.value.response().status == status
