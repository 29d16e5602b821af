"""A folder for each end-to-end test, with a path short enough for sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import stack_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with stack_folder() as path:
        yield path
