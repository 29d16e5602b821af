"""Every setting of the agent is read from its variable, and has a default unless it is the node's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.env import BadSetting
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
