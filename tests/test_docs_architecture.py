"""The page of the architecture names files, functions and rooms that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
STEPS = re.findall(r"^\| `([\w/]+\.py)` \| (`[^|]+`) \|", PAGE, flags=re.MULTILINE)


def definitions(path: Path) -> set[str]:
    """Names of the functions and classes of a module; methods as `Class.method`."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, kinds)]
    methods = {f"{outer.name}.{node.name}" for outer in top for node in outer.body if isinstance(node, kinds)}
    return {node.name for node in top} | methods


@pytest.mark.parametrize(("path", "names"), STEPS)
def test_a_step_names_functions_of_its_file(path: str, names: str) -> None:
    assert set(re.findall(r"`([\w.]+)`", names)) <= definitions(ROOT / path)


def test_each_walk_has_steps() -> None:
    walks = re.findall(r"^## One .*?(?=^## )", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(walks) == 3
    assert all(walk.count("\n| `") > 5 for walk in walks)


def test_every_path_on_the_page_exists() -> None:
    paths = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|toml))`", PAGE)
    assert len(paths) > 40
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_room_is_on_the_page() -> None:
    rooms = {path.parent.relative_to(ROOT) for path in (ROOT / "handlers").glob("*/__init__.py")}
    rooms |= {Path(name) for name in ("warmhook", "adapters", "nodeagent", "devcluster", "cli")}
    assert {str(room) for room in rooms if f"\n| `{room}/` |" not in PAGE} == set()


def test_the_page_is_short() -> None:
    assert PAGE.count("\n") <= 120
