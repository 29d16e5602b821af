"""Make tests of coroutines that need a subject: a node, a cluster, a folder."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any


def as_test(case: Callable[..., Awaitable[None]], run: Callable[..., None], *fixtures: str) -> Callable[..., None]:
    """A test that has `fixtures` in place of the first parameter of `case`, and its other parameters.

    It calls `run` with the case as a function of the first parameter alone, and the values of `fixtures`.
    """
    _subject, *others = inspect.signature(case).parameters.values()

    def test(**given: Any) -> None:
        values = [given.pop(name) for name in fixtures]
        run(lambda subject: case(subject, **given), *values)

    named = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in fixtures]
    test.__signature__ = inspect.Signature([*named, *others])  # type: ignore[attr-defined] # pytest reads it
    # Not functools.wraps: pytest would see the coroutine behind the test.
    test.__name__, test.__qualname__, test.__module__ = case.__name__, case.__qualname__, case.__module__
    test.__doc__ = case.__doc__
    return test
