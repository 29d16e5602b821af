"""Find the adapter of each kind of sender: one module of this package for each, named after the sender.

A module ends in `ADAPTER = Adapter(__name__, ...)`; see the fields of `Adapter`. A new sender is a new module and a
file of cases for its test. Nothing else is edited, because modules are discovered. `common` has the parts that several
senders share.
"""

from __future__ import annotations

import importlib
import pkgutil

from adapters.registries.common.adapter import Adapter, BadOptions
from adapters.registries.common.delivery import Delivery, IdToken, Keys, Outcome, Reply, Source, SourceOptions

__all__ = [
    "Adapter",
    "BadOptions",
    "Delivery",
    "IdToken",
    "Keys",
    "Outcome",
    "Reply",
    "Source",
    "SourceOptions",
    "adapter_kinds",
    "find_adapter",
    "find_adapters",
]


def adapter_kinds() -> list[str]:
    """The kinds of all modules of this package, sorted. Imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def find_adapter(kind: str) -> Adapter:
    """The adapter of one of `adapter_kinds`. Imports that module only, so a program pays for its own senders."""
    adapter: Adapter = importlib.import_module(f"{__name__}.{kind}").ADAPTER
    return adapter


def find_adapters() -> dict[str, Adapter]:
    """Every adapter by its kind."""
    return {kind: find_adapter(kind) for kind in adapter_kinds()}
