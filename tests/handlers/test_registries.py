"""The section `registries` says who is asked and how; a part that would not do what it says is refused at start."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.env import BadSetting
from adapters.registry_settings import Mirror
from handlers.configuration import read_configuration
from handlers.registries import RegistryHosts

SOURCES = """
sources:
- {name: a, kind: harbor, insecure: true, registryHost: Harbor.example.com}
- {name: b, kind: harbor, insecure: true, allowedHosts: [index.docker.io, "127.0.0.1:5000"]}
"""


def read(tmp_path: Path, text: str) -> RegistryHosts:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return read_configuration(str(path), {"PASSWORD": "geheim"}).registries


def problem(tmp_path: Path, entry: str) -> str:
    """What is wrong with an entry; empty if nothing is."""
    try:
        read(tmp_path, f"registries: [{entry}]")
    except BadSetting as error:
        return str(error).removeprefix(f"{tmp_path / 'config.yaml'}: ")
    return ""


def test_without_a_configuration_no_registry_is_asked(tmp_path: Path) -> None:
    assert read(tmp_path, "") == {}


def test_hosts_of_sources_are_asked_except_those_near_this_machine(tmp_path: Path) -> None:
    found = read(tmp_path, SOURCES)
    assert set(found) == {"harbor.example.com", "docker.io"}
    assert not any(settings.endpoint.plain_http or settings.endpoint.login() for settings in found.values())


def test_an_entry_says_how_the_host_of_a_source_is_asked(tmp_path: Path) -> None:
    found = read(
        tmp_path, SOURCES + 'registries: [{host: "127.0.0.1:5000", plainHttp: true}, {host: harbor.example.com}]'
    )
    assert found["127.0.0.1:5000"].endpoint.plain_http
    assert set(found) == {"127.0.0.1:5000", "harbor.example.com", "docker.io"}


def test_mirrors_are_hosts_with_or_without_a_path(tmp_path: Path) -> None:
    mirrors = "[Mirror.example.com, mirror.example.com/hub/proxy]"
    found = read(tmp_path, f"registries: [{{host: registry-1.docker.io, mirrors: {mirrors}}}]")
    assert found["docker.io"].mirrors == (Mirror("mirror.example.com"), Mirror("mirror.example.com", "hub/proxy/"))


def test_a_password_is_read_again_for_each_use(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("old\n")
    entry = f"{{host: a.example, username: bob, password: {{file: {file}}}}}"
    login = read(tmp_path, f"registries: [{entry}]")["a.example"].endpoint.login
    assert login() == ("bob", "old")
    file.write_text("new")
    assert login() == ("bob", "new")


def test_a_process_without_handlers_needs_no_passwords_and_one_without_webhooks_no_secrets(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    missing = "{file: /nowhere/secret}"
    path.write_text(
        f"sources: [{{name: a, kind: harbor, registryHost: a.example, secret: {missing}}}]\n"
        f"registries: [{{host: b.example, username: bob, password: {missing}}}]\n"
    )
    assert read_configuration(str(path), {}, serve={"metrics"}).registries
    with pytest.raises(BadSetting, match=r"sources\[0\] \(a\): secret.file: cannot read /nowhere/secret"):
        read_configuration(str(path), {}, serve={"webhooks"})
    with pytest.raises(BadSetting, match=r"registries\[0\] \(b.example\): password.file: cannot read /nowhere/secret"):
        read_configuration(str(path), {}, serve={"events"})


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{}", "registries[0].host: missing"),
        ("{host: shop}", "registries[0] (shop): host: 'shop' is no registry host"),
        ("{host: https://a.example}", "host: 'https://a.example' is no registry host"),
        ("{host: a.example, plainhttp: true}", "registries[0].plainhttp: no such key; did you mean plainHttp?"),
        ("{host: a.example, username: bob}", "password: a username and a password belong together"),
        ("{host: a.example, password: {env: PASSWORD}}", "password: a username and a password belong together"),
        ("{host: a.example, username: bob, password: geheim}", "must be {file: PATH} or {env: NAME}, never the"),
        ("{host: a.example, username: bob, password: {}}", "password: give either file or env"),
        ("{host: a.example, username: bob, password: {env: NOPE}}", "password.env: NOPE is not set, or empty"),
        ("{host: a.example, caFile: /nowhere/ca}", "caFile: cannot read /nowhere/ca: No such file or directory"),
        ("{host: a.example, caFile: /dev/null}", "caFile: /dev/null has no certificate in PEM form"),
        ("{host: a.example, plainHttp: true, caFile: /dev/null}", "caFile: not used with plainHttp"),
        ("{host: a.example, mirrors: [mirror]}", "mirrors: 'mirror' is no registry host"),
        ("{host: a.example, mirrors: ['m.example/a:1']}", "mirrors: 'm.example/a:1': must be a host, or a host and a"),
        ("{host: a.example, mirrors: ['m.example/../x']}", "is no repository"),
        ("{host: a.example}, {host: A.example}", "registries[1].host: 'A.example' is there twice"),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused(tmp_path: Path, entry: str, expected: str) -> None:
    assert expected in problem(tmp_path, entry)
    assert "geheim" not in problem(tmp_path, entry)
