"""A node fetches exactly the blobs that containerd would, or leaves the image to it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devcluster.registry.images import Image, build_artifact, build_image, build_index
from warmhook.image_blobs import LAYERS_MAX, Blob, ImageManifest, LeaveToRuntime, chain_ids, read_image, root_ref
from warmhook.platforms import Platform

AMD64 = Platform("linux", "amd64")
DIGEST = "sha256:" + "a" * 64


def index(*platforms: dict[str, Any]) -> bytes:
    """An index with a manifest for each; their digests end with their number."""
    kind = "application/vnd.oci.image.manifest.v1+json"
    entries = [
        {"mediaType": kind, "digest": f"sha256:{number:064x}", "size": 500, "platform": platform}
        for number, platform in enumerate(platforms)
    ]
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def chosen(body: bytes, node: Platform = AMD64) -> int:
    """The number of the manifest for that node."""
    found = read_image(body, node)
    assert isinstance(found, Blob)
    return int(found.digest.removeprefix("sha256:"), 16)


def edited(image: Image, **fields: Any) -> bytes:
    return json.dumps(json.loads(image.manifest) | fields).encode()


def layer(**fields: Any) -> dict[str, Any]:
    return {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": DIGEST, "size": 1} | fields


@pytest.mark.parametrize("docker", [False, True])
def test_the_blobs_of_an_image_are_named_as_containerd_names_their_downloads(docker: bool) -> None:
    image = build_image(b"one", b"two", docker=docker)
    found = read_image(image.manifest, AMD64)
    digests = ["sha256:" + hashlib.sha256(blob).hexdigest() for blob in image.blobs]
    refs = [f"config-{digests[0]}", f"layer-{digests[1]}", f"layer-{digests[2]}"]
    assert isinstance(found, ImageManifest)
    blobs = (found.config, *found.layers)
    assert [(blob.digest, blob.size_bytes, blob.ref) for blob in blobs] == list(
        zip(digests, map(len, image.blobs), refs, strict=True)
    )
    assert root_ref(image.manifest, image.digest) == f"manifest-{image.digest}"


@pytest.mark.parametrize("docker", [False, True])
def test_an_index_names_the_manifest_for_the_node(docker: bool) -> None:
    images = [build_image(b"x", platform=platform, docker=docker) for platform in ("linux/arm64", "linux/amd64")]
    body = build_index(images, attestation=True, docker=docker)
    found = read_image(body.manifest, AMD64)
    assert isinstance(found, Blob)
    assert found == Blob(images[1].digest, len(images[1].manifest), f"manifest-{images[1].digest}")
    assert root_ref(body.manifest, body.digest) == f"index-{body.digest}"


@pytest.mark.parametrize(
    ("platforms", "node", "number"),
    [
        (["amd64/", "amd64/"], "amd64", 0),
        (["amd64/v3", "amd64/v1", "amd64/"], "amd64", 1),
        (["386/", "amd64/"], "amd64", 1),
        (["arm64/v9", "arm64/v8"], "arm64", 1),
        (["arm/v7", "arm64/"], "arm64", 1),
        (["s390x/"], "s390x", 0),
    ],
)
def test_of_several_manifests_the_one_is_chosen_that_containerd_chooses(
    platforms: list[str], node: str, number: int
) -> None:
    written = [text.partition("/") for text in platforms]
    body = index(*({"os": "linux", "architecture": machine, "variant": variant} for machine, _, variant in written))
    assert chosen(body, Platform("linux", node)) == number


@pytest.mark.parametrize(
    ("body", "node"),
    [
        (index({"os": "linux", "architecture": "386"}), "amd64"),
        (index({"os": "linux", "architecture": "arm", "variant": "v7"}), "arm"),
        (index({"os": "linux", "architecture": "amd64", "variant": "v3"}), "amd64"),
        (index({"os": "linux", "architecture": "amd64", "os.features": ["x"]}), "amd64"),
        (index({"os": "windows", "architecture": "amd64"}), "amd64"),
        (index({"os": "linux", "architecture": "amd64", "variant": []}), "amd64"),
        (index({"os": [], "architecture": {}}), "amd64"),
        (index(), "amd64"),
        (json.dumps({"manifests": [{"digest": DIGEST}]}).encode(), "amd64"),
        (json.dumps({"manifests": [None, 1, "x"]}).encode(), "amd64"),
    ],
)
def test_an_index_that_is_not_certain_is_left_to_the_runtime(body: bytes, node: str) -> None:
    with pytest.raises(LeaveToRuntime):
        read_image(body, Platform("linux", node))


@pytest.mark.parametrize(
    "fields",
    [
        {"layers": [layer(urls=["https://example.com/layer"])]},
        {"layers": [layer(mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]},
        {"layers": [layer(mediaType="application/vnd.in-toto+json")]},
        {"layers": [layer(digest="sha512:" + "a" * 128)]},
        {"layers": [layer(digest="sha256:../../etc")]},
        {"layers": [layer(size=-1)]},
        {"layers": [layer(size=2**60)]},
        {"layers": [layer(size=True)]},
        {"layers": [layer(size="1")]},
        {"layers": [layer()] * (LAYERS_MAX + 1)},
        {"layers": [layer(mediaType=[])]},
        {"layers": [layer(digest={})]},
        {"layers": ["x"]},
        {"layers": {}},
        {"config": None},
        {"config": layer(mediaType="application/vnd.cncf.helm.config.v1+json")},
        {"config": layer(mediaType="application/vnd.oci.image.config.v1+json", size=2**30)},
        {"manifests": []},
        {"mediaType": "application/vnd.oci.image.index.v1+json"},
        {"mediaType": ["x"]},
        {"mediaType": "text/plain"},
    ],
)
def test_an_unusual_manifest_is_left_to_the_runtime(fields: dict[str, Any]) -> None:
    with pytest.raises(LeaveToRuntime):
        read_image(edited(build_image(b"x"), **fields), AMD64)


def test_an_artifact_is_left_to_the_runtime() -> None:
    with pytest.raises(LeaveToRuntime):
        read_image(build_artifact("helm").manifest, AMD64)


@given(st.binary() | st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_hostile_content_is_left_to_the_runtime(content: object) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    for read in (lambda: read_image(body, AMD64), lambda: root_ref(body, DIGEST)):
        with pytest.raises(LeaveToRuntime):
            read()
    assert chain_ids(body, 1) == ()


def test_the_names_of_snapshots_follow_from_the_layers_below() -> None:
    image = build_image(b"one", b"two", b"three")
    diffs = json.loads(image.blobs[0])["rootfs"]["diff_ids"]
    first, second, third = chain_ids(image.blobs[0], 3)
    assert first == diffs[0]
    assert second == "sha256:" + hashlib.sha256(f"{diffs[0]} {diffs[1]}".encode()).hexdigest()
    assert third == "sha256:" + hashlib.sha256(f"{second} {diffs[2]}".encode()).hexdigest()


def test_snapshots_are_not_known_if_the_configuration_has_another_number_of_layers() -> None:
    assert chain_ids(build_image(b"one", b"two").blobs[0], 3) == ()
