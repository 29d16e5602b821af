"""Answer AdmissionReviews without waiting, and always allow the Pod."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from adapters.clock import Clock
from adapters.logs import get_logger
from handlers.admission.queue import AdmissionQueue
from handlers.admission.warm_nodes import WarmNodes
from handlers.metrics import Metrics
from handlers.serving.bodies import BadBody, Bodies
from warmhook.admission_review import Admitted, Review, answer_object, read_review
from warmhook.events import admitted_event

_log = get_logger()

# The largest object in etcd has 1.5 MiB, and managedFields may double it in the review.
_BODY_MAX_BYTES: Final = 4 * 1024 * 1024
# The API server waits for 30 seconds at most.
_BODY_SECONDS: Final = 5.0


@dataclass(eq=False)
class Admission:
    """The endpoint `POST /admission/pods/<token>`."""

    queue: AdmissionQueue
    warm_nodes: WarmNodes
    metrics: Metrics
    own_namespace: str
    accept: Callable[[str], bool]
    """Whether a token is one of the API server's."""
    clock: Clock
    _bodies: Bodies = field(default_factory=lambda: Bodies(one_bytes=_BODY_MAX_BYTES, seconds=_BODY_SECONDS))

    async def endpoint(self, request: Request) -> Response:
        """Status 200 for the API server, whatever the body: any other status is a failed call, and may refuse the Pod.

        Without the token the answer is 404, on both ports alike, before the body is read: a review makes nodes pull
        images, and its answer names nodes that have one.
        """
        if not self.accept(request.path_params["token"]):
            self.metrics.admissions.labels("refused", "unknown-token", "no").inc()
            raise HTTPException(404)
        try:
            body = await self._bodies.read(request.stream())
        except (BadBody, ClientDisconnect):
            body = b""
        return Response(self.answer(body), media_type="application/json")

    def answer(self, body: bytes) -> bytes:
        """The AdmissionReview that answers the one in `body`."""
        began = self.clock.monotonic()
        review, patch, result, reason = Review(), "", "skipped", "malformed"
        try:
            review = read_review(_json(body), self.own_namespace)
            patch = self._patch(review)
            if isinstance(review.outcome, Admitted):
                result, reason = self.queue.add(admitted_event(review.outcome, self.clock.utcnow())), ""
                for image in review.outcome.images:
                    self.metrics.admitted_images.labels(self.warm_nodes.holders(image)).inc()
            else:
                reason = review.outcome
        except Exception:
            # No mistake of this program may keep a Pod from being created.
            _log.exception("admission-failed", uid=ascii(review.uid))
            result, reason = "failed", ""
        self.metrics.admissions.labels(result, reason, "yes" if patch else "no").inc()
        self.metrics.admission_seconds.observe(self.clock.monotonic() - began)
        return json.dumps(answer_object(review, patch)).encode()

    def _patch(self, review: Review) -> str:
        patch = self.warm_nodes.patch(review.pod, review.namespace) if review.pod is not None else []
        return base64.b64encode(json.dumps(patch).encode()).decode() if patch else ""


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
