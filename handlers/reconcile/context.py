"""Hold what every part of the room works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from adapters.clock import Clock
from handlers.reconcile.reader import Reader
from handlers.reconcile.recorder import Recorder
from handlers.reconcile.writer import Writer
from warmhook.distribution import Rates
from warmhook.peer_rates import DEFAULT_RATES
from warmhook.ports import Registries


@dataclass(frozen=True, slots=True)
class Context:
    """The API server to read and to write, registries, and time."""

    reader: Reader
    writer: Writer
    clock: Clock
    recorder: Recorder
    grace: timedelta = timedelta(minutes=5)
    """For how long a policy must be missing before its WarmImages go; one sync interval."""
    registries: Registries | None = None
    """`None`: no registry is asked."""
    rates: Rates = DEFAULT_RATES
    """How fast registries and nodes send, until nodes have measured it."""
    early_nodes: int = 32
    """Of so many nodes all are told about blobs before their push ends; of more only those that read the registry."""
    count_plan: Callable[[str], None] = lambda _outcome: None
    """Called for each image whose distribution is planned."""
    count_written: Callable[[int], None] = lambda _size_bytes: None
    """Called for each write of the ConfigMap of a node, with its size."""
