"""CRDs as an older version had them."""

from __future__ import annotations

from typing import Any

from warmhook.ports import Object

_CHECKS = ("pattern", "x-kubernetes-validations")


def without_patterns(crd: Object) -> Object:
    """The CRD without patterns and rules: it lets in what a program then cannot read."""
    stripped: Object = _stripped(crd)
    return stripped


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stripped(part) for key, part in value.items() if key not in _CHECKS}
    return [_stripped(part) for part in value] if isinstance(value, list) else value
