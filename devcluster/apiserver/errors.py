"""Refuse requests with `Status` objects, with the reasons and details of the real server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warmhook.ports import Object, Response

if TYPE_CHECKING:
    from devcluster.apiserver.resources import Resource


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing wrong with one field of an object."""

    field: str
    message: str
    reason: str = "FieldValueInvalid"


class PageNotFound(Exception):
    """Nothing is served at this path; the real server answers in plain text."""


class StatusError(Exception):
    """A request that fails, with the `Status` to answer."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Object | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers = dict(headers or {})

    def status(self) -> Object:
        """The `Status` object."""
        status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        status["code"] = self.code
        return status

    def response(self) -> Response:
        """The HTTP answer."""
        headers = {"content-type": "application/json", **self.headers}
        return Response(self.code, headers, internal_json(self.status()))


def internal_json(value: object) -> bytes:
    """JSON as the server writes it: compact, UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _details(resource: Resource, name: str, *, kind: str | None = None) -> Object:
    details = {"name": name, "group": resource.group, "kind": kind or resource.plural}
    return {key: value for key, value in details.items() if value}


def _qualified(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


def not_found(resource: Resource, name: str) -> StatusError:
    """No object of that name."""
    message = f'{_qualified(resource)} "{name}" not found'
    return StatusError(404, "NotFound", message, _details(resource, name))


def already_exists(resource: Resource, name: str) -> StatusError:
    """A create finds the name taken."""
    message = f'{_qualified(resource)} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, _details(resource, name))


def conflict(resource: Resource, name: str, message: str | None = None) -> StatusError:
    """The object is at another resourceVersion, or is another object, than the request was made for."""
    why = message or "the object has been modified; please apply your changes to the latest version and try again"
    text = f'Operation cannot be fulfilled on {_qualified(resource)} "{name}": {why}'
    return StatusError(409, "Conflict", text, _details(resource, name))


def precondition_failed(resource: Resource, name: str, why: str) -> StatusError:
    """A delete was meant for another object or version; this one error names the kind, not the resource."""
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    text = f'Operation cannot be fulfilled on {kind} "{name}": {why}'
    return StatusError(409, "Conflict", text, _details(resource, name, kind=resource.kind))


def unparseable_number(message: str) -> StatusError:
    """What should be a resourceVersion is no number: the real server calls that its own error, without a reason."""
    return StatusError(500, "", message)


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> StatusError:
    """The object breaks the rules of its kind."""
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details = _details(resource, name, kind=resource.kind)
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    # Equal causes are listed each, and stand in the message once.
    texts = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes))
    listed = f"[{', '.join(texts)}]" if len(texts) > 1 else "".join(texts)
    return StatusError(422, "Invalid", f'{kind} "{name}" is invalid: {listed}', details)


def unprocessable_patch(message: str | None = None) -> StatusError:
    """A patch that cannot be carried out (no message), or whose result does not fit the kind."""
    if message is None:
        return StatusError(422, "Invalid", "the server rejected our request due to an error in our request", {})
    cause = {"reason": "FieldValueInvalid", "message": f"Invalid value: {message}", "field": "patch"}
    return StatusError(422, "Invalid", f' "" is invalid: patch: Invalid value: {message}', {"causes": [cause]})


def bad_request(message: str) -> StatusError:
    """The request makes no sense."""
    return StatusError(400, "BadRequest", message)


def forbidden(resource: Resource, name: str, message: str) -> StatusError:
    """The request may not be made now."""
    return StatusError(
        403, "Forbidden", f'{_qualified(resource)} "{name}" is forbidden: {message}', _details(resource, name)
    )


def method_not_allowed() -> StatusError:
    """The path exists, the verb does not."""
    return StatusError(
        405, "MethodNotAllowed", "the server does not allow this method on the requested resource", details={}
    )


def not_acceptable(message: str) -> StatusError:
    """Nothing in `Accept` can be served."""
    return StatusError(406, "NotAcceptable", message)


def unsupported_media_type(accepted: Sequence[str], *, custom: bool) -> StatusError:
    """The body's content type is not taken here; the details of custom and built-in kinds differ."""
    if not custom:
        return StatusError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
    message = "the body of the request was in an unknown format - accepted media types include: "
    return StatusError(415, "UnsupportedMediaType", message + ", ".join(accepted))


def too_large_body(limit_bytes: int) -> StatusError:
    """The request's body is longer than any request may be."""
    message = f"Request entity too large: limit is {limit_bytes}"
    return StatusError(413, "RequestEntityTooLarge", message, {})


def expired(message: str) -> StatusError:
    """The history that the request needs is gone; a new list is needed."""
    return StatusError(410, "Expired", message)


def too_large_version(wanted: int, current: int) -> StatusError:
    """The request wants a state at least as new as one that does not exist yet."""
    details = {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }
    message = f"Timeout: Too large resource version: {wanted}, current: {current}"
    return StatusError(504, "Timeout", message, details, {"retry-after": "1"})
