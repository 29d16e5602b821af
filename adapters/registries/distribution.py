"""Read pushes from CNCF Distribution (`registry:2`, `registry:3`) and from others that send its notifications.

Source of the format: https://distribution.github.io/distribution/about/notifications/.
Authentication: a static header from the registry's configuration, `notifications.endpoints[].headers`, usually
`Authorization`.
Host: `request.host` is whatever the pusher called the registry, often a name no node knows: set `registryHost`.
Told apart: repeats by the event's `id`, order by `timestamp`; the digest is always there; one delivery may hold many
events, and layers, pulls, mounts and deletions are events too. Not told apart: charts and signatures are pushed as OCI
manifests like images; only cosign's tags show.
"""

from __future__ import annotations

from adapters.registries import Adapter
from adapters.registries.common.auth import verify_header
from adapters.registries.common.distribution_events import read_envelope

ADAPTER = Adapter(__name__, verify_header, read_envelope)
