"""The command that lets agents read a Secret."""

from __future__ import annotations

from pathlib import Path

import yaml

from warmhook.secret_access import AGENT_ACCOUNT, forbidden_message, grant_command, with_command

COMMAND = (
    "kubectl create role warmhook-regcred -n shop --verb=get --resource=secrets --resource-name=regcred && "
    "kubectl create rolebinding warmhook-regcred -n shop --role=warmhook-regcred "
    "--serviceaccount=warmhook-agents:warmhook-agent"
)


def test_the_command_gives_get_on_one_secret_to_the_account_of_the_manifests() -> None:
    assert grant_command("shop", "regcred") == COMMAND
    documents = yaml.safe_load_all((Path(__file__).parents[2] / "knative/base/rbac.yaml").read_text())
    accounts = {
        f"{each['metadata']['namespace']}:{each['metadata']['name']}"
        for each in documents
        if each["kind"] == "ServiceAccount"
    }
    assert AGENT_ACCOUNT in accounts
    page = (Path(__file__).parents[2] / "docs/private-images.md").read_text()
    assert COMMAND in " ".join(page.replace("\\\n", "").split())


def test_the_message_of_an_agent_is_completed_for_the_secrets_of_the_warmimage_only() -> None:
    said = forbidden_message("regcred")
    assert with_command(said, "shop", ["other", "regcred"]) == f"{said}; run: {COMMAND}"
    for foreign in (forbidden_message("admin-token"), "agents may not get Secret regcred -n kube-system", ""):
        assert with_command(foreign, "shop", ["regcred"]) == foreign


def test_the_message_fits_where_it_is_written() -> None:
    assert len(forbidden_message("s" * 170)) <= 200
    longest = "s" * 253
    assert len(with_command(forbidden_message(longest), "n" * 63, [longest])) <= 1024
