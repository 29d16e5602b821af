"""Make HTML of values: the templates of the page, which escape everything that they are given."""

from __future__ import annotations

from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from warmhook.checks import command

_TEMPLATES: Final = Environment(
    loader=PackageLoader("handlers.ui"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_TEMPLATES.globals["command"] = command


def render(template: str, /, **values: Any) -> str:
    """The HTML of a template of `handlers/ui/templates/`. A value that it needs and did not get is an error."""
    return _TEMPLATES.get_template(template).render(values)
