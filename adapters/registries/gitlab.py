"""Read pushes from GitLab's container registry, self-managed only: `registry['notifications']` in `gitlab.rb`.

Source: https://docs.gitlab.com/administration/packages/container_registry/#configure-container-registry-notifications;
the registry is a fork of CNCF Distribution and sends that format. gitlab.com offers no registry webhook.
Authentication: a static header, `headers: {"Authorization" => [...]}`.
Host: events often have no `request`: set `registryHost`.
Told apart: repeats by the event's `id`, order by `timestamp`. The digest is always present. Not told apart: charts and
signatures, except by cosign's tags. The registry repeats pulls and layers too until they are answered 2xx.
"""

from __future__ import annotations

from adapters.registries import Adapter
from adapters.registries.common.auth import verify_header
from adapters.registries.common.distribution_events import read_envelope

ADAPTER = Adapter(__name__, authenticate=verify_header, read=read_envelope)
