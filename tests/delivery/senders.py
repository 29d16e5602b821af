"""Simulate how senders deliver: how long they wait, what they repeat, and when they give up.

Written from what the senders document or do, not from what the receiver expects; nothing of the receiver is imported.
Each sender keeps its queue while the receiver restarts. Its docstring names the source.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, ClassVar, Final, TypeAlias

EPOCH: Final = datetime.fromisoformat("2026-03-01T12:00:00+00:00")

Message: TypeAlias = tuple[str, Mapping[str, str], bytes]
"""Path and query below `/webhooks/`, headers, body."""


@dataclass(frozen=True, slots=True)
class Image:
    """A pushed image."""

    repository: str
    tag: str
    digest: str
    """Empty if the sender does not report it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The receiver's answer; status 0 if there is none in time."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


Post: TypeAlias = Callable[[str, Mapping[str, str], bytes], Awaitable[Answer]]
"""Path, headers and body; raises `ConnectionError` if nobody answers."""


@dataclass
class Sender:
    """One sender: the images that it has still to deliver, and those that it considers delivered."""

    post: Post
    rng: Random
    host: str
    secret: str
    taken: list[Image] = field(default_factory=list)
    """Delivered as far as the sender knows."""
    lost: list[Image] = field(default_factory=list)
    """Given up."""
    waiting: int = 0
    answers: list[Answer] = field(default_factory=list)
    """One for each attempt."""

    name: ClassVar[str]
    timeout_seconds: ClassVar[float]
    attempts: ClassVar[int] = 1

    def message(self, image: Image) -> Message:
        """The delivery for a push of `image`."""
        raise NotImplementedError

    def takes(self, answer: Answer) -> bool:
        """Whether the answer ends the delivery well."""
        return answer.ok

    def retries(self, answer: Answer) -> bool:
        """Whether the sender repeats the delivery after any other answer."""
        return True

    def pause(self, failures: int) -> float:
        """Seconds before the next attempt, after so many failures of this delivery."""
        raise NotImplementedError

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    def send(self, image: Image) -> None:
        """Start the delivery of a push."""
        self.waiting += 1
        asyncio.get_running_loop().create_task(self._deliver(image, self.message(image)), name=f"send {self.name}")

    async def attempt(self, message: Message) -> Answer:
        """One request."""
        path, headers, body = message
        try:
            async with asyncio.timeout(self.timeout_seconds):
                answer = await self.post(f"/webhooks/{path}", headers, body)
        except (ConnectionError, TimeoutError):
            answer = Answer(0)
        self.answers.append(answer)
        return answer

    async def _deliver(self, image: Image, message: Message) -> None:
        for failures in range(1, self.attempts + 1):
            answer = await self.attempt(message)
            if self.takes(answer):
                self.taken.append(image)
                break
            if failures == self.attempts or not self.retries(answer):
                self.lost.append(image)
                break
            await asyncio.sleep(self.pause(failures))
        self.waiting -= 1

    def moment(self) -> datetime:
        """The time of the event loop as a date."""
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())


_JSON: Final = {"content-type": "application/json"}


def _encode(body: Any) -> bytes:
    return json.dumps(body).encode()


@dataclass
class Distribution(Sender):
    """distribution/distribution `notifications/sinks.go`: a queue in order, retried without end; after ten failures
    in a row it waits a second before each further attempt."""

    name = "distribution"
    timeout_seconds = 1.0
    attempts = 10**9
    _order: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def _deliver(self, image: Image, message: Message) -> None:
        async with self._order:
            await super()._deliver(image, message)

    def takes(self, answer: Answer) -> bool:
        return 200 <= answer.status < 400

    def pause(self, failures: int) -> float:
        return 1 if failures >= 10 else 0.001

    def message(self, image: Image) -> Message:
        target = {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "repository": image.repository,
            "tag": image.tag,
            "digest": image.digest,
        }
        event = {
            "id": self.rng.randbytes(16).hex(),
            "timestamp": self.moment().isoformat(),
            "action": "push",
            "target": target,
            "request": {"host": self.host},
        }
        kind = "application/vnd.docker.distribution.events.v2+json"
        return self.name, {"content-type": kind, "authorization": self.secret}, _encode({"events": [event]})


class Harbor(Sender):
    """goharbor/harbor `src/jobservice`: three attempts, 3 seconds each, with pauses that grow with the failures."""

    name = "harbor"
    timeout_seconds = 3.0
    attempts = 3

    def message(self, image: Image) -> Message:
        resource = {
            "digest": image.digest,
            "tag": image.tag,
            "resource_url": f"{self.host}/{image.repository}:{image.tag}",
        }
        body = {
            "type": "PUSH_ARTIFACT",
            "occur_at": int(self.moment().timestamp()),
            "operator": "robot$ci",
            "event_data": {"resources": [resource], "repository": {"repo_full_name": image.repository}},
        }
        return self.name, {**_JSON, "authorization": self.secret}, _encode(body)

    def pause(self, failures: int) -> float:
        return failures**4 + 15 + self.rng.uniform(0, 30) * (failures + 1)


class Quay(Sender):
    """quay/quay `workers/notificationworker` and `notifications/`: five repeats 30 seconds apart; three failures in
    a row disable the notification silently."""

    name = "quay"
    timeout_seconds = 10.0
    attempts = 6
    failures = 0

    @property
    def disabled(self) -> bool:
        return self.failures >= 3

    def message(self, image: Image) -> Message:
        body = {
            "docker_url": f"{self.host}/{image.repository}",
            "repository": image.repository,
            "updated_tags": [image.tag],
        }
        return f"quay?token={self.secret}", _JSON, _encode(body)

    async def attempt(self, message: Message) -> Answer:
        if self.disabled:
            return Answer(0)
        answer = await super().attempt(message)
        self.failures = 0 if answer.ok else self.failures + 1
        return answer

    def retries(self, answer: Answer) -> bool:
        return not self.disabled

    def pause(self, failures: int) -> float:
        return 30


class GitHub(Sender):
    """docs.github.com/webhooks: 10 seconds, and no repeat except by hand."""

    name = "github"
    timeout_seconds = 10.0

    def message(self, image: Image) -> Message:
        owner, _, name = image.repository.partition("/")
        number = self.rng.randrange(10**9)
        package = {
            "id": number,
            "name": name,
            "ecosystem": "CONTAINER",
            "package_type": "CONTAINER",
            "owner": {"login": owner},
            "package_version": {
                "id": number,
                "version": image.digest,
                "package_url": f"{self.host}/{image.repository}:{image.tag}",
                "container_metadata": {"tag": {"name": image.tag, "digest": image.digest}},
            },
        }
        body = _encode({"action": "published", "package": package})
        signature = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            **_JSON,
            "x-github-event": "package",
            "x-github-delivery": self.rng.randbytes(16).hex(),
            "x-hub-signature-256": f"sha256={signature}",
        }
        return self.name, headers, body


class PubSub(Sender):
    """cloud.google.com/pubsub/docs/push: 102, 200, 201, 202 and 204 are an acknowledgement; after all else the message
    is delivered again, after 10 to 600 seconds, for seven days."""

    name = "gar"
    timeout_seconds = 10.0
    attempts = 1000

    def message(self, image: Image) -> Message:
        place = f"{self.host}/{image.repository}"
        data = {"action": "INSERT", "digest": f"{place}@{image.digest}", "tag": f"{place}:{image.tag}"}
        message = {
            "data": base64.b64encode(_encode(data)).decode(),
            "messageId": str(self.rng.randrange(10**15)),
            "publishTime": self.moment().isoformat(),
        }
        body = {"message": message, "subscription": "projects/acme/subscriptions/gcr"}
        return f"gar?token={self.secret}", _JSON, _encode(body)

    def takes(self, answer: Answer) -> bool:
        return answer.status in (102, 200, 201, 202, 204)

    def pause(self, failures: int) -> float:
        return min(600, 5 * 2.0**failures)


class EventBridge(Sender):
    """docs.aws.amazon.com/eventbridge API destinations: 5 seconds; 401, 407, 409, 429, 5xx and no answer are repeated,
    up to 185 times in 24 hours."""

    name = "ecr"
    timeout_seconds = 5.0
    attempts = 185
    account: ClassVar[str] = "123456789012"

    def message(self, image: Image) -> Message:
        body = {
            "version": "0",
            "id": self.rng.randbytes(16).hex(),
            "detail-type": "ECR Image Action",
            "source": "aws.ecr",
            "account": self.account,
            "time": self.moment().isoformat(),
            "region": "eu-central-1",
            "detail": {
                "result": "SUCCESS",
                "action-type": "PUSH",
                "repository-name": image.repository,
                "image-digest": image.digest,
                "image-tag": image.tag,
            },
        }
        headers = {"content-type": "application/json; charset=utf-8", "authorization": self.secret}
        return self.name, headers, _encode(body)

    def retries(self, answer: Answer) -> bool:
        return answer.status in (0, 401, 407, 409, 429) or answer.status >= 500

    def pause(self, failures: int) -> float:
        return self.rng.uniform(0.5, 1) * min(2.0 ** (failures - 1), 600)


class Trigger(Sender):
    """knative/eventing `pkg/broker/filter` and `pkg/kncloudevents`: ten repeats with growing pauses; a 2xx whose body
    is neither empty nor a CloudEvent is a failure like 502; of the 4xx only 404, 408, 409 and 429 are repeated."""

    name = "events"
    timeout_seconds = 30.0
    attempts = 11

    def message(self, image: Image) -> Message:
        reference = f"{self.host}/{image.repository}:{image.tag}"
        headers = {
            **_JSON,
            "authorization": self.secret,
            "ce-specversion": "1.0",
            "ce-id": self.rng.randbytes(8).hex(),
            "ce-source": "/ci/b%C3%BCild",
            "ce-type": "com.example.image.pushed",
            "ce-time": self.moment().isoformat(),
        }
        return self.name, headers, _encode({"image": reference, "digest": image.digest})

    def takes(self, answer: Answer) -> bool:
        return answer.ok and not answer.body

    def retries(self, answer: Answer) -> bool:
        return answer.ok or answer.status in (0, 404, 408, 409, 429) or answer.status >= 500

    def pause(self, failures: int) -> float:
        return 0.1 * 2.0**failures


ALL: tuple[type[Sender], ...] = (Distribution, Harbor, Quay, GitHub, PubSub, EventBridge, Trigger)
