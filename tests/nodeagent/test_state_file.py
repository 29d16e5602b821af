"""What the agent remembers is whole or not there, and never somebody else's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import structlog

from nodeagent.state_file import State, StateFile

STATE = State(7, {"0" * 16: "{}"}, {"00000000": "sha256:1"}, {"11111111": "a chart"})


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def state_file(folder: Path, node: str = "node-1") -> StateFile:
    return StateFile(folder, node, structlog.get_logger())


def test_a_saved_state_is_loaded(tmp_path: Path) -> None:
    state_file(tmp_path / "new").save(STATE)
    assert state_file(tmp_path / "new").load() == STATE
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["state.json"]


def test_a_file_without_images_that_cannot_run_is_loaded(tmp_path: Path) -> None:
    content = {"format": 1, "node": "node-1", "resourceVersion": 7, "lines": {}, "pulled": {"00000000": "sha256:1"}}
    (tmp_path / "state.json").write_text(json.dumps(content))
    assert state_file(tmp_path).load() == State(7, {}, {"00000000": "sha256:1"})


def test_a_missing_file_is_an_empty_state_without_a_warning(tmp_path: Path, logs: list[Any]) -> None:
    assert state_file(tmp_path).load() == State()
    assert logs == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        json.dumps({"format": 2, "node": "node-1", "resourceVersion": 1, "lines": {}, "pulled": {}}).encode(),
        json.dumps({"format": 1, "node": "node-2", "resourceVersion": 1, "lines": {}, "pulled": {}}).encode(),
        json.dumps({"format": 1, "node": "node-1", "resourceVersion": "x", "lines": {}, "pulled": {}}).encode(),
        json.dumps({"format": 1, "node": "node-1", "resourceVersion": 1, "lines": {"a": 1}, "pulled": {}}).encode(),
        b'{"format":1,"node":"node-1","resourceVersion":1e999,"lines":{},"pulled":{}}',
        b'{"format":1,"node":"node-1","resourceVersion":-Infinity,"lines":{},"pulled":{}}',
        b'{"format":1,"node":"node-1","resourceVersion":NaN,"lines":{},"pulled":{}}',
        b'{"format":1,"node":"node-1","resourceVersion":-1,"lines":{},"pulled":{}}',
        b'{"format":1,"node":"node-1","resourceVersion":' + b"9" * 5000 + b',"lines":{},"pulled":{}}',
        b'{"format":1,"node":"node-1","resourceVersion":1,"lines":{},"pulled":{},"notRunnable":{"a":1}}',
        b'{"format":1e999,"node":"node-1","resourceVersion":1,"lines":{},"pulled":{}}',
    ],
)
def test_a_file_that_cannot_be_used_is_set_aside_with_one_warning(
    tmp_path: Path, content: bytes, logs: list[Any]
) -> None:
    (tmp_path / "state.json").write_bytes(content)
    assert state_file(tmp_path).load() == State()
    assert [log["event"] for log in logs] == ["state-set-aside"]
    assert (tmp_path / "state.unusable").read_bytes() == content
    assert state_file(tmp_path).load() == State()
    assert len(logs) == 1


def test_a_write_that_fails_leaves_the_old_state(tmp_path: Path) -> None:
    state_file(tmp_path).save(STATE)
    (tmp_path / "state.tmp").mkdir()
    with pytest.raises(OSError, match=r"state\.tmp"):
        state_file(tmp_path).save(State(8))
    assert state_file(tmp_path).load() == STATE


@pytest.mark.slow
def test_two_saves_at_once_leave_one_of_both_whole(tmp_path: Path) -> None:
    """An agent that is told to stop while it saves saves once more."""
    file = state_file(tmp_path)
    states = [State(1, {f"{i:016}": "x" * 20_000 for i in range(many)}) for many in (1, 40)]
    file.save(states[0])
    with ThreadPoolExecutor(2) as threads:
        for _ in range(20):
            saving = [threads.submit(file.save, state) for state in states]
            while not all(each.done() for each in saving):
                assert file.load() in states
            assert [each.exception() for each in saving] == [None, None]
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
