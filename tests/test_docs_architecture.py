"""The page of the architecture names files, functions and rooms that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOMS = dict(re.findall(r"^\| `([\w/]+/)` \| .* \| ([^|]+) \|$", PAGE.partition("## One push")[0], flags=re.MULTILINE))
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
    assert len(walks) == 5
    assert all(walk.count("\n| `") > 5 for walk in walks)


def test_every_path_on_the_page_exists() -> None:
    paths = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|toml))`", PAGE)
    assert len(paths) > 40
    assert [path for path in paths if not (ROOT / path).exists()] == []


def room_of(module: str) -> str:
    """The room of a dotted module name; empty outside the project."""
    parents = ["/".join(module.split(".")[:depth]) + "/" for depth in (2, 1)]
    return next((parent for parent in parents if parent in ROOMS), "")


def rooms_imported_by(room: str) -> set[str]:
    """Rooms that the modules of a room import, itself left out."""
    found = set()
    for path in (ROOT / room).rglob("*.py"):
        if room_of(".".join(path.relative_to(ROOT).with_suffix("").parts)) != room:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found.add(room_of(node.module))
    return found - {room, ""}


def test_every_room_is_on_the_page() -> None:
    programs = ("handlers", "nodeagent")
    rooms = {path.parent.relative_to(ROOT) for name in programs for path in (ROOT / name).glob("*/__init__.py")}
    rooms |= {Path(name) for name in ("warmhook", "adapters", "handlers", "nodeagent", "devcluster", "cli")}
    assert {f"{room}/" for room in rooms} == set(ROOMS)


@pytest.mark.parametrize(("room", "imports"), ROOMS.items())
def test_a_room_imports_the_rooms_that_its_row_names(room: str, imports: str) -> None:
    own = (
        {other for other in ROOMS if other.startswith(room) and other != room} if "its six rooms" in imports else set()
    )
    assert rooms_imported_by(room) == set(re.findall(r"`([\w/]+)`", imports)) | own


def test_the_page_is_short() -> None:
    assert PAGE.count("\n") <= 150
