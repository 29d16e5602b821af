"""Read the cases of each sender: one file for each adapter, one value for each delivery."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from adapters.registries import Adapter, Delivery, Outcome, Reply, Source
from warmhook.events import BlobPushed, Pushed

FOLDER: Final = Path(__file__).parents[2] / "data" / "registries"
RECEIVED: Final = datetime(2025, 10, 9, 9, 0, tzinfo=UTC)
# The situations that every file shows, or says why its sender has no such delivery.
REQUIRED: Final = (
    *("push", "several tags", "untagged child", "delete", "non-image artefact", "malformed digest", "wrong secret"),
    "alternative body",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One delivery and its outcome."""

    name: str
    absent: str = ""
    """Why the sender has no such delivery; the other fields are empty then."""
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    secret: str | list[str] = ""
    registry_host: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    early_blobs: bool = False
    expect: list[str] = field(default_factory=list)
    """A line for each event: the reference, `blob: ...`, `skip: <reason>` or `reply: <body>`."""
    verified: bool | None = None
    delivery_id: str | None = None
    pushed_at: str | None = None
    ack_timeout_seconds: float = 0.0
    """That of the adapter, the same in all cases of a file."""

    @property
    def delivery(self) -> Delivery:
        return Delivery(self.body.encode(), RECEIVED, headers=self.headers, query=self.query)

    def source(self, adapter: Adapter) -> Source:
        secrets = [self.secret] if isinstance(self.secret, str) else self.secret
        return Source(
            "cases",
            secrets=tuple(secret.encode() for secret in secrets),
            registry_host=self.registry_host,
            options=adapter.read_options(self.options),
            early_blobs=self.early_blobs,
        )


def read_cases(path: Path) -> list[Case]:
    """The cases of one sender. A value before the first case is the default of all cases."""
    content = tomllib.loads(path.read_text())
    cases = content.pop("case")
    return [Case(**{**content, **case}) for case in cases]


def written(outcome: Outcome) -> str:
    """An outcome as the files write it."""
    if isinstance(outcome, Pushed):
        return str(outcome.image)
    if isinstance(outcome, BlobPushed):
        return f"blob: {outcome.blob}, {outcome.size_bytes} bytes"
    return f"reply: {json.dumps(json.loads(outcome.body))}" if isinstance(outcome, Reply) else f"skip: {outcome.reason}"
