"""A command reaches the cluster that its options name, or says in one line why it cannot."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.kubernetes.errors import KubernetesError, NotServed, Refused, Unavailable
from cli.cluster import Access, Cluster, with_cluster
from cli.errors import Failed, Unusable
from devcluster.apiserver.__main__ import kubeconfig


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A kubeconfig of a server that does not answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "config").write_text(kubeconfig(free.getsockname()[1]).replace("default", "shop"))
    return tmp_path / "config"


def access(config: Path, namespace: str | None = None, *, everywhere: bool = False, context: str = "") -> Access:
    return Access(str(config), context or None, namespace, everywhere, "warmhook-system")


@pytest.mark.parametrize(
    ("namespace", "everywhere", "expected"), [(None, False, "shop"), ("team", False, "team"), (None, True, "")]
)
def test_the_namespace_is_that_of_the_options_or_of_the_context(
    config: Path, namespace: str | None, everywhere: bool, expected: str
) -> None:
    async def look(cluster: Cluster) -> tuple[str, str]:
        return cluster.namespace, cluster.system_namespace

    assert with_cluster(access(config, namespace, everywhere=everywhere), look) == (expected, "warmhook-system")


def test_one_namespace_and_all_namespaces_exclude_each_other(config: Path) -> None:
    with pytest.raises(Unusable, match="-n and -A exclude each other"):
        with_cluster(access(config, "team", everywhere=True), read_nothing)


async def read_nothing(cluster: Cluster) -> None:
    await cluster.kubernetes.get("/version")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda config: access(config.parent / "none"), "no kubeconfig at"),
        (lambda config: access(config, context="nowhere"), "context 'nowhere'"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_a_wrong_call(
    config: Path, given: Callable[[Path], Access], words: str
) -> None:
    with pytest.raises(Unusable, match=words) as caught:
        with_cluster(given(config), read_nothing)
    assert str(config.parent) in caught.value.message
    assert "\n" not in caught.value.message


def test_a_server_that_does_not_answer_is_named_with_file_and_context(config: Path) -> None:
    with pytest.raises(Failed, match="check with kubectl cluster-info") as caught:
        with_cluster(access(config), read_nothing)
    assert caught.value.message.endswith(f"(context 'warmhook' of {config})")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotServed("GET /apis: 404", status=404), "is Warmhook installed in this cluster"),
        (Refused("GET /apis: 403 no", status=403), "ask an administrator for this right"),
        (Refused("GET /apis: 401", status=401), "sign in again"),
        (Unavailable("GET /apis: 503", status=503), "check with kubectl cluster-info"),
        (Refused("PATCH /apis: 422 \x1b[2J\nno", status=422), "PATCH /apis: 422  [2J no"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, KubernetesError) else "",
)
def test_what_the_server_refuses_is_one_line_that_says_what_to_do(
    config: Path, error: KubernetesError, words: str
) -> None:
    async def fail(_: Cluster) -> None:
        raise error

    with pytest.raises(Failed) as caught:
        with_cluster(access(config), fail)
    assert words in caught.value.message
    assert caught.value.message.isprintable()
