"""Peers in reports: what a node says is read as it was written, and a hostile node is as one that says nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.peers import (
    PEER_BYTES_MAX,
    PeerReport,
    Transfer,
    encode_peer,
    encode_transfers,
    peer_address,
    read_peer,
    read_transfers,
)

KEY = "k" * 43
rates = st.integers(0, 2**40)


@given(rates, st.dictionaries(st.sampled_from(["docker.io", "ghcr.io:5000"]), rates))
def test_a_peer_is_read_as_it_was_written(rate: int, registries: dict[str, int]) -> None:
    report = PeerReport("10.0.0.5:9465", KEY, rate, registries)
    assert read_peer(encode_peer(report)) == report


def test_registries_with_long_names_are_left_out() -> None:
    text = encode_peer(PeerReport("10.0.0.5:9465", KEY, 7, {"r" * 250 + str(number): 1 for number in range(3)}))
    assert len(text) <= PEER_BYTES_MAX
    assert read_peer(text) == PeerReport("10.0.0.5:9465", KEY, 7)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.5:9465", ("10.0.0.5", 9465)),
        ("[fd00::5]:9465", ("fd00::5", 9465)),
        ("fd00::5:9465", None),
        ("[10.0.0.5]:9465", None),
        ("node-1:9465", None),
        ("10.0.0.5", None),
        ("10.0.0.5:0", None),
        ("10.0.0.5:65536", None),
        ("10.0.0.5:٣", None),
        ("0.0.0.0:9465", None),
        ("224.0.0.1:9465", None),
        ("[fe80::1%eth0]:9465", None),
        ("", None),
    ],
)
def test_an_address_is_an_ip_address_and_a_port(text: str, address: tuple[str, int] | None) -> None:
    assert peer_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "[" * 400,
        '{"a":"10.0.0.5:9465"}',
        '{"a":"10.0.0.5:9465","k":"short"}',
        '{"a":"evil.example.com:443","k":"' + KEY + '"}',
        '{"a":"10.0.0.5:9465","k":"' + KEY + '","r":[]}',
        '{"a":"10.0.0.5:9465","k":"' + KEY + '"}' + " " * 600,
    ],
)
def test_what_is_no_peer_is_as_if_it_were_not_there(text: str) -> None:
    assert read_peer(text) is None


@pytest.mark.parametrize("rate", ["-1", "1.5", "true", '"9"', str(2**41)])
def test_a_rate_that_cannot_be_is_unknown(rate: str) -> None:
    read = read_peer('{"a":"10.0.0.5:9465","b":' + rate + ',"k":"' + KEY + '","r":{"ghcr.io":' + rate + "}}")
    assert read == PeerReport("10.0.0.5:9465", KEY)


def test_transfers_are_read_as_they_were_written() -> None:
    transfers = [Transfer("0123abcd", 100, 7, 1200, 300, 1), Transfer("89abcdef")]
    assert list(read_transfers(encode_transfers(transfers)).values()) == transfers


def test_a_report_names_the_latest_transfers() -> None:
    text = encode_transfers(Transfer(f"{number:08x}") for number in range(100))
    assert list(read_transfers(text)) == [f"{number:08x}" for number in range(36, 100)]


@pytest.mark.parametrize("text", ["", ",", "0123abcd", "0123abcd:1:2:3:4", "0123abcd:1:2:3:4:x", "0123abcd:1:2:3:4:-5"])
def test_what_is_no_transfer_is_left_out(text: str) -> None:
    assert read_transfers(text) == {}
