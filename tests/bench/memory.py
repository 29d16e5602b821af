"""Read how much memory and processor time a process uses, as the kernel counts it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "cpu_seconds", "machine_memory_gib", "peak_rss_mib", "read_memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """In MiB."""

    rss: float
    """All resident pages, those of shared libraries in full."""
    pss: float
    """Shared pages divided by the number of processes that share them."""


def read_memory(pid: int) -> Memory:
    """From `smaps_rollup` (proc(5)): lines such as `Rss:   81920 kB`."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) / 1024
    return Memory(fields["Rss"], fields["Pss"])


def peak_rss_mib(pid: int) -> float:
    """The most resident memory so far: `VmHWM` in `status` (proc(5)), in KiB there."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def cpu_seconds(pid: int) -> float:
    """Time on a processor so far, in user and kernel mode: fields 14 and 15 of `stat` (proc(5)), in clock ticks."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def machine_memory_gib() -> float:
    """The machine's, rounded to one decimal."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
