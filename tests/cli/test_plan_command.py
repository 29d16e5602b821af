"""`warmhook plan` and `warmhook doctor` as a user runs them, and what they say of files that cannot be read."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.kubernetes.nodes import disk_bytes, has_disk_pressure, listed_images
from cli.errors import Failed, Unusable
from cli.main import main
from cli.plan.manifest_files import read_manifests
from cli.plan.output import print_plan
from cli.plan.run import Outcome, Planned
from tests.support.apiserver import apiserver
from warmhook.checks import Check
from warmhook.warmimages import ObjectKey

POLICY = """
apiVersion: warmhook.dev/v1alpha1
kind: WarmPolicy
metadata: {name: shop, namespace: shop}
spec:
  images: [nginx:1.25]
"""


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("apiserver")
    with apiserver(folder):
        yield str(folder / "kubeconfig")


def write(folder: Path, text: str) -> str:
    file = folder / "policy.yaml"
    file.write_text(text)
    return str(file)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is no YAML: line 1, column 5"),
        ("a: 1\na: 2", "the key 'a' is given twice"),
        ("- 1", "a document is no object"),
        ("kind: Service", "no WarmPolicy and no WarmImage; is it the right file?"),
        ("", "no WarmPolicy and no WarmImage"),
        (POLICY.replace("v1alpha1", "v9"), "apiVersion 'warmhook.dev/v9' is not known"),
        (POLICY.replace("name: shop, ", ""), "WarmPolicy: metadata.name: is required"),
        (POLICY.replace("namespace: shop", "namespace: [1]"), "metadata.namespace: must be a string"),
        (POLICY.replace("{name: shop, namespace: shop}", "x"), "metadata.name: is required"),
        ("[\n" * 1200, "is nested too deeply"),
        (
            "a: &a [x, x]\n"
            + "".join(f"{n}: &{n} [{','.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefg", "bcdefgh", strict=True)),
            "has more than",
        ),
        ("!!python/object:os.system x", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_policy_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(Failed) as refused:
        read_manifests([write(tmp_path, text)], "default", given=False)
    assert words in refused.value.message
    assert "\n" not in refused.value.message


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Failed, match="is not UTF-8"):
        read_manifests([str(tmp_path / "x")], "default", given=False)


def test_a_namespace_on_the_command_line_must_be_that_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, POLICY)
    with pytest.raises(Unusable, match="is in namespace shop, and -n says other"):
        read_manifests([file], "other", given=True)
    (obj,) = read_manifests([file], "other", given=False).objects
    assert obj["metadata"]["namespace"] == "shop"


def test_objects_of_lists_and_of_several_files_are_read_from_a_pipe_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"apiVersion": "warmhook.dev/v1alpha1", "kind": "WarmImage", "metadata": {"name": "one"}}
    listed = {"kind": "List", "items": [one, {"kind": "Namespace", "metadata": {"name": "new"}}]}
    stdin = io.TextIOWrapper(io.BytesIO(json.dumps(listed).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    found = read_manifests(["-", write(tmp_path, POLICY)], "default", given=False)
    assert [obj["metadata"]["namespace"] for obj in found.objects] == ["default", "shop"]
    assert found.namespaces == {"new"}
    assert found.others == 1


# --- what is printed --------------------------------------------------------------------------------------------------


def test_sections_have_one_blank_line_between_them_and_none_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = Check("valid", "wrong", "spec.push: must be a list")
    planned = Planned("WarmPolicy", ObjectKey("shop", "shop"), "new", [wrong])
    print_plan(Outcome((planned, planned)), "table")
    one = ["WarmPolicy shop/shop: new", "wrong    valid  spec.push: must be a list"]
    assert capsys.readouterr().out.splitlines() == [*one, "", *one]


# --- what nodes say of their disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100Gi", 100 * 1024**3),
        ("104845292Ki", 104845292 * 1024),
        ("94513335214", 94513335214),
        ("1.5G", 1_500_000_000),
        ("3000m", 3),
        ("-1", 0),
        ("lots", 0),
        ("9" * 100, 0),
        (None, 0),
    ],
)
def test_the_size_of_a_disk_is_read_as_kubernetes_writes_it(text: str | None, size: int) -> None:
    assert disk_bytes({"status": {"capacity": {"ephemeral-storage": text}}}) == size


def test_a_node_without_a_status_has_no_disk_no_pressure_and_no_images() -> None:
    assert (disk_bytes({}), has_disk_pressure({}), listed_images({"status": None})) == (0, False, [])


# --- as processes of a user run them ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_exit_status_says_whether_a_plan_is_good(
    tmp_path: Path, kubeconfig: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    from adapters.kubernetes.client import Kubernetes
    from adapters.kubernetes.transport import open_transport
    from devcluster.install import install, register

    async def set_up() -> None:
        async with open_transport(kubeconfig) as transport:
            kubernetes = Kubernetes(transport)
            await install(kubernetes)
            await register(kubernetes, "node-1")

    asyncio.run(set_up())
    file = write(tmp_path, f"{{apiVersion: v1, kind: Namespace, metadata: {{name: shop}}}}\n---{POLICY}")
    options = ["--kubeconfig", kubeconfig]
    assert main(["plan", "-f", file, *options]) == 0
    assert "docker.io/library/nginx:1.25" in capsys.readouterr().out
    file = write(tmp_path, POLICY)
    assert main(["plan", "-f", file, *options, "-o", "json"]) == 1
    (shown,) = json.loads(capsys.readouterr().out)["objects"]
    assert {"NoNamespace"} == {each["reason"] for each in shown["checks"] if each["state"] == "wrong"}
    assert main(["plan", "-f", str(tmp_path / "nope"), *options]) == 2
    assert main(["plan", "-f", file, "-A", *options]) == 2
    assert main(["plan"]) == 2
    assert main(["doctor", *options, "-o", "yaml"]) == 1
    assert "reason: NoLeader" in capsys.readouterr().out
    assert main(["doctor", *options]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("20 checks: ")


@pytest.mark.slow
@pytest.mark.parametrize("command", [["doctor"], ["plan", "-f", "-"]])
def test_an_api_server_that_is_away_gives_one_line(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from devcluster.apiserver.__main__ import kubeconfig

    (tmp_path / "kubeconfig").write_text(kubeconfig(1))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(POLICY.encode())))
    assert main([*command, "--kubeconfig", str(tmp_path / "kubeconfig")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "kubectl cluster-info" in captured.err
