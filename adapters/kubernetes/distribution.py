"""Define `status.distribution` of a WarmImage: how its nodes got the image."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from adapters.kubernetes.spec import Spec
from adapters.kubernetes.template import DigestText

_Count = Annotated[int, Field(ge=0)]
_Bytes = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]


class DistributionStatus(Spec):
    """How nodes got the image, as far as they got it from each other or by a plan."""

    model_config = ConfigDict(extra="ignore")

    digest: DigestText = Field(description="The image that the figures are about; another one begins anew.")
    nodes: _Count = Field(description="Nodes that fetched the image, or a part of it, by a plan.")
    seeds: _Count = Field(description="Nodes that read the registry as planned.")
    fallbacks: _Count = Field(description="Nodes that read the registry because no other node gave them a part.")
    bytes_from_peers: _Bytes = Field(description="Bytes that nodes got from other nodes.")
    bytes_from_registry: _Bytes = Field(description="Bytes that these nodes read from the registry.")
    slowest_transfer_seconds: _Count = Field(description="The longest transfer of a node, rounded up.")
    slowest_unpack_seconds: _Count = Field(description="The longest unpacking after a transfer, rounded up.")
