"""Name what every task of an agent uses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from adapters.clock import Clock
from adapters.credential_providers import CredentialProviders
from adapters.kubernetes.client import Kubernetes
from adapters.logs import Log
from nodeagent.disk import disk_space
from nodeagent.metrics import Metrics
from nodeagent.settings import Settings
from warmhook.disk_space import Space
from warmhook.platforms import Platform
from warmhook.ports import Containerd, ContentStore, Runtime


@dataclass(frozen=True, slots=True)
class Context:
    """The settings of one agent, and everything outside it."""

    settings: Settings
    kubernetes: Kubernetes
    runtime: Runtime
    clock: Clock
    log: Log
    metrics: Metrics
    platform: Platform
    """Of the node."""
    containerd: Containerd
    """The same runtime, if it is containerd."""
    content: ContentStore | None = None
    """Of the same runtime; `None`: this node exchanges no images with others."""
    offload: Callable[..., Awaitable[Any]] = asyncio.to_thread
    """Calls a function that waits for the disk, outside the event loop."""
    providers: CredentialProviders | None = None
    """`None`: none are configured."""
    measure: Callable[[Iterable[str], str], Space | None] = disk_space
