"""A token of the admission path is random, fits into a webhook's path, and is replaced while the old one counts."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.admission_tokens import RANDOM_BITS, accepts, path_of, print_tokens, read_tokens, renew, token_of

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
# What the API server requires of each segment of a webhook's path.
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@given(st.integers(0, 2**RANDOM_BITS - 1))
def test_a_token_survives_the_secret_and_the_path_and_the_api_server_takes_it(bits: int) -> None:
    tokens = renew((), START, bits)
    assert read_tokens(print_tokens(tokens)) == tokens
    assert [token_of(path_of(token)) for token in tokens] == list(tokens)
    assert all(SUBDOMAIN.fullmatch(segment) for segment in path_of(tokens[0]).split("/")[1:])
    assert len(path_of(tokens[0])) < 253


def test_a_token_is_renewed_after_60_days_and_the_one_before_stays() -> None:
    first = renew((), START, 1)
    assert renew(first, START + timedelta(days=59), 2) == first
    second = renew(first, START + timedelta(days=60), 2)
    assert second[1:] == first
    third = renew(second, START + timedelta(days=120), 3)
    assert third[1:] == second[:1]


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"x", b"20260301-12", b"20261301-" + b"a" * 48, b"\xff\xfe", b"20260301-" + b"A" * 48]
)
def test_text_that_is_no_token_is_read_as_none(content: bytes) -> None:
    assert read_tokens(content) == ()


def test_an_empty_or_unknown_token_is_not_accepted() -> None:
    tokens = renew((), START, 7)
    assert accepts(tokens, tokens[0])
    for wrong in ("", tokens[0][:-1], tokens[0] + "0", tokens[0].upper() + "\n", "\udcff", "\xe4"):
        assert not accepts(tokens, wrong)
        assert not accepts((), wrong)
