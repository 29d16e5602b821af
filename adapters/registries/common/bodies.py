"""Read a body nobody has vouched for: JSON, forms, times. Everything that can be wrong with it is `Unreadable`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar
from urllib.parse import parse_qs

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from adapters.mistakes import in_plain_words
from adapters.registries import Delivery, Outcome
from adapters.strictjson import decode
from warmhook.events import Skip
from warmhook.ports import Json

__all__ = ["Fields", "Text", "Unreadable", "each", "quoted", "read_fields", "read_json", "read_payload", "read_time"]

_FORM: Final = "application/x-www-form-urlencoded"
# Go senders write year 1 and Unix time 0 where a time is not set.
_FIRST_YEAR: Final = 2000
# A body of 1 MiB may hold half a million list items; no sender has more than a few events in one.
_MOST_PARTS: Final = 10_000

Part = TypeVar("Part")
Model = TypeVar("Model", bound="Fields")


class Unreadable(ValueError):
    """The body, or one event of it, is not what its sender documents. The message never quotes more than a name."""


class Fields(BaseModel):
    """The fields used of a foreign object; others are ignored, wrong types are `Unreadable`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", populate_by_name=True)


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
    # Whoever posts a recorded delivery with curl says that JSON is a form, without meaning it.
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


def read_fields(model: type[Model], value: Json) -> Model:
    """Check a decoded object against the fields an adapter uses. Raises `Unreadable`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise Unreadable(f"{where}: {in_plain_words(first['type'], first['msg'])}"[:120]) from None


def each(parts: Iterable[Part], read: Callable[[Part], list[Outcome]]) -> list[Outcome]:
    """Read part by part: one that is unreadable is skipped as `malformed` and leaves the others alone."""
    outcomes: list[Outcome] = []
    for number, part in enumerate(parts):
        if number == _MOST_PARTS:
            outcomes.append(Skip("malformed", f"more than {_MOST_PARTS} events in one delivery"))
            break
        try:
            outcomes += read(part)
        except Unreadable as error:
            outcomes.append(Skip("malformed", str(error)))
    return outcomes


def read_time(value: Json) -> datetime | None:
    """A sender's time: RFC 3339 text, Unix seconds, or one already read.

    `None` for one that is not set or that nobody can read.

    A text without an offset is taken as UTC. From a sender east of Greenwich it then lies ahead, which counts as the
    time of receipt; the other guess could make a fresh push look hours old, and expired.
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
    """The first 60 characters of a foreign word for a log line: quoted, one line, no more than 80 when escaped."""
    return repr(text[:60])[:80]
