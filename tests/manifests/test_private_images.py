"""The page on private images changes the manifests as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from adapters.env import BadSetting
from nodeagent.settings import read_settings
from tests.manifests.rendered import BASE, find, operate, render

PAGE = (Path(__file__).parents[2] / "docs" / "private-images.md").read_text()


def blocks() -> list[object]:
    """The YAML of the page."""
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)]


def test_the_patch_for_credential_providers_fits_the_agent() -> None:
    agent = find(render(BASE), "DaemonSet", "warmhook-agent")
    (patches,) = [block["patches"] for block in blocks() if isinstance(block, dict) and "patches" in block]
    for patch in patches:
        assert patch["target"] == {"kind": agent["kind"], "name": agent["metadata"]["name"]}
        for operation in yaml.safe_load(patch["patch"]):
            operate(agent, operation)
    pod = agent["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environ = {each["name"]: each.get("value", "") for each in container["env"]}
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "providers"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "providers"]
    assert mount["readOnly"]
    assert mount["mountPath"] == volume["hostPath"]["path"] == environ["WARMHOOK_CREDENTIAL_PROVIDER_BIN_DIR"]
    assert environ["WARMHOOK_CREDENTIAL_PROVIDER_CONFIG"].startswith(mount["mountPath"])


def test_the_settings_of_the_page_are_settings_of_the_agent() -> None:
    named = set(re.findall(r"WARMHOOK_CREDENTIAL_PROVIDER_[A-Z_]+", PAGE))
    for name in named:
        with pytest.raises(BadSetting, match=name):
            read_settings({"NODE_NAME": "n", name: "/x"})
