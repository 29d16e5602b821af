"""Read pushes from CNCF Distribution (`registry:2`, `registry:3`) and from others that send its notifications.

Source of the format: https://distribution.github.io/distribution/about/notifications/.
Authentication: a static header from the registry's configuration, `notifications.endpoints[].headers`, usually
`Authorization`.
Host: `request.host` is the name that the pusher used, often unknown to nodes: set `registryHost`.
Told apart: repeats by the event's `id`, order by `timestamp`. The digest is always present. A delivery may hold many
events; layers, pulls, mounts and deletions are events too. Not told apart: charts and signatures, except by cosign's
tags, because they are OCI manifests like images. With `earlyBlobs` layers count too, as soon as each is pushed or
mounted from another repository; a layer that the repository had already is no event.
"""

from __future__ import annotations

from adapters.registries import Adapter
from adapters.registries.common.auth import verify_header
from adapters.registries.common.distribution_events import read_envelope

ADAPTER = Adapter(__name__, authenticate=verify_header, read=read_envelope, reports_blobs=True)
