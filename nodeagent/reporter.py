"""Write the report of the node soon after a change, in few writes, and never with more than is true."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Final

from adapters.clock import Backoff, Budget, Clock
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Conflict, KubernetesError, NotFound, Refused, Unavailable
from adapters.kubernetes.paths import configmaps
from adapters.kubernetes.paths import node as node_path
from adapters.logs import Log
from adapters.outages import OutageLog
from nodeagent.peers.annotations import PeerAnnotations
from warmhook import __version__
from warmhook.api import LINE_LABEL, PEER_ANNOTATION, TRANSFERS_ANNOTATION, VERSION_ANNOTATION
from warmhook.node_lines import new_configmap
from warmhook.node_report import LineReport, bounded, reads_the_same, report_name, report_patch, seen_patch
from warmhook.ports import Object

SEEN_SECONDS: Final = 240.0
"""The renewal interval of an unchanged report."""
SETTLED_SECONDS: Final = 5.0
"""A line that waits or is pulled for less than this causes no write."""
_BETWEEN_WRITES_SECONDS: Final = 1.0
# Each write is a new version of the report in etcd, which has a quota, and there are thousands of nodes. So many writes
# may follow closely, however often states change; after them one each so many seconds.
_BURST_WRITES: Final = 120
_SUSTAINED_SECONDS: Final = 30.0
# Changes come in bursts, and one push makes all nodes pull: changes within this time share a write.
_GATHER_SECONDS: Final = 0.3
_LONGEST_BACKOFF_SECONDS: Final = 30.0
_LAST_WRITE_SECONDS: Final = 2.0
_WITHOUT_OPTIONAL_SECONDS: Final = 3600.0
# After these statuses nothing was written; any other error may have come after the write.
_NOT_TAKEN: Final = frozenset({429, 503})

_OPTIONAL: Final = (VERSION_ANNOTATION, PEER_ANNOTATION, TRANSFERS_ANNOTATION)
"""Annotations without which a report is complete."""

Reports = Mapping[str, LineReport]


def reportable(written: Reports, current: Reports, pending: set[str]) -> dict[str, LineReport]:
    """The report to write now. A pending line keeps its written state.

    If that was warm, the line is left out, which readers take as waiting.
    """
    settled = {key: line for key, line in current.items() if key not in pending}
    kept = {key: written[key] for key in pending & written.keys() if written[key].state != "warm"}
    return settled | kept


def rewrite(patch: Object, present: Object, *, bare: bool = False) -> Object:
    """`patch`, a whole report, with nulls for all lines of the `present` ConfigMap that it does not name.

    `bare`: also with nulls for everything that other writers have added.
    """
    before = present.get("metadata") or {}
    labels, annotations = before.get("labels") or {}, before.get("annotations") or {}
    stale = {name: None for name in labels if bare or name.startswith(LINE_LABEL)}
    gone = {name: None for name in annotations if bare or name in _OPTIONAL}
    own = patch["metadata"]
    metadata = own | {"labels": stale | own["labels"], "annotations": gone | own["annotations"]}
    data = dict.fromkeys(present.get("data") or {}) | patch.get("data", {})
    written = patch | {"metadata": metadata} | ({"data": data} if data else {})
    if bare:
        metadata["finalizers"] = None
        written["binaryData"] = None
    return written


class Reporter:
    """The only writer of the report of one node."""

    def __init__(
        self, kubernetes: Kubernetes, namespace: str, node: str, clock: Clock, log: Log, peers: PeerAnnotations
    ) -> None:
        self._kubernetes, self._node, self._clock, self._log, self._peers = kubernetes, node, clock, log, peers
        self._collection, self._path = configmaps(namespace), configmaps(namespace, report_name(node))
        self._node_outage = OutageLog(log, clock, "node-not-found")
        self._write_outage = OutageLog(log, clock, "report-refused")
        self.wake = asyncio.Event()
        """Set if the reports or the Node may have changed."""
        self._uid = ""
        """Of the Node, which owns the report; empty before it was read."""
        self._doubted_uid = ""
        """The last other uid that caused a read of the Node, so that it causes no second one."""
        self._confirm_uid = False
        self._adopt = False
        """Whether the Node was registered again, and its new uid is not written yet."""
        self._bare = False
        """Whether a report was refused, perhaps because of what another writer has added, such as an annotation."""
        self._written: dict[str, LineReport] | None = None
        """The report as it is stored; `None` if that is not known."""
        self._annotations: dict[str, str] = {}
        """The optional annotations in it."""
        self._written_at = 0.0
        self._without_optional_until = 0.0
        self._unsettled: dict[str, tuple[LineReport, float]] = {}
        """Lines that wait or are pulled, with the time since when."""
        self._write_after = 0.0
        self._budget = Budget(clock, _BURST_WRITES, _SUSTAINED_SECONDS)
        self._changed_at: float | None = None
        """When a change is written that was found first; `None` without a change."""
        self._seen_due = 0.0

    def owner_seen(self, uid: str) -> None:
        """Take the Node's uid from the other ConfigMap: if it differs, the Node may have been registered again."""
        if uid and self._uid and uid not in (self._uid, self._doubted_uid):
            self._doubted_uid, self._confirm_uid = uid, True
            self.wake.set()

    async def run(self, current: Callable[[], Reports | None]) -> None:
        """Keep the report up to date until cancelled. `current` returns `None` while the state is not known yet."""
        backoff = Backoff(self._clock, first_seconds=0.5, longest_seconds=_LONGEST_BACKOFF_SECONDS)
        while True:
            latest = current()
            reports = None if latest is None else bounded(latest)
            seconds = SEEN_SECONDS if reports is None else self._seconds_until_write(reports)
            if reports is None or seconds > 0:
                await self._clock.wait(self.wake, seconds)
                continue
            try:
                await self._write(reports, self._pending(reports))
            except KubernetesError as error:
                # If the API server is unreachable, the Reflector has logged it.
                if isinstance(error, Refused) and self._uid:
                    if self._bare:
                        # A policy of an older version refuses what it does not know.
                        self._without_optional_until = self._clock.monotonic() + _WITHOUT_OPTIONAL_SECONDS
                    self._written, self._bare = None, True
                if not isinstance(error, Unavailable):
                    outage = self._write_outage if self._uid else self._node_outage
                    outage.failed(error=str(error)[:300], hint=f"node {self._node} has no report until this is solved")
                await self._clock.sleep(
                    backoff.seconds(error.retry_after_seconds if isinstance(error, Unavailable) else None)
                )
            else:
                backoff.reset()
                self._write_outage.recovered()

    async def write_final(self, reports: Reports | None) -> None:
        """Write a changed report before the program ends; given up after two seconds."""
        if reports is None or not self._uid or reports == self._written:
            return
        try:
            async with asyncio.timeout(_LAST_WRITE_SECONDS):
                await self._write(bounded(reports), set())
        except (TimeoutError, KubernetesError) as error:
            self._log.info("last-report-not-written", error=str(error)[:300])

    def _pending(self, reports: Reports) -> set[str]:
        now = self._clock.monotonic()
        return {key for key, (_, since) in self._unsettled.items() if now < since + SETTLED_SECONDS and key in reports}

    def _seconds_until_write(self, reports: Reports) -> float:
        """Seconds until the next write; 0 or less if it is due."""
        now = self._clock.monotonic()
        self._note_pending(reports, now)
        if self._written is None or self._confirm_uid or self._adopt:
            return self._write_after - now
        written, pending = self._written, self._pending(reports)
        due = [self._seen_due, max(self._peers_due(), self._write_after)]
        if any(key not in reports for key in written) or any(
            not reads_the_same(written.get(key), line) for key, line in reports.items() if key not in pending
        ):
            if self._changed_at is None:
                self._changed_at = now + _GATHER_SECONDS * self._clock.random()
            due.append(max(self._changed_at, self._write_after))
        else:
            self._changed_at = None
        due += [
            max(self._unsettled[key][1] + SETTLED_SECONDS, self._write_after)
            for key in pending
            if not reads_the_same(written.get(key), reports[key])
        ]
        return min(due) - now

    def _note_pending(self, reports: Reports, now: float) -> None:
        """Note since when each line has been waiting or pulled in this version."""
        unsettled = {}
        for key, line in reports.items():
            if line.state in ("waiting", "pulling"):
                before = self._unsettled.get(key)
                unsettled[key] = before if before is not None and reads_the_same(before[0], line) else (line, now)
        self._unsettled = unsettled

    async def _write(self, reports: Reports, pending: set[str]) -> None:
        now = self._clock.monotonic()
        await self._find_owner()
        if self._written is not None:
            reported = reportable(self._written, reports, pending)
            same = reported.keys() == self._written.keys() and all(
                reads_the_same(line, self._written[key]) for key, line in reported.items()
            )
            if same and not self._adopt and now < self._seen_due and now < self._peers_due():
                return
            try:
                await self._patch(self._written, reported)
            except NotFound:
                # Deleted, perhaps with the Node: its owner must be read again, and the whole report written again.
                self._written, self._uid = None, ""
                await self._find_owner()
            except Unavailable as error:
                if error.status not in _NOT_TAKEN:
                    # The write may have succeeded, so the stored report is unknown: the whole report is written again.
                    self._written = None
                raise
        if self._written is None:
            # Pending lines are not held back: the report is written anyway, and names every line.
            reported = dict(reports)
            await self._write_whole(reported)
        now = self._written_at = self._clock.monotonic()
        self._written, self._changed_at, self._adopt = reported, None, False
        between = _BETWEEN_WRITES_SECONDS * (1 + 0.5 * self._clock.random())
        self._write_after = now + max(between, self._budget.spend())
        self._seen_due = now + self._clock.jitter(SEEN_SECONDS)

    def _peers_due(self) -> float:
        if self._clock.monotonic() < self._without_optional_until:
            return math.inf
        return self._peers.due_at(self._annotations, self._written_at)

    def _optional_annotations(self) -> dict[str, str]:
        if self._clock.monotonic() < self._without_optional_until:
            return {}
        return {VERSION_ANNOTATION: __version__} | self._peers.current()

    async def _patch(self, have: Reports, want: Reports) -> None:
        seen, optional = self._clock.utcnow().replace(microsecond=0), self._optional_annotations()
        if have == want:
            patch = seen_patch(self._node, self._uid, seen)
        else:
            patch = report_patch(self._node, self._uid, seen, have, want)
        names = self._annotations.keys() | optional.keys()
        changed = {name: optional.get(name) for name in names if optional.get(name) != self._annotations.get(name)}
        patch["metadata"]["annotations"] |= changed
        await self._kubernetes.patch(self._path, patch)
        self._annotations = optional

    async def _write_whole(self, want: Reports) -> None:
        seen, optional = self._clock.utcnow().replace(microsecond=0), self._optional_annotations()
        patch = report_patch(self._node, self._uid, seen, {}, want)
        patch["metadata"]["annotations"] |= optional
        try:
            await self._kubernetes.create(self._collection, new_configmap(report_name(self._node), patch))
        except Conflict:
            present = await self._kubernetes.get(self._path)
            await self._kubernetes.patch(self._path, rewrite(patch, present, bare=self._bare))
            self._bare = False
        else:
            # Only a patch can disable the tracking of fields, which doubles the size of the object.
            await self._kubernetes.patch(self._path, seen_patch(self._node, self._uid, seen))
        self._annotations = optional

    async def _find_owner(self) -> None:
        """Read the uid of the Node if it is unknown or in doubt."""
        if self._uid and not self._confirm_uid:
            return
        before, confirm = self._uid, self._confirm_uid
        self._confirm_uid = False
        try:
            found = await self._kubernetes.get(node_path(self._node), metadata_only=True)
            uid = (found.get("metadata") or {}).get("uid")
            if not isinstance(uid, str) or not uid:
                raise Unavailable(f"GET {node_path(self._node)}: the answer is no Node")
        except KubernetesError:
            self._confirm_uid = confirm
            raise
        self._uid = uid
        self._adopt = bool(before) and self._uid != before
        self._node_outage.recovered()
