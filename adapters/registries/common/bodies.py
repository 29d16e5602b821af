"""Read untrusted bodies: JSON, forms, times. Everything that can be wrong with them is `Unreadable`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar
from urllib.parse import parse_qs

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from adapters.registries.common.delivery import Delivery, Outcome, UnknownEvent, Unreadable
from adapters.strictjson import decode
from adapters.validation_errors import first_problem
from warmhook.events import Skip
from warmhook.ports import Json
from warmhook.secret_texts import without_credentials

_FORM: Final = "application/x-www-form-urlencoded"
# Go senders write year 1 and Unix time 0 if a time is not set.
_FIRST_YEAR: Final = 2000
# A body of 1 MiB may hold half a million list items; no sender has more than a few events in one.
_MOST_PARTS: Final = 10_000

Part = TypeVar("Part")
Model = TypeVar("Model", bound="Fields")


class Fields(BaseModel):
    """The fields used of a foreign object; others are ignored, wrong types are `Unreadable`."""

    # Built when first used, as the models of policies are.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", populate_by_name=True, defer_build=True)


Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""A string; `null` is how several senders write an empty one."""


def read_json(body: bytes | str) -> Json:
    """Decode one JSON document in UTF-8. Raises `Unreadable`, also for doubled keys, NaN and bottomless nesting."""
    try:
        return decode(body)
    except ValueError as error:
        raise Unreadable(str(error)) from None


def read_payload(delivery: Delivery) -> Json:
    """The JSON of a delivery that may be a form with the field `payload` (GitHub, Gitea). Raises `Unreadable`."""
    # curl labels JSON as a form unless it is given a content type.
    form = delivery.media_type() == _FORM and not delivery.body.lstrip().startswith(b"{")
    if not form and not delivery.body.startswith(b"payload="):
        return read_json(delivery.body)
    try:
        fields = parse_qs(delivery.body.decode(), strict_parsing=True, errors="strict", max_num_fields=16)
    except ValueError:
        raise Unreadable("the form cannot be decoded") from None
    values = fields.get("payload", [])
    if len(values) != 1:
        raise Unreadable(f"the form has {len(values)} fields named payload, not one")
    return read_json(values[0])


def read_fields(model: type[Model], value: Json, *, key: str = "") -> Model:
    """Check a decoded object against the fields an adapter uses. Raises `Unreadable`.

    `key` is one that all events of the sender have; an object without it raises `UnknownEvent`.
    """
    if key and isinstance(value, dict) and key not in value:
        raise UnknownEvent(f"no {key}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        path, problem = first_problem(error)
        raise Unreadable(f"{'.'.join(path) or 'the body'}: {problem}"[:120]) from None


def each(parts: Iterable[Part], read: Callable[[Part], Outcome | list[Outcome]]) -> list[Outcome]:
    """Read part by part. An unreadable part is skipped and does not affect the others."""
    outcomes: list[Outcome] = []
    for number, part in enumerate(parts):
        if number == _MOST_PARTS:
            outcomes.append(Skip("malformed", f"more than {_MOST_PARTS} events in one delivery"))
            break
        try:
            found = read(part)
        except Unreadable as error:
            found = Skip(error.reason, str(error))
        outcomes += found if isinstance(found, list) else [found]
    return outcomes


def each_in_batch(body: Json, read: Callable[[Json], Outcome]) -> list[Outcome]:
    """Read a body that is one event, or a JSON list of events."""
    events = body if isinstance(body, list) else [body]
    return each(events, read) or [Skip("unknown-event", "an empty list")]


def read_time(value: Json) -> datetime | None:
    """A sender's time: RFC 3339 text, Unix seconds, or a `datetime`. `None` if it is not set or not readable.

    A text without an offset is read as UTC. If the sender is east of Greenwich, the result is in the future and counts
    as the time of receipt. Any other offset could make a new push look hours old, and expired.
    """
    try:
        if isinstance(value, str | datetime):
            read = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
            time = read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            time = datetime.fromtimestamp(value, UTC)
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    return time if time.year >= _FIRST_YEAR else None


def quoted(text: str) -> str:
    """The first 60 characters of an untrusted text for a log line: in quotes, on one line, at most 80 when escaped.

    Without credentials, since some senders write URLs with them into fields that have none of others.
    """
    return repr(without_credentials(text)[:60])[:80]
