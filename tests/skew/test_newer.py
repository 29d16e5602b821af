"""Programs of today understand what a newer version writes as far as they know it, keep the rest, and say so."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import structlog

from adapters.kubernetes import paths
from tests.handlers.world import HOST, NAMESPACE, World, in_world
from tests.skew.samples import KINDS
from tests.skew.test_frozen import missing
from tests.support.agents import Bench, a_push, on_node, push_warm
from tests.support.instant import until
from warmhook.api import LINE_LABEL
from warmhook.node_lines import desired_name, line_key, version_of
from warmhook.node_report import report_name
from warmhook.warmimages import ObjectKey

NEWS: Final = {"of": ["a", "newer", 1]}
# Of texts by names that anybody may choose; a further one has a meaning.
_MAPS: Final = frozenset({"labels", "containers", "nodeSelector", "annotations", "data", "pulled", "notRunnable"})
_OTHER_MAPS: Final = frozenset({"refreshed", "lines", "b"})
_Path = tuple[Any, ...]


def objects_in(value: Any, path: _Path = ()) -> Iterator[_Path]:
    """Where the JSON objects with fixed fields are, also those in texts."""
    inside = _decoded(value)
    if isinstance(inside, dict):
        if not path or path[-1] not in _MAPS | _OTHER_MAPS:
            yield path
        for key, part in inside.items():
            # The agent saves lines as they were read.
            yield from objects_in(part, (*path, key)) if key != "lines" else ()
    elif isinstance(inside, list):
        for number, part in enumerate(inside):
            yield from objects_in(part, (*path, number))


def with_news(value: Any, path: _Path, news: Any) -> Any:
    """A copy of `value` with a further field in the object at `path`."""
    inside = copy.deepcopy(_decoded(value))
    if path:
        inside[path[0]] = with_news(inside[path[0]], path[1:], news)
    else:
        inside["zz"] = news
    return json.dumps(inside) if isinstance(value, str) else inside


def _decoded(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    # Records of deliveries are several objects in one text.
    return json.loads(value) if "\n" not in value else value


def without_versions(value: Any) -> Any:
    """The version of a line is a hash over its text."""
    if isinstance(value, dict):
        return {key: without_versions(part) for key, part in value.items() if key != "version"}
    return [without_versions(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", ["desired", "report", "state", "events"])
def test_a_further_field_anywhere_changes_nothing_of_what_is_understood(kind: str) -> None:
    read, tried = KINDS[kind].read, 0
    with structlog.testing.capture_logs() as logs:
        for sample in KINDS[kind].write():
            means = without_versions(read(sample))
            for path in objects_in(sample):
                # An attribute of a CloudEvent is a text.
                news = "x" if kind == "events" and not path else NEWS
                assert missing(means, without_versions(read(with_news(sample, path, news)))) == [], path
                tried += 1
    assert tried >= 4
    assert logs == []


def test_a_further_field_is_where_it_should_be() -> None:
    assert list(objects_in({"data": {"x": '{"i":{}}'}, "labels": {}})) == [(), ("data", "x"), ("data", "x", "i")]
    assert with_news({"data": {"x": '{"i":1}'}}, ("data", "x"), 7) == {"data": {"x": '{"i": 1, "zz": 7}'}}


def test_further_annotations_labels_and_keys_change_nothing_of_what_is_understood() -> None:
    for kind in ("desired", "report"):
        (sample,) = KINDS[kind].write()
        means, newer = KINDS[kind].read(sample), copy.deepcopy(sample)
        newer["metadata"]["annotations"] |= {"warmhook.dev/forecast": "sunny", f"hint2.warmhook.dev/{'0' * 16}": "x"}
        newer["metadata"]["labels"] |= {"warmhook.dev/shard": "7", f"{LINE_LABEL}{'9' * 16}": "verifying-99999999"}
        newer["data"] |= {f"{'0' * 16}.signature": "x"}
        assert missing(means, KINDS[kind].read(newer)) == []


def test_deliveries_of_a_newer_web_are_listed() -> None:
    (sample,) = KINDS["deliveries"].write()
    newer = {
        key: text.replace('"source"', '"zz":[1],"source"') + '{"of":"a newer kind"}\n' for key, text in sample.items()
    }
    assert KINDS["deliveries"].read(newer) == KINDS["deliveries"].read(sample)


# --- an agent below newer handlers -----------------------------------------------------------------------------------


async def write_line(b: Bench, image: str, **fields: Any) -> tuple[str, str]:
    """Push an image, and write its line with further fields as newer handlers do; key and version of the line."""
    line = a_push(b, image, image)
    text = json.dumps(json.loads(line.encode()) | fields, sort_keys=True)
    labels = {LINE_LABEL + line.key: version_of(text)}
    path = paths.configmaps(NAMESPACE, desired_name(b.node))
    await b.kubernetes.patch(path, {"metadata": {"labels": labels}, "data": {line.key: text}})
    return line.key, version_of(text)


@on_node
async def test_an_agent_pulls_for_lines_of_newer_handlers_and_logs_once_what_it_ignores(b: Bench) -> None:
    async with b.agent():
        await push_warm(b)
        first = await write_line(b, "registry.example.com/shop/a:1", v={"signer": "x"})
        second = await write_line(b, "registry.example.com/shop/b:1", v={"signer": "y"}, P="Lazily", o="Archive")
        await until(lambda: all(b.report().state(*line) == "warm" for line in (first, second)))
        (line,) = b.events("newer-lines")
        assert line["fields"] == ["v"]
        gone = {"metadata": {"labels": {LINE_LABEL + second[0]: None}}, "data": {second[0]: None}}
        await b.kubernetes.patch(paths.configmaps(NAMESPACE, desired_name(b.node)), gone)
        await asyncio.sleep(600)
        # What it does not know is no order to delete.
        assert any("registry.example.com/shop/b:1" in image.tags for image in await b.runtime.images())


@on_node
async def test_a_line_that_an_agent_cannot_read_is_named_and_hurts_no_other(b: Bench) -> None:
    async with b.agent():
        await push_warm(b)
        key, _version = await write_line(b, "registry.example.com/shop/a:1", r={"class": "high"})
        other = await write_line(b, "registry.example.com/shop/b:1")
        await until(lambda: b.report().state(*other) == "warm")
        assert [line["key"] for line in b.events("malformed-line")] == [key]


# --- handlers above newer agents -------------------------------------------------------------------------------------


async def report_as_newer(world: World, node: str, change: Callable[[dict[str, Any]], None]) -> None:
    """The agent of a node reports, and says more than this version knows."""
    await world.report(node)
    path = paths.configmaps(NAMESPACE, report_name(node))
    obj = await world.admin.get(path)
    change(obj)
    await world.admin.replace(path, obj)


@in_world(nodes="ab", warmimage="x")
async def test_states_and_reasons_of_a_newer_agent_are_counted_and_named(world: World) -> None:
    await world.sync()
    desired = await world.desired("a") or {}
    key = line_key(ObjectKey("shop", "x"))
    version = desired["metadata"]["labels"][LINE_LABEL + key]

    def verifying(obj: dict[str, Any]) -> None:
        obj["metadata"]["labels"][LINE_LABEL + key] = f"verifying-{version}"
        obj["metadata"]["annotations"] |= {"warmhook.dev/version": "99.1.0", "warmhook.dev/forecast": "sunny"}

    def quarantined(obj: dict[str, Any]) -> None:
        obj["metadata"]["labels"][LINE_LABEL + key] = f"failed-{version}"
        obj["data"] = {key: json.dumps({"reason": "Quarantined", "message": "by the scanner", "until": 7})}

    await report_as_newer(world, "a", verifying)
    await report_as_newer(world, "b", quarantined)
    await world.reported("x")
    status = (await world.warmimages())[f"{HOST}/shop/app:v1"]["status"]
    assert (status["waiting"], status["failed"], status["desired"]) == (1, 1, 2)
    assert status["failures"] == [{"node": "b", "reason": "RuntimeError", "message": "Quarantined: by the scanner"}]
    assert (await world.cluster.reports())["a"].agent == "99.1.0"


@in_world(nodes="a", warmimage="x")
async def test_handlers_leave_what_newer_ones_wrote_for_a_node(world: World) -> None:
    await world.sync()
    path = paths.configmaps(NAMESPACE, desired_name("a"))
    news = {"metadata": {"annotations": {"warmhook.dev/shard": "7"}}, "data": {f"{'0' * 16}.signature": "x"}}
    await world.admin.patch(path, news)
    await world.add_warmimage("y", f"{HOST}/shop/app:v2")
    await world.changed("WarmImage", "y")
    await world.sync()
    obj = await world.admin.get(path)
    assert obj["metadata"]["annotations"]["warmhook.dev/shard"] == "7"
    assert obj["data"][f"{'0' * 16}.signature"] == "x"
    assert len(await world.lines()) == 1


@in_world(nodes="a", warmimage="x")
async def test_of_an_event_of_a_newer_watch_all_is_done_that_is_known_and_the_rest_is_refused(world: World) -> None:
    objects = [
        {"kind": "WarmCatalog", "namespace": "shop", "name": "y"},
        {"kind": "WarmImage", "namespace": "shop", "name": "x", "urgent": True},
    ]
    answer = await world.event("dev.warmhook.objects.changed.v1", {"objects": objects, "batch": 7}, shard="7")
    assert answer.status_code == 400
    assert list(await world.lines()) == ["a"]
    assert (await world.event("dev.warmhook.objects.rated.v1", {})).status_code == 400
