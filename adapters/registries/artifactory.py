"""Read pushes from JFrog Artifactory: webhooks of the domain `docker`.

Source of the format: https://jfrog.com/help/r/jfrog-platform-administration-documentation/docker-event-payload.
Authentication: `X-JFrog-Event-Auth` holds the secret or, with payload signing, the HMAC-SHA256 of the body. The two
look alike, so the option `auth` selects one: `token` (default) or `hmac`.
Host: `jpd_origin`, which is missing without a Custom Base URL. `repo_key` is the local repository, while nodes usually
pull from a virtual one: the option `rename` maps local names to the names in references. `repoKeyInPath: false` omits
them, for access by sub-domain or port; then set `registryHost`.
Told apart: promotions and deletions, images by `image_type`, the button *Test* by a `path` that is not a manifest's,
repeats by the digest only. There is neither id nor time. Images that a remote repository cached because they were
pulled (`*-cache`) are skipped. Not told apart: charts and signatures, except by cosign's tags.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from adapters.registries import Adapter, Delivery, Outcome, Source, SourceOptions
from adapters.registries.common.auth import verify_header, verify_hmac
from adapters.registries.common.bodies import Fields, Text, quoted, read_fields, read_json
from adapters.registries.common.images import LooseReference, host_of, pushed
from warmhook.events import Skip
from warmhook.ports import Json

_HEADER: Final = "x-jfrog-event-auth"
_IMAGE_TYPES: Final = frozenset({"docker", "oci"})
_OTHERS: Final = frozenset({"deleted", "promoted"})
# A push ends with that of an image, or of an index.
_MANIFESTS: Final = frozenset({"manifest.json", "list.manifest.json"})


class Options(SourceOptions):
    auth: Literal["token", "hmac"] = "token"
    repo_key_in_path: bool = True
    rename: dict[str, str] = Field(default_factory=dict)


class _Data(Fields):
    repo_key: str
    path: Text = ""
    image_name: Text = ""
    image_type: Text = "docker"
    tag: Text = ""
    sha256: Text = ""


class _Event(Fields):
    domain: str
    event_type: str
    data: Json = None
    jpd_origin: Text = ""


def _authenticate(delivery: Delivery, source: Source) -> bool:
    verify = verify_hmac if source.options_as(Options).auth == "hmac" else verify_header
    return verify(delivery, source, _HEADER)


def _read(delivery: Delivery, source: Source) -> Outcome:
    event = read_fields(_Event, read_json(delivery.body), key="domain")
    if event.domain != "docker":
        return Skip("not-a-container", f"domain {quoted(event.domain)}")
    if event.event_type != "pushed":
        known = event.event_type in _OTHERS
        return Skip("not-a-push" if known else "unknown-event", f"event type {quoted(event.event_type)}")
    return _pushed(read_fields(_Data, event.data), event.jpd_origin, source)


def _pushed(data: _Data, origin: str, source: Source) -> Outcome:
    if data.image_type not in _IMAGE_TYPES:
        return Skip("not-a-container", f"image type {quoted(data.image_type)}")
    if data.path and data.path.rpartition("/")[2] not in _MANIFESTS:
        return Skip("ping", "the path is not that of a manifest: a test")
    if data.repo_key.endswith("-cache"):
        return Skip("remote-cache", "cached by a remote repository")
    # image_name may be the last element only; path is <image>/<tag>/manifest.json or .../list.manifest.json.
    image = "/".join(data.path.strip("/").split("/")[:-2]) or data.image_name
    options = source.options_as(Options)
    if options.repo_key_in_path:
        image = f"{options.rename.get(data.repo_key, data.repo_key)}/{image}"
    tag = data.tag.replace("__", ":", 1) if data.tag.startswith("sha256__") else data.tag
    digest = f"sha256:{data.sha256}" if data.sha256 else ""
    return pushed(source, LooseReference(host_of(origin), image, tag, digest))


ADAPTER = Adapter(__name__, authenticate=_authenticate, read=_read, options=Options)
