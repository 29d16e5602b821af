"""Say which command lets agents read a Secret, because the shipped manifests do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

AGENT_ACCOUNT: Final = "warmhook-agents:warmhook-agent"
"""Namespace and name of the ServiceAccount of agents, as in the manifests."""
_MESSAGE_MAX: Final = 1024
"""Characters that a WarmImage's status has for one message."""


def forbidden_message(secret: str) -> str:
    """What an agent reports if it may not read the Secret; short, so that no report cuts it."""
    return f"agents may not get Secret {secret}"


def grant_command(namespace: str, secret: str) -> str:
    """The command that lets agents read this one Secret."""
    name = f"warmhook-{secret}"
    return (
        f"kubectl create role {name} -n {namespace} --verb=get --resource=secrets --resource-name={secret} && "
        f"kubectl create rolebinding {name} -n {namespace} --role={name} --serviceaccount={AGENT_ACCOUNT}"
    )


def with_command(message: str, namespace: str, secrets: Iterable[str]) -> str:
    """The message of an agent, with the command to run if it may not read one of `secrets`.

    The names are those of the WarmImage: a person will run the command, and the message comes from a node.
    """
    for secret in secrets:
        if message == forbidden_message(secret):
            complete = f"{message}; run: {grant_command(namespace, secret)}"
            return complete if len(complete) <= _MESSAGE_MAX else message
    return message
