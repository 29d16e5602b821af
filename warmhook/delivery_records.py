"""Keep the last deliveries of each source: what operators ask for first when an image is not there.

Each process that receives deliveries has its own key in one ConfigMap. The value is one JSON object per line: first
when it was written, then the deliveries, newest first.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from warmhook.images import NotAReference, Reference, parse_reference
from warmhook.lenient_fields import as_time
from warmhook.ports import Object
from warmhook.timestamps import format_time

CONFIGMAP: Final = "warmhook-deliveries"
"""Its name, in the namespace of Warmhook. The manifests create it without content."""
IMAGES_MAX: Final = 3
VALUE_BYTES: Final = 16 * 1024
"""Of the value of one process."""
KEPT_MAX: Final = 50
"""Deliveries of one source with the same result and reason."""
PROCESSES_MAX: Final = 32
"""Keys in the ConfigMap, which may have 1 MiB: those that were written last."""
SILENT: Final = timedelta(days=1)
"""A process that has not written for so long is gone; one that runs writes more often."""
_WITHOUT_SECRET: Final = frozenset({"unauthorized", "refused"})
"""Results that anybody can cause at any source, so for many sources as many as a value has room for."""
_TEXT_MAX: Final = 200
"""Characters of a source, a reason, a detail."""
_IMAGE_MAX: Final = 512
"""Characters of a reference; one with a name, a tag and a digest of the usual lengths has fewer."""
_NUMBER_MAX: Final = 1_000_000
_KEY_MAX: Final = 253
_NOT_IN_KEYS: Final = re.compile(r"[^-._a-zA-Z0-9]")


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One delivery that `web` answered, as its log line has it; nothing of it is secret."""

    at: datetime
    """When its last byte was there."""
    source: str
    kind: str
    result: str
    """`accepted`, `skipped`, `unauthorized`, `unavailable` or `refused`."""
    reason: str = ""
    images: tuple[str, ...] = ()
    """References with tag or digest, at most three."""
    more_images: int = 0
    """How many it named beyond these."""
    detail: str = ""
    event_id: str = ""
    """Of the first image."""
    seconds: float = 0.0
    """Until the answer."""


class RecentDeliveries:
    """The last deliveries of one process: of each source, result and reason by itself.

    So any number of deliveries without the right secret leaves those with it.
    """

    def __init__(self) -> None:
        self._kept: defaultdict[tuple[str, str, str], deque[DeliveryRecord]] = defaultdict(
            lambda: deque(maxlen=KEPT_MAX)
        )

    def add(self, record: DeliveryRecord) -> None:
        """Keep a delivery, and drop the oldest of its like if there are too many."""
        self._kept[record.source, record.result, record.reason].append(record)

    def add_older(self, records: Iterable[DeliveryRecord]) -> None:
        """Keep deliveries, newest first, that are older than all that are kept, as far as there is room."""
        for record in records:
            kept = self._kept[record.source, record.result, record.reason]
            if len(kept) < KEPT_MAX:
                kept.appendleft(record)

    def newest(self) -> Iterator[DeliveryRecord]:
        """The newest of each kind, then the second of each kind, and so on; first those with the right secret."""
        for rank in itertools.count(1):
            found = [kept[-rank] for kept in self._kept.values() if len(kept) >= rank]
            if not found:
                return
            yield from sorted(found, key=lambda record: (record.result not in _WITHOUT_SECRET, record.at), reverse=True)

    def encode(self, written: datetime) -> str:
        """The value of this process: as many of the newest as have room."""
        head = _line({"writtenAt": format_time(written)})
        left = VALUE_BYTES - len(head)
        lines: list[tuple[datetime, str]] = []
        for record in self.newest():
            line = _line(_record_object(record))
            left -= len(line)
            if left < 0:
                break
            lines.append((record.at, line))
        return head + "".join(line for _, line in sorted(lines, key=lambda each: each[0], reverse=True))


def key_of(host: str, port: int) -> str:
    """The key of the process on that machine or Pod that has that port."""
    return f"{_NOT_IN_KEYS.sub('_', host).lstrip('.')[: _KEY_MAX - 6]}.{port}"


def outdated_keys(data: Mapping[str, str], own: str, now: datetime) -> list[str]:
    """Keys to remove: of processes that are gone, of what is no record, and the oldest if there are too many."""
    written = {key: at for key, text in data.items() if key != own and (at := _written_at(text)) is not None}
    # A clock may run ahead; a day ahead it would keep its key for ever.
    living = [key for key, at in written.items() if abs(now - at) <= SILENT]
    kept = {own, *sorted(living, key=lambda key: written[key], reverse=True)[: PROCESSES_MAX - 1]}
    return sorted(data.keys() - kept)


def read_delivery_records(data: Mapping[str, str]) -> list[DeliveryRecord]:
    """The deliveries of all processes, newest first; `data` is that of the ConfigMap.

    What cannot be read is left out. Texts are printable and short, whoever wrote them.
    """
    records = [record for text in data.values() if isinstance(text, str) for record in _read(text)]
    return sorted(records, key=lambda record: record.at, reverse=True)


def deliveries_of(image: str, digest: str, records: Iterable[DeliveryRecord]) -> tuple[DeliveryRecord, ...]:
    """The deliveries that named an image, by its tag or its digest, in the same order; an empty digest is unknown."""
    wanted = _reference(image)
    if wanted is None:
        return ()
    wanted = replace(wanted, digest=digest or wanted.digest)
    return tuple(record for record in records if any(_is_same(wanted, _reference(named)) for named in record.images))


def _read(text: str) -> Iterator[DeliveryRecord]:
    for line in text.split("\n"):
        found = _decode(line)
        if found is not None and (record := _read_record(found)) is not None:
            yield record


def _read_record(found: Object) -> DeliveryRecord | None:
    at, images = as_time(found.get("at")), found.get("images")
    source, result = _text(found.get("source")), _text(found.get("result"))
    if at is None or not source or not result:
        return None
    listed = images if isinstance(images, list) else []
    return DeliveryRecord(
        at=at,
        source=source,
        kind=_text(found.get("kind")),
        result=result,
        reason=_text(found.get("reason")),
        images=tuple(text for each in listed[:IMAGES_MAX] if (text := _text(each, _IMAGE_MAX))),
        more_images=int(_number(found.get("moreImages"))),
        detail=_text(found.get("detail")),
        event_id=_text(found.get("eventId")),
        seconds=_number(found.get("seconds")),
    )


def _record_object(record: DeliveryRecord) -> Object:
    """Without what is empty. Whatever the texts are, this is what readers make of them."""
    fields: Object = {
        "at": format_time(record.at),
        "source": _text(record.source),
        "kind": _text(record.kind),
        "result": _text(record.result),
        "reason": _text(record.reason),
        "images": [_text(image, _IMAGE_MAX) for image in record.images[:IMAGES_MAX]],
        "moreImages": record.more_images,
        "detail": _text(record.detail),
        "eventId": _text(record.event_id),
        "seconds": round(record.seconds, 4),
    }
    return {name: value for name, value in fields.items() if value}


def _written_at(text: object) -> datetime | None:
    found = _decode(text.partition("\n")[0]) if isinstance(text, str) else None
    return as_time(found.get("writtenAt")) if found is not None else None


def _line(fields: Object) -> str:
    return json.dumps(fields, separators=(",", ":")) + "\n"


def _decode(line: str) -> Object | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _number(value: Any) -> float:
    """A number that is not negative and not too large; 0 for anything else."""
    return float(min(value, _NUMBER_MAX)) if isinstance(value, int | float) and value > 0 else 0.0


def _text(value: Any, limit: int = _TEXT_MAX) -> str:
    """A text without control characters, cut; empty for anything else."""
    if not isinstance(value, str):
        return ""
    cut = value[:limit]
    return cut if cut.isprintable() else "".join(letter if letter.isprintable() else " " for letter in cut)


def _is_same(wanted: Reference, named: Reference | None) -> bool:
    """Whether both are the same image: by tag, and by digest if both have one."""
    if named is None or wanted.canonical.name != named.canonical.name:
        return False
    if wanted.digest and named.digest and wanted.digest == named.digest:
        return True
    return wanted.tag == named.tag and not (wanted.digest and named.digest)


def _reference(text: str) -> Reference | None:
    try:
        return parse_reference(text, default_tag="latest")
    except NotAReference:
        return None
