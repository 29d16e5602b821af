"""The parts of the repository agree with each other, and nothing foreign is in it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.crds import fields

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LOCKS = ("requirements.txt", "requirements-dev.txt")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    # A link to a folder is listed as a file; what it points to is listed by itself.
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_pins_every_package_with_hashes_and_names_no_index(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"https?://|--index|--extra-index|--find-links|--trusted-host", text)
    packages = re.split(r"\n(?=[a-z0-9])", text.strip(), flags=re.IGNORECASE)
    assert len(packages) > 20
    assert all("==" in package and "--hash=sha256:" in package for package in packages)


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_holds_every_dependency(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["programs"]]
    if "dev" in name:
        wanted += project["optional-dependencies"]["dev"]
    pinned = set(re.findall(r"^([A-Za-z0-9_.-]+)==", (ROOT / name).read_text(), flags=re.MULTILINE))
    names = {re.split(r"[\[>=<~!]", requirement)[0].lower() for requirement in wanted}
    assert names <= {package.lower() for package in pinned}


def test_every_setting_that_a_program_reads_is_in_the_readme() -> None:
    sources = [path.read_text() for path in tracked("handlers/*.py", "nodeagent/*.py")]
    reader = re.compile(r"(?:text|number|choice|flag)\(\s*environ,\s*\"([A-Z_]+)\"|environ\.get\(\"([A-Z_]+)\"")
    read = {one or other for source in sources for one, other in reader.findall(source)}
    assert len(read) > 10
    assert {name for name in read if f"`{name}`" not in README} == set()


def test_every_setting_in_the_readme_is_read_by_a_program() -> None:
    sources = "".join(path.read_text() for path in tracked("handlers/*.py", "nodeagent/*.py"))
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", README, flags=re.MULTILINE))
    assert {name for name in documented if f'"{name}"' not in sources} == set()


def test_every_field_of_a_policy_is_in_the_table_of_the_readme() -> None:
    from adapters.kubernetes.warmpolicy import warmpolicy_crd

    rows = re.findall(r"^\| (`[^|]+`) \|", README.partition("## Configuration")[0], flags=re.MULTILINE)
    named = set(re.findall(r"\w+", " ".join(rows)))
    # What these hold is as in all Kubernetes APIs, or in the text of the row.
    shapes = re.compile(r"(selector|affinity|tolerations|runningPods|seedNodes|refreshWindows)(\[\])?\.")
    paths = {path.removesuffix("[]") for path, _ in fields(warmpolicy_crd()) if path.startswith("spec.")}
    leaves = {path for path in paths if not shapes.search(path) and not any(p.startswith(f"{path}.") for p in paths)}
    assert len(leaves) > 20
    # For a WarmImage that no policy made, below the table.
    assert {path for path in leaves if path.rpartition(".")[2] not in named} == {
        "spec.template.lifetime.ttlSecondsAfterFinished"
    }


def test_the_policies_in_the_readme_are_policies() -> None:
    from adapters.kubernetes.warmpolicy import read_warmpolicy

    examples = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)]
    policies = [example for example in examples if example.get("kind") == "WarmPolicy"]
    assert policies
    for policy in policies:
        assert read_warmpolicy(policy).push


def test_the_three_programs_are_in_the_procfile() -> None:
    commands = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert commands == {
        "web": "python -m handlers --watch",
        "watch": "python -m handlers.watch",
        "agent": "python -m nodeagent",
    }


def test_no_file_names_this_machine_or_a_package_index() -> None:
    hosts = re.compile(r"pypi\.(?:org|python)|files\.python" + "hosted")
    # The chart reads the manifests through links to their folders.
    for path in (path for path in tracked() if path.is_file()):
        text = path.read_text(errors="replace")
        assert str(ROOT) not in text, path
        assert path == Path(__file__) or not hosts.search(text), path


def test_decisions_are_in_order_and_those_that_are_referred_to_exist() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text()
    numbers = [int(number) for number in re.findall(r"^## (\d+)\. ", text, flags=re.MULTILINE)]
    assert numbers == sorted(set(numbers))
    assert {int(number) for number in re.findall(r"\b(?:[Ee]ntry|see) (\d+)", text)} <= set(numbers)


def test_no_file_is_longer_than_a_reader_has_patience() -> None:
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in tracked("*.py")}
    assert {name: count for name, count in lines.items() if count > 450 and not name.startswith("tests/")} == {}


def test_every_module_begins_with_a_statement() -> None:
    openings = {path: path.read_text().partition("\n")[0] for path in tracked("*.py")}
    assert [path for path, line in openings.items() if line.startswith('"""') and "?" in line] == []


def test_the_demo_and_its_set_up_echo_no_command() -> None:
    recipes = re.split(r"\n(?=[^\s#])", (ROOT / "Makefile").read_text())
    (setup,) = [each for each in recipes if each.startswith("$(READY):")]
    (demo,) = [each for each in recipes if each.startswith("demo:")]
    commands = re.findall(r"^\t(.*)", f"{setup}\n{demo}", flags=re.MULTILINE)
    assert len(commands) > 5
    assert all(command.startswith("@") for command in commands)
