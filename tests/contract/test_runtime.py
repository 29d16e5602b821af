"""Every container runtime behaves as the agent relies on: in memory, embedded, and containerd."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from devcluster.registry.folder import Answer, digest_of
from devcluster.registry.images import (
    Image,
    build_artifact,
    build_image,
    build_index,
    incompressible,
    incompressible_image,
)
from tests.contract.nodes import (
    Node,
    RegistryNode,
    Site,
    on_each_runtime,
    on_each_runtime_with_a_registry,
    open_node,
    open_site,
)
from tests.real.programs import eventually, free_port, small_disk
from warmhook.platforms import Platform
from warmhook.ports import Credentials, ImageConfig, PullFailed, RuntimeUnreachable
from warmhook.presence import unusable

APP = incompressible_image(0.2, "app", layers=2)
OTHER = incompressible_image(0.1, "other")
ARM = incompressible_image(0.1, "arm", platform="linux/arm64")
INDEX = build_index([ARM, APP], attestation=True)
BIG = incompressible_image(1, "big")
# Of its own: a runtime may keep what it downloaded of a layer, whichever case that was in.
CUT = incompressible_image(0.2, "cut", layers=2)
ABSENT = "sha256:" + "0" * 64
BY_DIGEST = f"shop/app@{APP.digest}"
PRIVATE = Answer(username="puller", password="right-pass")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with open_site() as site:
        yield site


# --- names -----------------------------------------------------------------------------------------------------------


@on_each_runtime
async def test_a_new_node_has_no_images_and_uses_none(node: Node) -> None:
    assert await node.runtime.images() == []
    assert await node.runtime.used_images() == set()


@pytest.mark.parametrize(
    ("pushed", "pulled", "tags", "digests"),
    [
        pytest.param({"shop/app:1": APP}, ["shop/app:1"], ["shop/app:1"], [BY_DIGEST], id="by tag"),
        pytest.param({"shop/app:latest": APP}, ["shop/app"], ["shop/app:latest"], [BY_DIGEST], id="without a tag"),
        pytest.param({"shop/app:1": APP}, [BY_DIGEST], [], [BY_DIGEST], id="by digest"),
        pytest.param({"shop/app:1": APP}, [f"shop/app:1@{APP.digest}"], [], [BY_DIGEST], id="by tag and digest"),
        pytest.param(
            {"shop/app:1": APP}, [BY_DIGEST, "shop/app:1"], ["shop/app:1"], [BY_DIGEST], id="by digest, then by tag"
        ),
        pytest.param(
            {"shop/app:1": APP, "shop/app:1.0": APP},
            ["shop/app:1", "shop/app:1.0"],
            ["shop/app:1", "shop/app:1.0"],
            [BY_DIGEST],
            id="two tags",
        ),
        pytest.param(
            {"shop/app:1": APP, "mirror/app:1": APP},
            ["shop/app:1", "mirror/app:1"],
            ["mirror/app:1", "shop/app:1"],
            [f"mirror/app@{APP.digest}", BY_DIGEST],
            id="two repositories",
        ),
        pytest.param(
            {"shop/app:1": INDEX}, ["shop/app:1"], ["shop/app:1"], [f"shop/app@{INDEX.digest}"], id="index by tag"
        ),
        pytest.param(
            {"shop/app:1": INDEX},
            ["shop/app:1", BY_DIGEST],
            ["shop/app:1"],
            [BY_DIGEST, f"shop/app@{INDEX.digest}"],
            id="index by tag, then its child by digest",
        ),
    ],
)
@on_each_runtime
async def test_pulls_of_one_image_are_listed_as_one_image_with_all_names(
    node: Node, pushed: dict[str, Image], pulled: list[str], tags: list[str], digests: list[str]
) -> None:
    for name, content in pushed.items():
        node.push(name, content)
    assert {await node.pull(f"{node.host}/{name}") for name in pulled} == {node.id_of(APP)}
    image = await node.only_image()
    assert image.id == node.id_of(APP)
    assert sorted(image.tags) == [f"{node.host}/{name}" for name in tags]
    assert sorted(image.digests) == sorted(f"{node.host}/{name}" for name in digests)
    assert not image.pinned
    for name in pushed.keys() - set(tags):
        assert await node.runtime.image(f"{node.host}/{name}") is None


@on_each_runtime_with_a_registry
async def test_the_size_is_that_of_manifest_config_and_compressed_layers(node: RegistryNode) -> None:
    node.only("containerd", "its sizes are of unpacked layers")
    await node.pull(node.push("shop/app:1", APP))
    assert (await node.only_image()).size_bytes == len(APP.manifest) + sum(map(len, APP.blobs))


@on_each_runtime_with_a_registry
async def test_the_size_of_an_image_from_an_index_includes_the_index(node: RegistryNode) -> None:
    node.only("containerd", "its sizes are of unpacked layers")
    await node.pull(node.push("shop/app:1", INDEX))
    expected = len(INDEX.manifest) + len(APP.manifest) + sum(map(len, APP.blobs))
    assert (await node.only_image()).size_bytes == expected


@on_each_runtime
async def test_a_pull_by_tag_and_digest_brings_the_digest_where_the_tag_has_moved_on(node: Node) -> None:
    reference = node.push("shop/app:1", APP)
    node.push("shop/app:1", OTHER)
    assert await node.pull(f"{reference}@{APP.digest}") == node.id_of(APP)


# --- indexes ---------------------------------------------------------------------------------------------------------


@on_each_runtime_with_a_registry
async def test_an_index_brings_the_child_of_this_platform_and_no_other(node: RegistryNode) -> None:
    assert await node.pull(node.push("shop/app:1", INDEX)) == node.id_of(APP)
    assert node.fetched(ARM.config_digest) == 0


@on_each_runtime
async def test_an_index_can_be_pulled_by_its_digest(node: Node) -> None:
    node.push("shop/app:1", INDEX)
    assert await node.pull(f"{node.host}/shop/app@{INDEX.digest}") == node.id_of(APP)


@on_each_runtime_with_a_registry
async def test_a_docker_manifest_list_is_pulled_like_an_index(node: RegistryNode) -> None:
    child = build_image(incompressible(5000, "docker"), docker=True)
    assert await node.pull(node.push("shop/app:1", build_index([child], docker=True))) == node.id_of(child)


@on_each_runtime_with_a_registry
async def test_an_index_without_this_platform_is_reported_as_such(node: RegistryNode) -> None:
    failure = await node.failure(node.push("shop/app:1", build_index([ARM], attestation=True)))
    assert failure.reason == "PlatformMissing"
    assert await node.runtime.images() == []


@on_each_runtime
async def test_a_single_image_of_another_platform_is_pulled_without_complaint(node: Node) -> None:
    assert await node.pull(node.push("shop/app:1", ARM)) == node.id_of(ARM)


# --- moved tags ------------------------------------------------------------------------------------------------------


@on_each_runtime
async def test_a_moved_tag_takes_its_name_along(node: Node) -> None:
    reference = node.push("shop/app:1", APP)
    await node.pull(reference)
    node.push("shop/app:1", OTHER)
    assert await node.pull(reference) == node.id_of(OTHER)
    image = await node.runtime.image(reference)
    assert image is not None
    assert image.digests == (f"{node.host}/shop/app@{OTHER.digest}",)


@on_each_runtime
async def test_the_image_a_tag_has_left_stays_with_its_digest_alone(node: Node) -> None:
    reference = node.push("shop/app:1", APP)
    await node.pull(reference)
    node.push("shop/app:1", OTHER)
    await node.pull(reference)
    old = await node.runtime.image(node.id_of(APP))
    assert old is not None
    assert old.tags == ()
    assert old.digests == (f"{node.host}/shop/app@{APP.digest}",)


@on_each_runtime
async def test_a_moved_tag_is_noticed_by_a_pull_alone(node: Node) -> None:
    reference = node.push("shop/app:1", APP)
    await node.pull(reference)
    node.push("shop/app:1", OTHER)
    image = await node.runtime.image(reference)
    assert image is not None
    assert image.id == node.id_of(APP)


@on_each_runtime
async def test_a_new_index_of_the_same_child_adds_its_digest_to_the_id(node: Node) -> None:
    reference = node.push("shop/app:1", build_index([APP]))
    await node.pull(reference)
    node.push("shop/app:1", INDEX)
    await node.pull(reference)
    assert f"{node.host}/shop/app@{INDEX.digest}" in (await node.only_image()).digests


# --- looking an image up ---------------------------------------------------------------------------------------------


@on_each_runtime
async def test_an_image_is_found_by_tag_by_digest_and_by_id(node: Node) -> None:
    reference = node.push("shop/app:1", APP)
    await node.pull(reference)
    expected = await node.only_image()
    by_digest = f"{node.host}/shop/app@{APP.digest}"
    for name in (reference, by_digest, f"{reference}@{APP.digest}", node.id_of(APP)):
        assert await node.runtime.image(name) == expected


@on_each_runtime
async def test_an_unknown_image_is_not_found(node: Node) -> None:
    await node.pull(node.push("shop/app:1", APP))
    for name in (f"{node.host}/shop/app:2", f"{node.host}/shop/app", ABSENT, f"{node.host}/shop/app@{ABSENT}", ""):
        assert await node.runtime.image(name) is None


@on_each_runtime
async def test_a_malformed_reference_is_not_found(node: Node) -> None:
    assert await node.runtime.image("NO/!!reference") is None


@on_each_runtime
async def test_every_image_is_listed_once(node: Node) -> None:
    await node.pull(node.push("shop/app:1", APP))
    await node.pull(node.push("shop/other:1", OTHER))
    assert {image.id for image in await node.runtime.images()} == {node.id_of(APP), node.id_of(OTHER)}


# --- what an image is ------------------------------------------------------------------------------------------------


@on_each_runtime
async def test_the_configuration_of_an_image_names_its_platform_and_counts_its_layers(node: Node) -> None:
    await node.pull(node.push("shop/app:1", APP))
    await node.pull(node.push("shop/arm:1", ARM))
    assert await node.runtime.config(node.id_of(APP)) == ImageConfig(Platform("linux", "amd64"), layers=2)
    assert await node.runtime.config(node.id_of(ARM)) == ImageConfig(Platform("linux", "arm64"), layers=1)


@on_each_runtime
async def test_the_configuration_of_an_image_from_an_index_is_that_of_the_child(node: Node) -> None:
    reference = node.push("shop/app:1", INDEX)
    await node.pull(reference)
    for name in (reference, f"{node.host}/shop/app@{INDEX.digest}", node.id_of(APP)):
        assert await node.runtime.config(name) == ImageConfig(Platform("linux", "amd64"), layers=2)


@on_each_runtime
async def test_the_configuration_of_an_absent_image_is_not_known(node: Node) -> None:
    await node.pull(node.push("shop/app:1", APP))
    for name in (f"{node.host}/shop/app:2", ABSENT, "NO/!!reference", ""):
        assert await node.runtime.config(name) is None


# --- removal ---------------------------------------------------------------------------------------------------------


@on_each_runtime
async def test_removal_by_one_tag_removes_what_the_traits_of_the_runtime_say(node: Node) -> None:
    """Every name of the ID, or that name alone; the ID removes every name everywhere."""
    reference, second = node.push("shop/app:1", APP), node.push("mirror/app:2", APP)
    await node.pull(reference)
    await node.pull(second)
    await node.runtime.remove(reference)
    assert await node.runtime.image(reference) is None
    assert (await node.runtime.image(second) is None) == (node.traits.removal == "image")
    await node.runtime.remove(node.id_of(APP))
    assert await node.runtime.images() == []


@pytest.mark.parametrize("name", [f"{{host}}/shop/app@{INDEX.digest}", "{id}"], ids=["digest", "id"])
@on_each_runtime
async def test_an_image_is_removed_by_its_digest_or_its_id(node: Node, name: str) -> None:
    await node.pull(node.push("shop/app:1", INDEX))
    await node.runtime.remove(name.format(host=node.host, id=node.id_of(APP)))
    assert await node.runtime.images() == []


@on_each_runtime
async def test_removal_leaves_other_images_alone(node: Node) -> None:
    reference, other = node.push("shop/app:1", APP), node.push("shop/other:1", OTHER)
    await node.pull(reference)
    await node.pull(other)
    await node.runtime.remove(reference)
    assert (await node.only_image()).tags == (other,)


@on_each_runtime
async def test_the_removal_of_an_absent_image_changes_nothing(node: Node) -> None:
    await node.pull(node.push("shop/app:1", APP))
    for name in (f"{node.host}/shop/app:2", ABSENT, "NO/!!reference", ""):
        await node.runtime.remove(name)
    assert (await node.only_image()).id == node.id_of(APP)


@on_each_runtime
async def test_a_removed_image_can_be_pulled_again(node: Node) -> None:
    reference = node.push("shop/app:1", APP)
    await node.pull(reference)
    await node.runtime.remove(reference)
    await node.pull(reference)
    assert (await node.only_image()).tags == (reference,)


@on_each_runtime_with_a_registry
async def test_an_image_that_shares_layers_survives_the_removal_of_the_other(node: RegistryNode) -> None:
    node.only("containerd", "it asks by GET, and for the API version first")
    shared = incompressible(60_000, "shared")
    first = node.push("shop/first:1", build_image(shared, incompressible(6000, "a")))
    second = node.push("shop/second:1", build_image(shared, incompressible(6000, "b")))
    await node.pull(first)
    await node.pull(second)
    await node.runtime.remove(first)
    node.requests.clear()
    await node.pull(second)
    assert [each.method for each in node.requests] == ["HEAD"]


# --- what is fetched -------------------------------------------------------------------------------------------------


@on_each_runtime_with_a_registry
async def test_a_repeated_pull_asks_for_the_manifest_alone(node: RegistryNode) -> None:
    node.only("containerd", "it asks by GET, and for the API version first")
    reference = node.push("shop/app:1", APP)
    await node.pull(reference)
    node.requests.clear()
    await node.pull(reference)
    (request,) = node.requests
    assert (request.method, request.path) == ("HEAD", "/v2/shop/app/manifests/1")


@on_each_runtime_with_a_registry
async def test_a_layer_of_another_repository_is_not_fetched_again(node: RegistryNode) -> None:
    shared = incompressible(60_000, "shared")
    first = build_image(shared, incompressible(6000, "a"))
    await node.pull(node.push("shop/first:1", first))
    await node.pull(node.push("shop/second:1", build_image(shared, incompressible(6000, "b"))))
    assert node.fetched(digest_of(first.blobs[1])) == 1


@on_each_runtime_with_a_registry
async def test_two_pulls_of_one_image_at_once_fetch_each_layer_once(node: RegistryNode) -> None:
    reference = node.push("shop/big:1", BIG)
    ids = await asyncio.gather(node.pull(reference), node.pull(reference))
    assert list(ids) == [node.id_of(BIG)] * 2
    assert node.fetched(digest_of(BIG.blobs[1])) == 1


@on_each_runtime
async def test_different_images_are_pulled_at_the_same_time(node: Node) -> None:
    references = [node.push(f"shop/app{i}:1", incompressible_image(0.1, f"side-{i}")) for i in range(4)]
    await asyncio.gather(*map(node.pull, references))
    assert {tag for image in await node.runtime.images() for tag in image.tags} == set(references)


# --- cancelled, late, restarted --------------------------------------------------------------------------------------


@on_each_runtime
async def test_a_cancelled_pull_leaves_no_image(node: Node) -> None:
    reference = node.push("shop/big:1", BIG)
    await node.cancel_half_way(reference, BIG)
    assert await node.runtime.image(reference) is None
    assert await node.runtime.images() == []


@on_each_runtime_with_a_registry
async def test_a_cancelled_pull_stops_asking_the_registry(node: RegistryNode) -> None:
    await node.cancel_half_way(node.push("shop/big:1", BIG), BIG)
    layer = f"/v2/shop/big/blobs/{digest_of(BIG.blobs[1])}"
    await eventually(lambda: any(each.path == layer for each in node.requests), what="the download ends")
    assert sum(each.bytes for each in node.requests if each.path == layer) < len(BIG.blobs[1])


@on_each_runtime
async def test_a_cancelled_pull_can_be_repeated(node: Node) -> None:
    reference = node.push("shop/big:1", BIG)
    await node.cancel_half_way(reference, BIG)
    node.resume(reference)
    assert await node.pull(reference) == node.id_of(BIG)


@on_each_runtime
async def test_a_pull_that_takes_too_long_is_a_timeout(node: Node) -> None:
    reference = node.push("shop/big:1", BIG)
    node.stall(reference)
    assert (await node.failure(reference, seconds=0.5)).reason == "Timeout"
    assert await node.runtime.images() == []


@on_each_runtime
async def test_a_pull_that_hangs_does_not_delay_another(node: Node) -> None:
    reference = node.push("shop/big:1", BIG)
    node.stall(reference)
    pull = asyncio.create_task(node.pull(reference), name="hanging pull")
    await node.half_sent(reference, BIG)
    assert await node.pull(node.push("shop/app:1", APP)) == node.id_of(APP)
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull


@on_each_runtime_with_a_registry
async def test_a_restarted_runtime_still_has_its_images(node: RegistryNode) -> None:
    await node.pull(node.push("shop/app:1", INDEX))
    before = await node.runtime.images()
    await node.restarted()
    assert await node.runtime.images() == before


@on_each_runtime_with_a_registry
async def test_a_runtime_restarted_during_a_pull_pulls_the_image_afterwards(node: RegistryNode) -> None:
    reference = node.push("shop/big:1", BIG)
    node.stall(reference)
    pull = asyncio.create_task(node.pull(reference), name="interrupted pull")
    await node.half_sent(reference, BIG)
    await node.restarted()
    with pytest.raises((PullFailed, RuntimeUnreachable)):
        await pull
    assert await node.runtime.images() == []
    node.resume(reference)
    assert await node.pull(reference) == node.id_of(BIG)


@on_each_runtime
async def test_a_stopped_runtime_is_unreachable_and_named(node: Node) -> None:
    await node.stop()
    # The connection that was open may break with the first call only.
    with pytest.raises(RuntimeUnreachable, match=re.escape(node.endpoint)):
        await node.runtime.version()
    pull, remove = partial(node.pull, "127.0.0.1:1/a:1"), partial(node.runtime.remove, "a")
    calls: list[Callable[[], Awaitable[object]]] = [node.runtime.images, node.runtime.version, pull, remove]
    for call in calls:
        with pytest.raises(RuntimeUnreachable, match=rf"{re.escape(node.endpoint)}: (no socket|nobody)"):
            await call()


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["app:2", "none:1"], ids=["tag", "repository"])
@on_each_runtime
async def test_a_missing_tag_or_repository_is_not_found(node: Node, name: str) -> None:
    node.push("shop/app:1", APP)
    assert (await node.failure(f"{node.host}/shop/{name}")).reason == "NotFound"


@on_each_runtime_with_a_registry
async def test_a_missing_digest_is_not_found(node: RegistryNode) -> None:
    node.push("shop/app:1", APP)
    assert (await node.failure(f"{node.host}/shop/app@{ABSENT}")).reason == "NotFound"


@on_each_runtime_with_a_registry
async def test_a_missing_layer_is_not_found_and_leaves_no_image(node: RegistryNode) -> None:
    reference = node.push("shop/app:1", APP)
    _blob(node, APP.blobs[2]).unlink()
    assert (await node.failure(reference)).reason == "NotFound"
    assert await node.runtime.images() == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(PRIVATE, "Unauthorized", id="no credentials"),
        pytest.param(Answer(status=403), "Unauthorized", id="forbidden"),
        pytest.param(Answer(status=429), "RateLimited", id="too many requests"),
        pytest.param(Answer(status=503), "Network", id="unavailable"),
    ],
)
@on_each_runtime_with_a_registry
async def test_a_refusal_of_the_registry_has_its_reason(node: RegistryNode, answer: Answer, reason: str) -> None:
    reference = node.push("shop/app:1", APP)
    node.answer(reference, answer)
    assert (await node.failure(reference)).reason == reason


@on_each_runtime_with_a_registry
async def test_a_private_image_with_wrong_credentials_is_unauthorized_and_the_message_keeps_them(
    node: RegistryNode,
) -> None:
    reference = node.push("shop/app:1", APP)
    node.answer(reference, PRIVATE)
    wrong = Credentials(node.host, "puller", "wrong-pass")
    with pytest.raises(PullFailed) as caught:
        await node.runtime.pull(reference, timeout_seconds=30, credentials=wrong)
    assert caught.value.reason == "Unauthorized"
    assert "wrong-pass" not in str(caught.value)


@on_each_runtime_with_a_registry
async def test_a_private_image_is_pulled_with_the_credentials_of_its_host(node: RegistryNode) -> None:
    reference = node.push("shop/app:1", APP)
    node.answer(reference, PRIVATE)
    right = Credentials(node.host, "puller", "right-pass")
    assert await node.runtime.pull(reference, timeout_seconds=30, credentials=right) == node.id_of(APP)


@on_each_runtime_with_a_registry
async def test_credentials_of_another_host_are_not_sent(node: RegistryNode) -> None:
    reference = node.push("shop/app:1", APP)
    node.answer(reference, PRIVATE)
    other = Credentials("registry.example.com", "puller", "right-pass")
    with pytest.raises(PullFailed) as caught:
        await node.runtime.pull(reference, timeout_seconds=30, credentials=other)
    assert caught.value.reason == "Unauthorized"


@on_each_runtime_with_a_registry
async def test_a_registry_that_is_down_is_a_network_failure_that_names_it(node: RegistryNode) -> None:
    host = f"127.0.0.1:{free_port()}"
    failure = await node.failure(f"{host}/shop/app:1")
    assert failure.reason == "Network"
    assert host in failure.message


@pytest.mark.containerd  # the machine's resolver may be slow
@on_each_runtime_with_a_registry
async def test_a_host_that_does_not_exist_is_a_network_failure(node: Node) -> None:
    assert (await node.failure("registry.invalid/shop/app:1", seconds=80)).reason == "Network"


@on_each_runtime_with_a_registry
async def test_a_corrupt_layer_is_refused_and_leaves_no_image(node: RegistryNode) -> None:
    reference = node.push("shop/app:1", APP)
    layer = _blob(node, APP.blobs[1])
    layer.write_bytes(layer.read_bytes()[:-1] + b"X")
    failure = await node.failure(reference)
    assert failure.reason == "RuntimeError"
    assert "unexpected commit digest" in failure.message
    assert await node.runtime.images() == []


@on_each_runtime_with_a_registry
async def test_a_corrupt_config_is_refused(node: RegistryNode) -> None:
    reference = node.push("shop/app:1", APP)
    _blob(node, APP.blobs[0]).write_bytes(b"x" * len(APP.blobs[0]))
    assert (await node.failure(reference)).reason == "RuntimeError"


@on_each_runtime_with_a_registry
async def test_a_layer_cut_short_is_a_network_failure_and_heals(node: RegistryNode) -> None:
    reference = node.push("shop/cut:1", CUT)
    layer = _blob(node, CUT.blobs[1])
    layer.write_bytes(CUT.blobs[1][:5000])
    assert (await node.failure(reference)).reason == "Network"
    layer.write_bytes(CUT.blobs[1])
    assert await node.pull(reference) == node.id_of(CUT)


@pytest.mark.parametrize("kind_of_artifact", ["helm", "signature", "attestation"])
@on_each_runtime
async def test_an_artifact_is_not_runnable(
    node: Node, kind_of_artifact: Literal["helm", "signature", "attestation"]
) -> None:
    """containerd 1.6 refuses to unpack it; later versions pull it like an image and show what it lacks to be one.

    Both list it by its tag afterwards, the former without a digest.
    """
    reference = node.push("shop/app:artifact", build_artifact(kind_of_artifact))
    failure = None
    try:
        await node.pull(reference)
    except PullFailed as error:
        failure = error.reason
    image = await node.only_image()
    config = await node.runtime.config(image.id)
    assert config
    if failure:
        assert image.digests == ()
    else:
        found = unusable(config, Platform("linux", "amd64"))
        assert found
        assert len(image.digests) == 1
        failure = found.reason
    assert failure == "NotRunnable"
    assert image.tags == (reference,)


@pytest.mark.containerd  # as root only: mounting a small disk
@pytest.mark.parametrize("kind", ["embedded", "containerd"])
def test_a_full_disk_is_told_from_other_failures(kind: str, site: Site) -> None:
    async def run() -> None:
        async with small_disk(megabytes=20) as disk, open_node(kind, site, parent=disk) as node:
            failure = await node.failure(node.push("shop/huge:1", incompressible_image(30, "huge")))
            assert failure.reason == "DiskFull"
            assert await node.runtime.images() == []

    site.runner.run(asyncio.wait_for(run(), 60))


@on_each_runtime
async def test_a_malformed_reference_fails_and_says_so(node: Node) -> None:
    failure = await node.failure("NO/!!reference")
    assert failure.reason == "RuntimeError"
    assert "invalid reference format" in failure.message


@on_each_runtime_with_a_registry
async def test_an_ipv6_host_in_brackets_is_asked_or_the_reference_is_refused(node: RegistryNode) -> None:
    """containerd 1.6 knows no such hosts, 1.7 and later do."""
    failure = await node.failure(f"[::1]:{free_port()}/shop/app:1")
    assert failure.reason == "Network" or "invalid reference format" in failure.message


# --- the node --------------------------------------------------------------------------------------------------------


@on_each_runtime
async def test_the_version_is_a_name_and_a_number(node: Node) -> None:
    name, number = (await node.runtime.version()).split(" ")
    assert name
    assert number[0].isdigit()


@on_each_runtime
async def test_the_image_file_system_is_where_the_runtime_keeps_its_content(node: Node) -> None:
    await node.pull(node.push("shop/app:1", APP))
    (filesystem,) = await node.runtime.filesystems()
    assert filesystem.mountpoint.startswith(node.content)
    assert filesystem.used_bytes >= 0


def _blob(node: RegistryNode, content: bytes) -> Path:
    path = node.folder.blob(digest_of(content))
    assert path is not None
    return path
