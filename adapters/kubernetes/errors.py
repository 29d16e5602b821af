"""Name what the API server answers by the caller's next step."""

from __future__ import annotations


class KubernetesError(Exception):
    """The API server did not fulfil the request."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; 0 without an answer."""
        self.reason = reason
        """The `reason` of the Status object: `NotFound`, `AlreadyExists`, `Invalid`, ..."""


class Refused(KubernetesError):
    """Repeating the same request cannot help."""


class NotFound(Refused):
    """The object (or kind, or namespace) does not exist."""


class NotServed(Refused):
    """The kind does not exist: its CRD is not installed."""


class Conflict(KubernetesError):
    """The object exists already, or has changed since it was read: read again, decide again."""


class Gone(KubernetesError):
    """The resourceVersion is too old: list again."""


class Unavailable(KubernetesError):
    """The API server is overloaded, restarting or unreachable: the same request may succeed later."""

    def __init__(
        self, message: str, *, status: int = 0, reason: str = "", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message, status=status, reason=reason)
        self.retry_after_seconds = retry_after_seconds
        """The wait that the server requested; `None` if it requested none."""
