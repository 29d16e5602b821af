"""What a manifest says about an image: where it runs, how large it is, and whether it runs at all."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devcluster.registry.images import build_artifact, build_image, build_index
from warmhook.images import is_digest
from warmhook.manifests import (
    BODY_MAX,
    CHILDREN_MAX,
    MANIFEST_TYPES,
    PLATFORMS_MAX,
    Child,
    Index,
    Manifest,
    Resolved,
    children_to_read,
    read_manifest,
    read_platform,
    resolved_index,
    resolved_manifest,
)
from warmhook.platforms import Platform

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def manifest(*layers: Any, config: str = CONFIG, **more: Any) -> Manifest | Index | None:
    listed = [layer if isinstance(layer, dict) else {"mediaType": LAYER, "size": layer} for layer in layers]
    fields = {"schemaVersion": 2, "config": {"mediaType": config, "digest": digest("c")}, "layers": listed, **more}
    return read_manifest(json.dumps(fields).encode(), OCI)


def index(*entries: Any, **more: Any) -> Index:
    read = read_manifest(json.dumps({"manifests": entries, **more}).encode(), INDEX)
    assert isinstance(read, Index)
    return read


def entry(letter: str, platform: str = "", **more: Any) -> dict[str, Any]:
    os, _, architecture = platform.partition("/")
    given = {"platform": {"os": os, "architecture": architecture}} if platform else {}
    return {"mediaType": OCI, "digest": digest(letter), "size": 500, **given, **more}


def resolved(read: Index, **sizes: int) -> Resolved:
    known = {digest(letter): Manifest("", size) for letter, size in sizes.items()}
    return resolved_index(digest("0"), INDEX, read, known)


def test_the_size_of_an_image_is_that_of_its_compressed_layers() -> None:
    assert manifest(10, 20, 30) == Manifest(digest("c"), 60)


@pytest.mark.parametrize("size", [-1, "9", 1.5, True, None, 2**53])
def test_the_size_is_unknown_if_one_layer_has_none(size: Any) -> None:
    assert manifest(10, size) == Manifest(digest("c"), 0)


def test_the_size_is_unknown_if_there_are_too_many_layers() -> None:
    assert manifest(*[1] * 1001) == Manifest(digest("c"), 0)


@pytest.mark.parametrize("docker", [False, True], ids=["OCI", "Docker"])
def test_real_manifests_are_read(docker: bool) -> None:
    images = [build_image(b"a" * 100, platform="linux/amd64", docker=docker), build_image(b"b", platform="linux/arm64")]
    read = read_manifest(images[0].manifest, images[0].media_type)
    assert read == Manifest(images[0].config_digest, len(images[0].blobs[1]))
    assert read_platform(images[0].blobs[0]) == "linux/amd64"
    whole = build_index(images, attestation=True, docker=docker)
    both = tuple(Child(image.digest, image.platform) for image in images)
    assert read_manifest(whole.manifest, whole.media_type) == Index(both)


@pytest.mark.parametrize("kind", ["helm", "signature", "attestation"])
def test_real_artifacts_are_not_runnable(kind: Any) -> None:
    artifact = build_artifact(kind)
    read = read_manifest(artifact.manifest, artifact.media_type)
    assert isinstance(read, Manifest)
    assert not read.runnable


@pytest.mark.parametrize(
    ("read", "runnable"),
    [
        (manifest(1), True),
        (manifest(), True),
        (manifest(1, config="application/vnd.example.config.v1+json"), True),
        (manifest(1, artifactType="application/vnd.example.model"), True),
        (manifest({"mediaType": "application/vnd.example+json", "size": 1}), True),
        (manifest({"mediaType": "application/vnd.in-toto+json", "size": 1}, 1), True),
        (manifest({"mediaType": "application/vnd.in-toto+json", "size": 1}), False),
        (manifest({"mediaType": "application/wasm", "size": 1}, config="application/vnd.wasm.config.v0+json"), False),
        (manifest(1, config=EMPTY, artifactType="application/vnd.example.model"), False),
        (manifest(1, config="application/vnd.CNCF.helm.config.v1+json"), False),
        (manifest(1, artifactType="application/spdx+json"), False),
    ],
)
def test_what_is_not_known_to_be_something_else_is_runnable(read: Manifest, runnable: bool) -> None:
    assert read.runnable == runnable


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/json",
        "text/html",
        "",
    ],
)
def test_a_manifest_of_another_kind_is_not_read(media_type: str) -> None:
    assert read_manifest(b'{"config": {}, "layers": []}', media_type) is None


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b'{"config": {}, "layers": [], "manifests": []}', OCI),
        (b'{"config": {}, "layers": [], "manifests": []}', INDEX),
        (b'{"config": {}, "layers": [], "mediaType": "%s"}' % INDEX.encode(), OCI),
        (b'{"layers": []}', OCI),
        (b'{"config": {}}', OCI),
        (b"[]", OCI),
        (b"null", INDEX),
        (b"\xff", INDEX),
        (b"[" * 100_000, INDEX),
        (b'{"size": %s}' % (b"9" * 5000), INDEX),
    ],
)
def test_a_body_that_is_not_what_the_registry_calls_it_is_not_read(body: bytes, media_type: str) -> None:
    assert read_manifest(body, media_type) is None


def test_parameters_of_a_media_type_do_not_matter() -> None:
    assert read_manifest(b'{"manifests": []}', f"{INDEX.upper()}; charset=utf-8") == Index()


def test_attestations_are_no_platforms() -> None:
    marked = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
    read = index(entry("a", "linux/amd64"), entry("b", "unknown/unknown"), entry("d", "linux/s390x", **marked))
    assert resolved(read).platforms == ("linux/amd64",)


def test_an_index_of_attestations_only_is_not_runnable() -> None:
    assert not resolved(index(entry("a", "unknown/unknown"))).runnable


def test_an_empty_index_is_runnable_because_nothing_is_known() -> None:
    assert resolved(index()) == Resolved(digest("0"), INDEX)


@pytest.mark.parametrize(
    "unknown",
    [entry("b"), entry("b", "linux/"), entry("b", "../x"), entry("b", "linux/" + "x" * 99), {"digest": "?"}, 7],
)
def test_one_image_of_unknown_platform_makes_the_platforms_unknown(unknown: Any) -> None:
    assert resolved(index(entry("a", "linux/amd64"), unknown)).platforms == ()


def test_an_index_in_an_index_makes_the_platforms_unknown() -> None:
    assert resolved(index(entry("a", "linux/amd64", mediaType=INDEX))).platforms == ()


def test_too_many_platforms_are_unknown_platforms() -> None:
    many = [entry("a", f"linux/arch{number}") for number in range(PLATFORMS_MAX + 1)]
    assert resolved(index(*many[:-1])).platforms != ()
    assert resolved(index(*many)).platforms == ()


def test_the_size_of_an_index_is_that_of_its_largest_linux_image() -> None:
    read = index(entry("a", "linux/amd64"), entry("b", "linux/arm64"), entry("d", "windows/amd64"))
    assert resolved(read, a=10, b=30, d=900).size_bytes == 30


def test_platforms_that_are_not_runnable_do_not_count() -> None:
    read = index(entry("a", "linux/amd64"), entry("b", "wasi/wasm"))
    known = {digest("a"): Manifest("", 1), digest("b"): Manifest("", 1, runnable=False)}
    assert resolved_index(digest("0"), INDEX, read, known).platforms == ("linux/amd64",)
    none = {child.digest: Manifest("", 1, runnable=False) for child in read.children}
    assert not resolved_index(digest("0"), INDEX, read, none).runnable


def test_few_children_of_an_index_are_read_and_the_common_ones_first() -> None:
    platforms = ("windows/amd64", "linux/s390x", "linux/arm64", "linux/riscv64", "linux/amd64", "linux/ppc64le")
    read = index(*(entry(letter, platform) for letter, platform in zip("abcdef", platforms, strict=True)))
    chosen = [child.platform for child in children_to_read(read)]
    assert chosen[:2] == ["linux/amd64", "linux/arm64"]
    assert len(chosen) == CHILDREN_MAX
    assert "windows/amd64" not in chosen


@pytest.mark.parametrize(
    ("platforms", "node", "lacks"),
    [
        ((), AMD64, False),
        (("linux/amd64",), AMD64, False),
        (("linux/amd64",), ARM64, True),
        (("linux/arm/v7",), ARM64, False),
        (("linux/386",), AMD64, False),
        (("windows/amd64",), AMD64, True),
        (("linux/amd64",), Platform(), False),
        (("linux/amd64",), Platform("", "arm64"), True),
        (("linux/amd64",), Platform("windows", ""), True),
    ],
)
def test_a_node_without_labels_is_never_said_to_be_lacking(
    platforms: tuple[str, ...], node: Platform, lacks: bool
) -> None:
    assert Resolved(digest("0"), INDEX, platforms).lacks(node) == lacks


def test_a_single_image_has_the_platform_of_its_configuration() -> None:
    config = b'{"os": "Linux", "architecture": "arm", "variant": "v7", "config": {}}'
    assert read_platform(config) == "linux/arm/v7"
    assert resolved_manifest(digest("0"), OCI, Manifest("", 5), "linux/arm/v7").platforms == ("linux/arm/v7",)


@pytest.mark.parametrize("config", [b"", b"[]", b"{}", b'{"os": 1}', b'{"os": "linux"}', b"\xff", b"{" * 99_999])
def test_a_configuration_without_a_platform_tells_none(config: bytes) -> None:
    assert read_platform(config) == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
words = st.sampled_from(["linux", "windows", "unknown", "amd64", "arm64", ""]) | st.text(max_size=8)
descriptors = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": st.sampled_from([LAYER, INDEX, OCI, EMPTY]) | json_values,
        "digest": st.sampled_from([digest("a"), digest("b")]) | json_values,
        "size": st.integers() | json_values,
        "platform": st.fixed_dictionaries({"os": words, "architecture": words}) | json_values,
        "annotations": json_values,
    },
)
entries = st.lists(descriptors | json_values, max_size=8)


@given(
    fields=st.fixed_dictionaries(
        {},
        optional={"manifests": entries, "layers": entries, "config": descriptors, "artifactType": json_values},
    ),
    media_type=st.sampled_from(sorted(MANIFEST_TYPES)),
)
def test_whatever_a_registry_answers_is_read_within_bounds(fields: Any, media_type: str) -> None:
    read = read_manifest(json.dumps(fields).encode(), media_type)
    match read:
        case Manifest():
            found = resolved_manifest(digest("0"), media_type, read, "")
        case Index():
            known = {child.digest: Manifest("", 7) for child in children_to_read(read)}
            assert all(map(is_digest, known))
            found = resolved_index(digest("0"), media_type, read, known)
        case None:
            return
    assert 0 <= found.size_bytes < 2**53
    assert len(found.platforms) <= PLATFORMS_MAX
    assert list(found.platforms) == sorted(set(found.platforms))
    assert all(platform != "unknown/unknown" and len(platform) < 99 for platform in found.platforms)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_json_are_no_manifest(body: bytes) -> None:
    assert read_manifest(body, OCI) is None or body.lstrip().startswith(b"{")


def test_the_largest_body_that_is_read_holds_every_real_index() -> None:
    many = [entry("a", f"linux/arch{number % 1000}") for number in range(10_000)]
    body = json.dumps({"manifests": many}).encode()
    assert len(body) < BODY_MAX
    assert read_manifest(body, INDEX) is not None


@pytest.mark.parametrize("part", [b"{},", b"[],", b"[[[]]],"])
def test_a_body_of_very_many_values_is_not_read(part: bytes) -> None:
    body = b'{"manifests":[' + part * (BODY_MAX // len(part)) + b"{}]}"
    tracemalloc.start()
    try:
        assert read_manifest(body, INDEX) is None
        assert read_platform(body) == ""
        assert tracemalloc.get_traced_memory()[1] < BODY_MAX
    finally:
        tracemalloc.stop()
