"""Read pushes from GitLab's container registry, self-managed only: `registry['notifications']` in `gitlab.rb`.

Source: https://docs.gitlab.com/administration/packages/container_registry/#configure-container-registry-notifications;
the registry is a fork of CNCF Distribution and sends that format. gitlab.com offers no registry webhook.
Authentication: a static header, `headers: {"Authorization" => [...]}`.
Host: events often come without `request`: `registryHost` is needed.
Told apart: repeats by the event's `id`, order by `timestamp`, the digest is there; charts and signatures only by
cosign's tags. A receiver must answer 2xx to pulls and layers too, or the registry repeats them without end.
"""

from __future__ import annotations

from adapters.registries import Adapter
from adapters.registries.common.auth import verify_header
from adapters.registries.common.distribution_events import read_envelope

ADAPTER = Adapter(__name__, verify_header, read_envelope)
