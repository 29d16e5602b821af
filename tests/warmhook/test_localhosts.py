"""Hosts that are the node itself or link-local are recognized in every spelling, and no others."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.localhosts import is_local_host


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:5000",
        "127.1",
        "127.0.1:80",
        "0x7f.1",
        "0x7F000001",
        "2130706433:5000",
        "017700000001",
        "0177.0.0.01",
        "0.0.0.0",
        "0:5000",
        "127.0.0.1.:5000",
        "169.254.169.254",
        "0xa9fea9fe:80",
        "169.254.170.2",
        "100.100.100.200",
        "192.0.0.192",
        "[::1]",
        "[::1]:5000",
        "[0:0:0:0:0:0:0:1]",
        "[::]:5000",
        "[::ffff:127.0.0.1]:5000",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]:5000",
        "[fe80::1%eth0]",
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "168.63.129.16:32526",
        "0xa83f8110",
        "[fd20:ce::254]",
        "[fd00:42::42]",
        "localhost",
        "LOCALHOST:5000",
        "localhost.:5000",
        "registry.localhost:5000",
        "localhost.localdomain",
        "ip6-localhost",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data.ec2.internal",
    ],
)
def test_the_node_itself_and_what_is_link_local_are_recognized(host: str) -> None:
    assert is_local_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "docker.io",
        "registry.example.com:5000",
        "10.0.0.1:5000",
        "192.168.1.1",
        "128.0.0.1",
        "8.8.8.8",
        "[2001:db8::1]:5000",
        "[fd00::1]",
        "127.example.com",
        "127.0.0.1.example.com",
        "127.0.0.1.nip.io",
        "localhost.example.com",
        "notlocalhost:5000",
        "1.2.3.4.5",
        "127.0.0.256",
        "0x:",
        "",
    ],
)
def test_other_hosts_are_not(host: str) -> None:
    assert is_local_host(host) == (host == "0x:")


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.lists(st.sampled_from(["d", "o", "x"]), min_size=4, max_size=4))
def test_every_spelling_of_an_address_is_judged_alike(number: int, parts: int, forms: list[str]) -> None:
    whole = number.to_bytes(4, "big")
    values = [*whole[: parts - 1], int.from_bytes(whole[parts - 1 :], "big")]
    spelling = {"d": str, "o": lambda value: f"0{value:o}", "x": hex}
    spelled = ".".join(spelling[form](value) for form, value in zip(forms, values, strict=False))  # type: ignore[operator]  # functions of a table
    dotted = str(ipaddress.IPv4Address(number))
    assert is_local_host(f"{spelled}:5000") == is_local_host(dotted) == is_local_host(f"[::ffff:{dotted}]")


@given(st.text(max_size=40))
def test_no_text_makes_it_fail(host: str) -> None:
    assert is_local_host(host) in (True, False)
