"""What every adapter's `options` in the configuration have in common: camelCase names, nothing unknown."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

__all__ = ["SourceOptions"]


class SourceOptions(BaseModel):
    """Base of an adapter's `Options`."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)
