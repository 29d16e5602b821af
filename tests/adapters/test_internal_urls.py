"""Addresses of the cluster and of this machine are told from those behind a proxy."""

from __future__ import annotations

import pytest

from adapters.internal_urls import is_internal


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/events",
        "http://[::1]:8080/events",
        "http://localhost:8080/events",
        "http://warmhook-handlers/events",
        "http://warmhook-handlers.warmhook-system.svc/events",
        "http://broker-ingress.knative-eventing.svc.cluster.local/warmhook/default",
        "http://broker-ingress.knative-eventing.svc.corp.example.com/",
        "http://robot:secret@web.warmhook-system.svc.:80/events",
        "https://kubernetes.local",
        "https://10.96.0.1:443",
        "https://100.64.0.1",
        "https://192.168.1.7:6443",
        "https://[fd00:10::1]:443",
    ],
)
def test_an_address_inside_needs_no_proxy(url: str) -> None:
    assert is_internal(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://www.googleapis.com/oauth2/v3/certs",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
        "http://svc.example.com/",
        "http://127.0.0.1.example.com/",
        "http://local.example.com/",
    ],
)
def test_an_address_outside_may_need_one(url: str) -> None:
    assert not is_internal(url)
