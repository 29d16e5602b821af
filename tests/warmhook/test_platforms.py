"""Which images run on which nodes, and what keeps the others from running."""

from __future__ import annotations

import pytest

from warmhook.platforms import Platform, platform_of, runs_on
from warmhook.ports import ImageConfig
from warmhook.presence import unusable

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


@pytest.mark.parametrize(
    ("system", "machine", "named"),
    [
        ("Linux", "x86_64", "linux/amd64"),
        ("Linux", "aarch64", "linux/arm64"),
        ("Darwin", "arm64", "darwin/arm64"),
        ("Linux", "armv7l", "linux/arm"),
        ("Linux", "i686", "linux/386"),
        ("Linux", "riscv64", "linux/riscv64"),
        ("linux", "amd64", "linux/amd64"),
        ("Linux", "", "linux/?"),
        ("unknown", "unknown", "?/?"),
    ],
)
def test_a_platform_has_the_names_of_the_image_specification(system: str, machine: str, named: str) -> None:
    assert str(platform_of(system, machine)) == named


@pytest.mark.parametrize(
    ("image", "node", "runs"),
    [
        (AMD64, AMD64, True),
        (ARM64, AMD64, False),
        (AMD64, ARM64, False),
        (Platform("windows", "amd64"), AMD64, False),
        # A 64-bit node also runs images of its 32-bit sibling, and not the other way round.
        (Platform("linux", "386"), AMD64, True),
        (Platform("linux", "arm"), ARM64, True),
        (ARM64, Platform("linux", "arm"), False),
        (Platform("linux", "arm"), AMD64, False),
        # Nobody said what it is for, or what the node is.
        (Platform("linux"), AMD64, True),
        (AMD64, Platform(), True),
        (ARM64, Platform("linux"), True),
    ],
)
def test_an_image_runs_on_nodes_of_its_platform(image: Platform, node: Platform, runs: bool) -> None:
    assert runs_on(image, node) == runs


@pytest.mark.parametrize("config", [ImageConfig(), ImageConfig(AMD64), ImageConfig(layers=1)])
def test_an_image_without_a_root_file_system_or_a_platform_is_not_runnable(config: ImageConfig) -> None:
    found = unusable(config, AMD64)
    assert found
    assert found.reason == "NotRunnable"


def test_an_image_of_another_platform_names_both() -> None:
    found = unusable(ImageConfig(ARM64, layers=1), AMD64)
    assert found
    assert (found.reason, found.message) == (
        "PlatformMissing",
        "the image is for linux/arm64, this node is linux/amd64",
    )


def test_an_image_with_layers_for_the_nodes_platform_is_usable() -> None:
    assert unusable(ImageConfig(AMD64, layers=1), AMD64) is None
