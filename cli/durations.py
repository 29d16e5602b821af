"""Read durations from options."""

from __future__ import annotations

from typing import Any, Final

import click

from warmhook.durations import parse_duration


class _Duration(click.ParamType[int]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION: Final = _Duration()
"""`90s`, `10m`, `1h30m` as seconds."""
