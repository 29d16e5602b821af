"""What a registry answers does not reach those who may only read statuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.error_texts import without_server_words

WRAPPED = 'failed to pull and unpack image "10.0.0.1:80/x:1": failed to resolve reference "10.0.0.1:80/x:1": '


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("unexpected status from GET request to http://h/x: 403 secret", ": 403 Forbidden"),
        ("unexpected status code [manifests 1]: 418 x - Server message: denied: secret", ": 418 I'm a Teapot"),
        ("pulling from host h failed with status code 401 secret", "status code 401 Unauthorized"),
        ("pull access denied, or it may be absent: server message: secret", "or it may be absent: server message"),
        ("toomanyrequests: secret", "toomanyrequests"),
        ("denied: secret", "denied"),
        ("x509: certificate is valid for secret.internal, not h", "x509: certificate is valid for"),
        ("reading manifest 1 in h/x: manifest unknown: secret", "manifest 1 in h/x: manifest unknown"),
        (
            'Head "http://secret.internal/": dial tcp 10.0.0.1:443: refused',
            'Head "...": dial tcp 10.0.0.1:443: refused',
        ),
        ("invalid character 's' looking for secret", "invalid character"),
        ("response body: secret", "response body"),
        (
            "unexpected status from HEAD request to http://10.0.0.1/login/secret?a=secret: 403 Forbidden",
            'unexpected status from HEAD request to "...": 403 Forbidden',
        ),
        ("connection broken: malformed MIME header initial line: secret", "connection broken: malformed MIME header"),
        ("status: 599 secret", "status: 599"),
    ],
)
def test_the_words_of_the_registry_go_and_those_of_the_runtime_stay(text: str, left: str) -> None:
    assert without_server_words(text).endswith(left)
    assert "secret" not in without_server_words(WRAPPED + text)


@pytest.mark.parametrize(
    "text",
    [
        "h/a:1: not found",
        "dial tcp: lookup h on 10.0.0.10:53: no such host",
        "write /var/lib/containerd/ingest/ab/data: no space left on device",
        "failed to extract layer sha256:12: exit status 1",
        "mismatched image rootfs and manifest layers",
    ],
)
def test_a_message_of_the_runtime_itself_is_left_alone(text: str) -> None:
    assert without_server_words(text) == text


@given(st.text(max_size=200))
def test_nothing_is_left_of_what_follows_a_status(words: str) -> None:
    left = without_server_words(f"unexpected status code [manifests 1]: 403 {words}")
    assert left == "unexpected status code [manifests 1]: 403 Forbidden"
