"""Define the base of the models of the configuration file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A part of the file: keys in camelCase, and no others than the known ones."""

    # Built when first used, as the models of policies are.
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, defer_build=True)
