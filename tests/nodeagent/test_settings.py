"""Every setting of the agent is read from its variable, and has a default unless it is the node's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.env import BadSetting
from nodeagent.peers.settings import PeerSettings
from nodeagent.settings import Settings, read_settings


def test_the_node_is_all_that_must_be_set() -> None:
    assert read_settings({"NODE_NAME": "node-1"}) == Settings("node-1")


def test_an_empty_variable_counts_as_unset() -> None:
    assert read_settings({"NODE_NAME": "n", "WARMHOOK_PARALLEL_PULLS": "", "KUBECONFIG": ""}) == Settings("n")


def test_every_setting_is_read() -> None:
    environ = {
        "NODE_NAME": "n",
        "WARMHOOK_NAMESPACE": "elsewhere",
        "CONTAINER_RUNTIME_ENDPOINT": "unix:///run/crio/crio.sock",
        "WARMHOOK_PARALLEL_PULLS": "5",
        "WARMHOOK_CHECK_SECONDS": "10",
        "WARMHOOK_STATE_DIR": "/tmp/state",
        "WARMHOOK_METRICS_PORT": "0",
        "WARMHOOK_MIN_FREE_PERCENT": "10",
        "WARMHOOK_ALLOW_LOCAL_REGISTRIES": "true",
        "WARMHOOK_LOG": "console",
        "KUBECONFIG": "/tmp/kubeconfig",
    }
    assert read_settings(environ) == Settings(
        "n",
        "elsewhere",
        "unix:///run/crio/crio.sock",
        5,
        10,
        Path("/tmp/state"),
        0,
        10,
        True,
        "console",
        "/tmp/kubeconfig",
    )


def test_credential_providers_are_read_from_the_configuration_of_the_kubelet(tmp_path: Path) -> None:
    config, program = tmp_path / "config.json", tmp_path / "plugin"
    provider = {"name": "plugin", "matchImages": ["registry.example.com"], "defaultCacheDuration": "1m"}
    provider["apiVersion"] = "credentialprovider.kubelet.k8s.io/v1"
    kind = {"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig"}
    config.write_text(json.dumps({**kind, "providers": [provider]}))
    names = ("WARMHOOK_CREDENTIAL_PROVIDER_CONFIG", "WARMHOOK_CREDENTIAL_PROVIDER_BIN_DIR")
    environ = {"NODE_NAME": "n", names[0]: str(config), names[1]: str(tmp_path)}
    with pytest.raises(BadSetting, match=f"{names[1]}: {program} is not a program"):
        read_settings(environ)
    program.touch(mode=0o755)
    settings = read_settings(environ)
    assert [each.name for each in settings.providers] == ["plugin"]
    assert settings.providers_dir == tmp_path
    for name in names:
        with pytest.raises(BadSetting, match="must be set together"):
            read_settings({key: value for key, value in environ.items() if key != name})
    config.write_text("{}")
    with pytest.raises(BadSetting, match=f"{names[0]}: {config} is no CredentialProviderConfig"):
        read_settings(environ)


def test_the_settings_of_peers_are_read(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    environ = {
        "NODE_NAME": "n",
        "HOST_IP": "10.0.0.5",
        "WARMHOOK_PEER_PORT": "1234",
        "WARMHOOK_PEER_TOKEN_FILE": "/tmp/token",
        "WARMHOOK_PEER_RATE": "1000",
        "WARMHOOK_PLAIN_HTTP_REGISTRIES": "registry.shop.svc:5000, [fd00::1]:80,Other.example.com",
        "WARMHOOK_REGISTRY_CA_FILE": str(ca),
    }
    hosts = frozenset({"registry.shop.svc:5000", "[fd00::1]:80", "other.example.com"})
    read = read_settings(environ).peers
    assert read == PeerSettings(1234, "10.0.0.5", Path("/tmp/token"), 1000, hosts, ca)
    assert read.endpoint == "10.0.0.5:1234"


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, ""),
        ({"HOST_IP": "10.0.0.5"}, "10.0.0.5:9465"),
        ({"HOST_IP": "10.0.0.5", "WARMHOOK_PEER_PORT": "0"}, ""),
        ({"HOST_IP": "10.0.0.5", "WARMHOOK_PEER_ADDRESS": "192.168.1.5"}, "192.168.1.5:9465"),
        ({"HOST_IP": "fd00::5"}, "[fd00::5]:9465"),
        ({"HOST_IP": "127.0.0.1"}, ""),
        ({"HOST_IP": "fe80::1"}, ""),
        ({"HOST_IP": "not-an-address"}, ""),
        ({"HOST_IP": "127.0.0.1", "WARMHOOK_ALLOW_LOCAL_REGISTRIES": "true"}, "127.0.0.1:9465"),
    ],
)
def test_an_agent_serves_others_at_the_address_of_its_node(environ: dict[str, str], endpoint: str) -> None:
    assert read_settings({"NODE_NAME": "n", **environ}).peers.endpoint == endpoint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            ("WARMHOOK_PEER_ADDRESS", value)
            for value in ("node-1", "0.0.0.0", "127.0.0.1", "224.0.0.1", "fe80::1%eth0")
        ],
        *[("WARMHOOK_PLAIN_HTTP_REGISTRIES", value) for value in ("http://registry", "a b", "x/y")],
        ("WARMHOOK_REGISTRY_CA_FILE", "/does/not/exist"),
        ("WARMHOOK_PEER_PORT", "65536"),
        ("WARMHOOK_PEER_RATE", "-1"),
    ],
)
def test_a_setting_of_peers_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=name):
        read_settings({"NODE_NAME": "n", name: value})
