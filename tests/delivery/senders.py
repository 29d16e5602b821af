"""How do senders deliver: how long do they wait, what do they repeat, and when do they give up?

Written from what the senders document or do, not from what the receiver expects; nothing of the receiver is imported.
Each keeps its queue while the receiver restarts. Sources are named with each sender.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, ClassVar

EPOCH = datetime.fromisoformat("2026-03-01T12:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Image:
    """What was pushed."""

    repository: str
    tag: str
    digest: str
    """Empty where the sender will not say."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of the receiver."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Post = Callable[[str, Mapping[str, str], bytes], Awaitable[Answer]]
"""Path, headers and body; raises `ConnectionError` where nobody answers."""


@dataclass(slots=True)
class Sender:
    """One sender: what it still has to deliver, and what it believes was taken."""

    post: Post
    rng: Random
    host: str
    secret: str
    taken: list[Image] = field(default_factory=list)
    """Answered so that the sender is content."""
    lost: list[Image] = field(default_factory=list)
    """Given up."""
    waiting: int = 0
    statuses: list[int] = field(default_factory=list)
    """Of every attempt; 0 for none."""

    name: ClassVar[str]
    seconds: ClassVar[float]
    """How long it waits for an answer."""

    def send(self, image: Image) -> None:
        """A push happened."""
        self.waiting += 1
        asyncio.get_running_loop().create_task(self._deliver_all(image, self.message(image)), name=f"send {self.name}")

    def message(self, image: Image) -> tuple[str, dict[str, str], bytes]:
        """Path and query, headers, body."""
        raise NotImplementedError

    async def deliver(self, message: tuple[str, dict[str, str], bytes]) -> bool:
        """All attempts; whether one of them was taken."""
        raise NotImplementedError

    async def _deliver_all(self, image: Image, message: tuple[str, dict[str, str], bytes]) -> None:
        taken = await self.deliver(message)
        (self.taken if taken else self.lost).append(image)
        self.waiting -= 1

    async def attempt(self, message: tuple[str, dict[str, str], bytes]) -> Answer:
        """One; status 0 where no answer came in time."""
        path, headers, body = message
        try:
            async with asyncio.timeout(self.seconds):
                answer = await self.post(f"/webhooks/{path}", headers, body)
        except (ConnectionError, TimeoutError):
            answer = Answer(0)
        self.statuses.append(answer.status)
        return answer

    def moment(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())


@dataclass(slots=True)
class Distribution(Sender):
    """distribution/distribution `notifications/sinks.go`: a queue in order, retried without end; after ten failures
    in a row it waits a second before each further attempt."""

    name: ClassVar[str] = "distribution"
    seconds: ClassVar[float] = 1.0
    _queue: deque[tuple[Image, tuple[str, dict[str, str], bytes]]] = field(default_factory=deque)
    _running: bool = False

    def send(self, image: Image) -> None:
        self.waiting += 1
        self._queue.append((image, self.message(image)))
        if not self._running:
            self._running = True
            asyncio.get_running_loop().create_task(self._drain(), name="drain distribution")

    async def _drain(self) -> None:
        failures = 0
        while self._queue:
            image, message = self._queue[0]
            if 200 <= (await self.attempt(message)).status < 400:
                failures = 0
                self._queue.popleft()
                self.taken.append(image)
                self.waiting -= 1
                continue
            failures += 1
            await asyncio.sleep(1 if failures >= 10 else 0.001)
        self._running = False

    def message(self, image: Image) -> tuple[str, dict[str, str], bytes]:
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
        return self.name, {"content-type": kind, "authorization": self.secret}, json.dumps({"events": [event]}).encode()


@dataclass(slots=True)
class Harbor(Sender):
    """goharbor/harbor `src/jobservice`: three attempts, 3 seconds each, the pauses growing with the failures; 2xx."""

    name: ClassVar[str] = "harbor"
    seconds: ClassVar[float] = 3.0

    def message(self, image: Image) -> tuple[str, dict[str, str], bytes]:
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
        return self.name, {"content-type": "application/json", "authorization": self.secret}, json.dumps(body).encode()

    async def deliver(self, message: tuple[str, dict[str, str], bytes]) -> bool:
        for fails in range(1, 4):
            if 200 <= (await self.attempt(message)).status < 300:
                return True
            if fails < 3:
                await asyncio.sleep(fails**4 + 15 + self.rng.uniform(0, 30) * (fails + 1))
        return False


@dataclass(slots=True)
class Quay(Sender):
    """quay/quay `workers/notificationworker` and `notifications/`: five repeats 30 seconds apart; three failures in
    a row switch the notification off, and nobody is told."""

    name: ClassVar[str] = "quay"
    seconds: ClassVar[float] = 10.0
    failures: int = 0

    @property
    def disabled(self) -> bool:
        return self.failures >= 3

    def message(self, image: Image) -> tuple[str, dict[str, str], bytes]:
        body = {
            "docker_url": f"{self.host}/{image.repository}",
            "repository": image.repository,
            "updated_tags": [image.tag],
        }
        return f"quay?token={self.secret}", {"content-type": "application/json"}, json.dumps(body).encode()

    async def deliver(self, message: tuple[str, dict[str, str], bytes]) -> bool:
        for _ in range(6):
            if self.disabled:
                return False
            if 200 <= (await self.attempt(message)).status < 300:
                self.failures = 0
                return True
            self.failures += 1
            await asyncio.sleep(30)
        return False


@dataclass(slots=True)
class GitHub(Sender):
    """docs.github.com/webhooks: 10 seconds, and no repeat but by hand."""

    name: ClassVar[str] = "github"
    seconds: ClassVar[float] = 10.0

    def message(self, image: Image) -> tuple[str, dict[str, str], bytes]:
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
        body = json.dumps({"action": "published", "package": package}).encode()
        signature = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "content-type": "application/json",
            "x-github-event": "package",
            "x-github-delivery": self.rng.randbytes(16).hex(),
            "x-hub-signature-256": f"sha256={signature}",
        }
        return self.name, headers, body

    async def deliver(self, message: tuple[str, dict[str, str], bytes]) -> bool:
        return 200 <= (await self.attempt(message)).status < 300


@dataclass(slots=True)
class PubSub(Sender):
    """cloud.google.com/pubsub/docs/push: 102, 200, 201, 202 and 204 are an acknowledgement; all else is delivered
    again, after 10 to 600 seconds, for seven days."""

    name: ClassVar[str] = "gar"
    seconds: ClassVar[float] = 10.0

    def message(self, image: Image) -> tuple[str, dict[str, str], bytes]:
        place = f"{self.host}/{image.repository}"
        data = {"action": "INSERT", "digest": f"{place}@{image.digest}", "tag": f"{place}:{image.tag}"}
        message = {
            "data": base64.b64encode(json.dumps(data).encode()).decode(),
            "messageId": str(self.rng.randrange(10**15)),
            "publishTime": self.moment().isoformat(),
        }
        body = {"message": message, "subscription": "projects/acme/subscriptions/gcr"}
        return f"gar?token={self.secret}", {"content-type": "application/json"}, json.dumps(body).encode()

    async def deliver(self, message: tuple[str, dict[str, str], bytes]) -> bool:
        pause = 10.0
        for _ in range(1000):
            if (await self.attempt(message)).status in (102, 200, 201, 202, 204):
                return True
            await asyncio.sleep(pause)
            pause = min(600.0, pause * 2)
        return False


@dataclass(slots=True)
class EventBridge(Sender):
    """docs.aws.amazon.com/eventbridge API destinations: 5 seconds; 401, 407, 409, 429, 5xx and silence are repeated, up
    to 185 times in 24 hours."""

    name: ClassVar[str] = "ecr"
    seconds: ClassVar[float] = 5.0
    account: ClassVar[str] = "123456789012"

    def message(self, image: Image) -> tuple[str, dict[str, str], bytes]:
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
        return self.name, headers, json.dumps(body).encode()

    async def deliver(self, message: tuple[str, dict[str, str], bytes]) -> bool:
        pause = 1.0
        for _ in range(185):
            status = (await self.attempt(message)).status
            if 200 <= status < 300:
                return True
            if status not in (0, 401, 407, 409, 429) and status < 500:
                return False
            await asyncio.sleep(self.rng.uniform(0.5, 1) * pause)
            pause = min(pause * 2, 600)
        return False


@dataclass(slots=True)
class Trigger(Sender):
    """knative/eventing `pkg/broker/filter` and `pkg/kncloudevents`: ten repeats with growing pauses; a 2xx whose body
    is not empty and no CloudEvent is a failure like 502; of the 4xx only 404, 408, 409 and 429 are repeated."""

    name: ClassVar[str] = "events"
    seconds: ClassVar[float] = 30.0
    strange: list[bytes] = field(default_factory=list)
    """Replies that a Broker could do nothing with, or that would be events of their own."""

    def message(self, image: Image) -> tuple[str, dict[str, str], bytes]:
        reference = f"{self.host}/{image.repository}:{image.tag}"
        headers = {
            "content-type": "application/json",
            "authorization": self.secret,
            "ce-specversion": "1.0",
            "ce-id": self.rng.randbytes(8).hex(),
            "ce-source": "/ci/b%C3%BCild",
            "ce-type": "com.example.image.pushed",
            "ce-time": self.moment().isoformat(),
        }
        return self.name, headers, json.dumps({"image": reference, "digest": image.digest}).encode()

    async def deliver(self, message: tuple[str, dict[str, str], bytes]) -> bool:
        for retry in range(11):
            answer = await self.attempt(message)
            if 200 <= answer.status < 300:
                if not answer.body:
                    return True
                self.strange.append(answer.body)
            elif answer.status not in (0, 404, 408, 409, 429) and answer.status < 500:
                return False
            await asyncio.sleep(0.2 * 2**retry)
        return False


ALL: tuple[type[Any], ...] = (Distribution, Harbor, Quay, GitHub, PubSub, EventBridge, Trigger)
