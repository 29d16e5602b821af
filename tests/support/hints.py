"""Write lines with hints as handlers do, and read what the agents of nodes report about them."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import NotFound
from adapters.kubernetes.paths import configmaps
from adapters.kubernetes.paths import node as node_path
from tests.real.programs import eventually
from warmhook.hints import Hint, Peer, encode_hint, hint_key
from warmhook.node_lines import Line, desired_name, node_patch
from warmhook.node_report import Report, read_report, report_name
from warmhook.peers import Transfer

__all__ = ["HintedNode"]


@dataclass(frozen=True, slots=True)
class HintedNode:
    """The two ConfigMaps of one node."""

    kubernetes: Kubernetes
    namespace: str
    """Of the ConfigMaps."""
    name: str

    async def want(self, line: Line, hint: Hint) -> None:
        """Write a line and its hint in one patch."""
        await self._patch({line.key: line}, {hint_key(line.key): encode_hint(hint)})

    async def forget(self, line: Line) -> None:
        """Remove a line and its hint."""
        await self._patch({line.key: None}, {hint_key(line.key): None})

    async def _patch(self, lines: dict[str, Line | None], more: dict[str, str | None]) -> None:
        uid = (await self.kubernetes.get(node_path(self.name)))["metadata"]["uid"]
        patch = node_patch(self.name, uid, lines)
        patch["data"] |= more
        try:
            await self.kubernetes.patch(configmaps(self.namespace, desired_name(self.name)), patch)
        except NotFound:
            metadata = patch["metadata"] | {"name": desired_name(self.name)}
            await self.kubernetes.create(configmaps(self.namespace), {"metadata": metadata, "data": patch["data"]})

    async def report(self) -> Report:
        """What the agent reported last; empty if it has not."""
        try:
            found = await self.kubernetes.get(configmaps(self.namespace, report_name(self.name)))
        except NotFound:
            return Report(self.name)
        return read_report(found["metadata"])

    async def peer(self) -> Peer:
        """The node as a hint of another names it; waits until its agent serves."""

        async def serves() -> bool:
            return (await self.report()).peer is not None

        await eventually(serves, what=f"{self.name} reports where it serves images")
        found = (await self.report()).peer
        assert found is not None
        return Peer(self.name, found.address, found.key)

    async def becomes(self, line: Line, state: str, *, seconds: float = 60) -> Report:
        """Wait until the report has this state of the line; that report."""

        async def agrees() -> bool:
            report = await self.report()
            return report.knows(line.key, line.version) and report.state(line.key, line.version) == state

        await eventually(agrees, what=f"{line.image} is {state} on {self.name}", seconds=seconds)
        return await self.report()

    async def transfer(self, line: Line) -> Transfer:
        """What came for the line and from where, as reported."""

        async def reported() -> bool:
            return line.version in (await self.report()).transfers

        await eventually(reported, what=f"{self.name} reports the transfer of {line.image}")
        return (await self.report()).transfers[line.version]
