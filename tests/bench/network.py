"""Make network namespaces, each with an address of its own on a link of limited rate, for programs of a measurement.

Namespaces and links carry the process ID in their names: two measurements at the same time do not meet, and what a
killed one left is removed by the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.place import NotMeasured

__all__ = ["GIGABIT", "Host", "Network", "open_network"]

GIGABIT: Final = 125_000_000
"""Bytes per second."""
_NAME: Final = re.compile(r"whb(\d+)(?:-\d+)?")
_BURST_BYTES: Final = 128 * 1024
"""More than the 64 KiB that the kernel hands over at once; less would be cut into packets, which costs time."""
_LATENCY: Final = "100ms"


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace with one address."""

    namespace: str
    address: str
    _link: str

    def inside(self, *command: str) -> tuple[str, ...]:
        """Runs a command there, which replaces the one that enters."""
        return ("ip", "netns", "exec", self.namespace, *command)

    def sent_bytes(self) -> int:
        """What has left it so far, with the headers of the packets."""
        # The other end of its link receives what it sends.
        return int(Path(f"/sys/class/net/{self._link}/statistics/rx_bytes").read_text())


@dataclass(frozen=True, slots=True)
class Network:
    """Hosts that reach each other and this machine."""

    address: str
    """Of this machine, as its hosts see it."""
    hosts: Mapping[str, Host]


@contextlib.asynccontextmanager
async def open_network(rates: Mapping[str, int]) -> AsyncIterator[Network]:
    """Hosts by name, each with the bytes per second that may leave it; what reaches one is limited to a gigabit.

    One at a time in a process. Raises `NotMeasured` where nobody may make them.
    """
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            raise NotMeasured(f"there is no {program} here: install iproute2")
    if os.geteuid() != 0:
        raise NotMeasured("network namespaces need root")
    await _remove_abandoned()
    bridge, subnet = f"whb{os.getpid()}", await _free_subnet()
    try:
        await _run("ip", "link", "add", bridge, "type", "bridge")
        await _run("ip", "address", "add", f"{subnet}.1/24", "dev", bridge)
        await _run("ip", "link", "set", bridge, "up")
        hosts = {}
        for number, (name, rate) in enumerate(rates.items(), start=2):
            hosts[name] = Host(f"{bridge}-{number}", f"{subnet}.{number}", f"{bridge}n{number}")
            await _add_host(bridge, hosts[name], rate)
        yield Network(f"{subnet}.1", hosts)
    finally:
        await _remove(bridge)


async def _add_host(bridge: str, host: Host, rate: int) -> None:
    within = ("ip", "-n", host.namespace)
    await _run("ip", "netns", "add", host.namespace)
    await _run("ip", "link", "add", host._link, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
    await _run("ip", "link", "set", host._link, "master", bridge, "up")
    await _run(*within, "address", "add", f"{host.address}/24", "dev", "eth0")
    await _run(*within, "link", "set", "lo", "up")
    await _run(*within, "link", "set", "eth0", "up")
    await _run("tc", "-n", host.namespace, *_limit("eth0", rate))
    await _run("tc", *_limit(host._link, GIGABIT))


def _limit(link: str, rate: int) -> Sequence[str]:
    bucket = ("tbf", "rate", f"{8 * rate}bit", "burst", f"{_BURST_BYTES}", "latency", _LATENCY)
    return ("qdisc", "add", "dev", link, "root", *bucket)


async def _free_subnet() -> str:
    """The first three parts of the address of a network that this machine has no route to."""
    routes = await _run("ip", "-4", "route")
    first = os.getpid() % 25_600
    for number in range(first, first + 256):
        subnet = f"10.{100 + number // 256 % 100}.{number % 256}"
        if f"{subnet}." not in routes:
            return subnet
    raise NotMeasured("this machine has routes to all of 10.100.0.0 to 10.199.255.0")


async def _remove_abandoned() -> None:
    """Remove what processes left that do not run any more."""
    names = re.findall(r"^\S+", await _run("ip", "netns"), re.MULTILINE)
    names += re.findall(r"^\d+: (\w+)", await _run("ip", "-o", "link", "show", "type", "bridge"), re.MULTILINE)
    owners = {found[1] for name in names if (found := _NAME.fullmatch(name))}
    for owner in owners:
        if not _runs(owner):
            await _remove(f"whb{owner}")


def _runs(process: str) -> bool:
    return Path("/proc", process).exists()


async def _remove(bridge: str) -> None:
    """Remove a network, which another measurement may be removing as well."""
    for name in re.findall(rf"^{bridge}-\d+", await _run("ip", "netns"), re.MULTILINE):
        await _run("ip", "netns", "delete", name, may_fail=True)
    # Links go with their namespace when no process is left inside.
    for link in re.findall(rf"^\d+: ({bridge}n\d+)", await _run("ip", "-o", "link"), re.MULTILINE):
        await _run("ip", "link", "delete", link, may_fail=True)
    await _run("ip", "link", "delete", bridge, may_fail=True)


async def _run(*command: str, may_fail: bool = False) -> str:
    """What it prints. Raises `NotMeasured` with its own words."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    printed = output.decode(errors="replace")
    if process.returncode and not may_fail:
        raise NotMeasured(f"{' '.join(command)}: {printed.strip()}")
    return printed
