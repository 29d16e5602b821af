"""Define `status.resolved` of a WarmImage, what a registry says about its image, and read and write it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, get_args

from pydantic import ConfigDict, Field, StringConstraints

from adapters.kubernetes.spec import Spec
from adapters.kubernetes.template import DigestText, ImageText
from warmhook.manifests import PLATFORMS_MAX, Resolved
from warmhook.resolutions import Question, Resolution, ResolveProblem
from warmhook.timestamps import format_time, parse_time

Moment = Annotated[str, StringConstraints(max_length=40), Field(json_schema_extra={"format": "date-time"})]
Platform = Annotated[str, StringConstraints(max_length=99)]
_MEDIA_TYPE_MAX: Final = 255


class ResolvedStatus(Spec):
    """What the registry says about the image. It counts only for this image and this push."""

    # Unlike a field of a spec, one that a newer version adds changes nothing about the others.
    model_config = ConfigDict(extra="ignore")

    image: ImageText = Field(description="The image that the registry was asked for, with the digest of the push.")
    pushed_at: Moment | None = Field(default=None, description="spec.pushedAt at that time; absent for Pods.")
    checked_at: Moment = Field(description="The last answer.")
    digest: DigestText | None = Field(
        default=None, description="What the tag points at; nodes get this digest, whatever the push said."
    )
    media_type: Annotated[str, StringConstraints(max_length=_MEDIA_TYPE_MAX)] | None = Field(
        default=None, description="Of the manifest or index."
    )
    platforms: list[Platform] | None = Field(
        default=None, max_length=PLATFORMS_MAX, description="os/architecture[/variant]; absent: unknown."
    )
    size_bytes: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Compressed bytes of all layers, of the largest Linux platform; absent: unknown."
    )
    runnable: bool | None = Field(
        default=None, description="False: no container can run it, so no node gets it (a chart, a signature)."
    )
    problem: ResolveProblem | None = Field(
        default=None, description="Why the last request failed. What is known from an earlier one stays."
    )


def read_resolution(status: Mapping[str, Any]) -> Resolution | None:
    """The last answer of the registry in the status of a WarmImage; `None` if there is none that can be read."""
    given = status.get("resolved")
    if not isinstance(given, Mapping):
        return None
    if given.get("problem") not in get_args(ResolveProblem):  # of a newer version
        given = {**given, "problem": None}
    try:
        read = ResolvedStatus.model_validate(given)
        asked = Question(read.image, parse_time(read.pushed_at) if read.pushed_at else None)
        checked_at = parse_time(read.checked_at)
    except ValueError:  # ValidationError is one
        return None
    resolved = None
    if read.digest is not None:
        platforms, runnable = tuple(read.platforms or ()), read.runnable is not False
        resolved = Resolved(read.digest, read.media_type or "", platforms, read.size_bytes or 0, runnable)
    return Resolution(asked, resolved, checked_at, read.problem)


def resolution_object(resolution: Resolution) -> dict[str, Any]:
    """`status.resolved`, absent fields as `None`: a merge patch keeps fields that it does not name."""
    asked, resolved = resolution.question, resolution.resolved
    return {
        "image": asked.image,
        "pushedAt": asked.pushed_at and format_time(asked.pushed_at),
        "checkedAt": format_time(resolution.checked_at),
        "digest": resolved and resolved.digest,
        "mediaType": resolved and (resolved.media_type[:_MEDIA_TYPE_MAX] or None),
        "platforms": (resolved and list(resolved.platforms)) or None,
        "sizeBytes": (resolved and resolved.size_bytes) or None,
        "runnable": resolved and resolved.runnable,
        "problem": resolution.problem,
    }
