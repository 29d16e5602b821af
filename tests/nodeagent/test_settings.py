"""A bad setting of the agent is refused with one line that names the variable and the expected form."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("name", "value", "form"),
    [
        ("NODE_NAME", "", "not set"),
        ("NODE_NAME", "n" * 237, "at most 236 characters"),
        ("CONTAINER_RUNTIME_ENDPOINT", "tcp://127.0.0.1:1", "unix:///run"),
        ("WARMHOOK_PARALLEL_PULLS", "0", "from 1 to 64"),
        ("WARMHOOK_PARALLEL_PULLS", "many", "a whole number"),
        ("WARMHOOK_CHECK_SECONDS", "-1", "from 1 to 3600"),
        ("WARMHOOK_METRICS_PORT", "65536", "from 0 to 65535"),
        ("WARMHOOK_MIN_FREE_PERCENT", "100", "from 0 to 99"),
        ("WARMHOOK_ALLOW_LOCAL_REGISTRIES", "yes", "true, false"),
        ("WARMHOOK_LOG", "loud", "json, console"),
    ],
)
def test_a_bad_value_names_its_variable_and_the_expected_form(name: str, value: str, form: str) -> None:
    with pytest.raises(BadSetting, match=rf"{name}.*{form}") as raised:
        read_settings({"NODE_NAME": "n"} | {name: value})
    assert "\n" not in str(raised.value)
