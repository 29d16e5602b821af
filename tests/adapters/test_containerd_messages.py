"""The messages to containerd's services are what protobuf would send."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.containerd_messages import TYPES, encode_write, label_list, labels_of


@given(offset=st.integers(0, 2**63 - 1), data=st.binary(max_size=300))
def test_a_write_is_the_message_that_protobuf_knows(offset: int, data: bytes) -> None:
    for given_data in (data, bytearray(data), memoryview(data)):
        request = TYPES["WriteContentRequest"].FromString(encode_write(offset, given_data))
        assert request == TYPES["WriteContentRequest"](action=1, offset=offset, data=data)


def test_a_write_may_have_a_mebibyte() -> None:
    data = bytes(range(256)) * 4096
    assert TYPES["WriteContentRequest"].FromString(encode_write(2**40, data)).data == data


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_labels_are_the_entries_of_a_map(labels: dict[str, str]) -> None:
    info = TYPES["Info"](labels=label_list(labels))
    assert labels_of(TYPES["Info"].FromString(info.SerializeToString())) == labels
