"""The reason of a failed pull follows from the runtime's code and text, and not from the words of a registry."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from warmhook.pull_failures import ERROR_TEXTS, ErrorText, FailureReason, error_row, failure_reason

DATA = Path(__file__).parent.parent / "data" / "pull_errors.toml"
ERRORS: list[dict[str, Any]] = tomllib.loads(DATA.read_text())["error"]
WRAPPED = 'failed to pull and unpack image "h/a:1": failed to resolve reference "h/a:1": '


def _first(text: str) -> str:
    """The error about the image, which is what the adapter passes on."""
    return text.partition("; artifact err: ")[0]


@pytest.mark.parametrize("error", [pytest.param(e, id=f"{e['name']}-{e['runtimes'][0]}") for e in ERRORS])
def test_an_error_of_a_runtime_has_its_reason(error: dict[str, Any]) -> None:
    assert failure_reason(error["code"], _first(error["text"])) == error["reason"]


@pytest.mark.parametrize("row", [pytest.param(row, id=row.part or row.code) for row in ERROR_TEXTS])
def test_each_row_of_the_table_decides_an_error_of_its_runtime(row: ErrorText) -> None:
    decided = [error for error in ERRORS if error_row(error["code"], _first(error["text"])) is row]
    assert decided
    names = {name.split()[0] for error in decided for name in error["runtimes"]}
    assert row.runtime == "all" or row.runtime.split()[0] in names


def test_the_table_is_written_in_lower_case_with_reasons_of_the_closed_list_and_sources() -> None:
    for row in ERROR_TEXTS:
        assert row.part == row.part.lower()
        assert row.part or row.code
        assert row.reason in get_args(FailureReason)
        assert row.source


@pytest.mark.parametrize(
    "text",
    [
        "pulling from host h failed with status code [manifests 1]: 500 no space left on device",
        "unexpected status from GET request to http://h/v2/x: 403 Forbidden: denied: no space left on device",
        'failed to do request: Head "http://h/": malformed MIME header: missing colon: "x: no space left on device"',
        'failed to do request: Head "http://h/": malformed MIME header initial line: x: no space left on device',
        "failed to extract layer sha256:1: link /m/a /m/b: no space left on device: file exists: unknown",
        "failed to extract layer sha256:1: mkdir /m/disk quota exceeded/x: not a directory: unknown",
    ],
)
def test_a_disk_is_not_full_because_a_registry_or_the_name_of_a_file_says_so(text: str) -> None:
    assert failure_reason("UNKNOWN", WRAPPED + text) != "DiskFull"


@pytest.mark.parametrize("words", ["no match for platform", "toomanyrequests: x", "manifest unknown", "no such host"])
def test_a_registry_that_refuses_cannot_choose_another_reason_by_its_words(words: str) -> None:
    for text in (f"unexpected status from GET request to http://h/v2/x: 403 {words}", f"denied: {words}"):
        assert failure_reason("UNKNOWN", WRAPPED + text) == "Unauthorized"
