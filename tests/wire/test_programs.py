"""The programs end, and the command prints, as recorded in `recordings/`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.adapters.registries.cases import FOLDER, read_cases
from tests.wire.faces import run_program
from tests.wire.recording import check

OF_ALL = {
    "WARMHOOK_NAMESPACE": ("Not A Namespace",),
    "WARMHOOK_LOG": ("xml",),
    "KUBECONFIG": ("/does/not/exist", "/dev/null"),
}
OF_WEB = {
    "PORT": ("0", "80.5", "65536"),
    "WARMHOOK_TLS_PORT": ("-1",),
    "WARMHOOK_SERVE": ("webhooks,everything", ","),
    "WARMHOOK_EVENTS_URL": ("localhost:8080",),
    "WARMHOOK_EVENTS_OPEN": ("yes",),
    "WARMHOOK_EVENTS_TOKEN_FILE": ("/does/not/exist", "/dev/null"),
    "K_SINK": ("broker",),
    "K_CE_OVERRIDES": ("{", "[]", '{"extensions": {"id": "x"}}', '{"extensions": {"a": 1}}'),
    "WARMHOOK_SYNC_SECONDS": ("0", "x"),
    "WARMHOOK_WRITE_BYTES": ("-1",),
    "WARMHOOK_REGISTRY_RATE": ("0",),
    "WARMHOOK_NODE_RATE": ("1GB",),
}
OF_THE_AGENT = {
    "NODE_NAME": ("", "a/b", "n" * 237),
    "CONTAINER_RUNTIME_ENDPOINT": ("tcp://1.2.3.4",),
    "WARMHOOK_PARALLEL_PULLS": ("none", "0"),
    "WARMHOOK_CHECK_SECONDS": ("0",),
    "WARMHOOK_METRICS_PORT": ("x", "65536"),
    "WARMHOOK_MIN_FREE_PERCENT": ("100",),
    "WARMHOOK_ALLOW_LOCAL_REGISTRIES": ("maybe",),
    "WARMHOOK_PEER_PORT": ("65536",),
    "WARMHOOK_PEER_ADDRESS": ("node-1", "127.0.0.1"),
    "WARMHOOK_PEER_RATE": ("10MB",),
    "WARMHOOK_PLAIN_HTTP_REGISTRIES": ("http://registry.example.com",),
    "WARMHOOK_REGISTRY_CA_FILE": ("/does/not/exist",),
}
SETTINGS = {"web": OF_ALL | OF_WEB, "watch": OF_ALL | OF_WEB, "agent": OF_ALL | OF_THE_AGENT}
GOOD = "{name: h, kind: harbor, secret: {env: S}, registryHost: h.example.com}"
CONFIGURATIONS = (
    "sourcs: []",
    "sources: [{name: h}]",
    "[]",
    "sources: {",
    "sources: 1",
    f"sources: [{GOOD.replace('kind: harbor', 'kind: habor')}]",
    f"sources: [{GOOD.replace('name: h', 'name: H/x')}]",
    f"sources: [{GOOD}, {GOOD}]",
    f"sources: [{GOOD.replace('{env: S}', '{env: MISSING}')}]",
    f"sources: [{GOOD.replace('{env: S}', '{file: /does/not/exist}')}]",
    f"sources: [{GOOD.replace('{env: S}', '{file: /dev/null}')}]",
    f"sources: [{GOOD.replace('{env: S}', '{env: S, file: x}')}]",
    f"sources: [{GOOD.replace('{env: S}', 'the-secret')}]",
    f"sources: [{GOOD.replace('{env: S}', '[{env: S}, {env: S}, {env: S}]')}]",
    f"sources: [{GOOD.replace('secret: {env: S}, ', '')}]",
    f"sources: [{GOOD.replace('registryHost: h.example.com', 'allowedHosts: []')}]",
    f"sources: [{GOOD.replace('h.example.com', 'not a host')}]",
    f"sources: [{GOOD[:-1]}, allowedHosts: [other.example.com]}}]",
    f"sources: [{GOOD[:-1]}, insecure: true}}]",
    f"sources: [{GOOD[:-1]}, insecure: perhaps}}]",
    f"sources: [{GOOD[:-1]}, options: {{nonsense: 1}}}}]",
    f"sources: [{GOOD[:-1]}, keys: {{file: /dev/null}}}}]",
    f"sources: [{GOOD[:-1]}, alowedHosts: [x]}}]",
    "sources: [{name: g, kind: gar, options: {audience: a, email: e@x}, allowedHosts: [x.example.com]}]",
    "sources: [{name: h, kind: artifactory, secret: {env: S}, allowedHosts: [x.example.com], options: {auth: x}}]",
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "no arguments": (),
    "help of demo": ("demo", "--help"),
    "help of devcluster": ("devcluster", "--help"),
    "help of crds": ("crds", "--help"),
    "help of parse": ("parse", "--help"),
    "unknown command": ("nonsense",),
    "unknown option": ("parse", "--nonsense"),
    "parse of nothing": ("parse",),
    "parse of an unknown kind": ("parse", "nonsense"),
    "parse of an absent file": ("parse", "harbor", "/does/not/exist"),
    "parse with a header that is none": ("parse", "harbor", "/dev/null", "--header", "x"),
    "parse for a host that is none": ("parse", "harbor", "/dev/null", "--registry-host", "not a host"),
    "parse of an empty file": ("parse", "harbor", "/dev/null"),
    "devcluster on a port that is none": ("devcluster", "--port", "http"),
    "crds into a folder that is none": ("crds", "--output-dir", "/dev/null/crds"),
}
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a program that ends by itself, with these settings alone."""
    for variable in os.environ:
        if variable.startswith(("WARMHOOK_", "KUBERNETES_", "K_")) or variable in {"PORT", "KUBECONFIG", "NODE_NAME"}:
            monkeypatch.delenv(variable)
    monkeypatch.setenv("COLUMNS", "100")

    def run(program: str, *arguments: str, **environ: str) -> dict[str, Any]:
        with monkeypatch.context() as patched:
            for name, value in environ.items():
                patched.setenv(name, value)
            code = run_program(program, arguments, {**os.environ, **environ})
        shown = capsys.readouterr()
        # A new sender is one more kind.
        err = re.sub(r"(none of|known are) acr, .*", r"\1 <kinds>", shown.err)
        return {"code": code, "out": shown.out.splitlines(), "err": err.splitlines()}

    yield run
    # A program sets up logs for its whole process.
    structlog.reset_defaults()


def test_bad_settings_end_programs_as_recorded(run: Run) -> None:
    found = {
        f"{program}: {name}={value[:50]}": run(program, **{"NODE_NAME": "node-1", name: value})
        for program, settings in SETTINGS.items()
        for name, values in settings.items()
        for value in values
    }
    found["agent: no NODE_NAME"] = run("agent")
    found["web: WARMHOOK_CONFIG=/does/not/exist"] = run("web", WARMHOOK_CONFIG="/does/not/exist")
    found["web: unknown argument"] = run("web", "--wach")
    check("settings", found)


def test_bad_configurations_end_web_as_recorded(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"

    def shown(text: str) -> list[str]:
        path.write_text(text)
        ended = run("web", WARMHOOK_CONFIG=str(path), S="the-secret")
        assert (ended["code"], ended["out"]) == (2, [])
        return [line.replace(str(path), "<config>") for line in ended["err"]]

    check("configurations", {text: shown(text) for text in CONFIGURATIONS})


def test_the_command_prints_as_recorded(run: Run) -> None:
    check("command", {name: run("warmhook", *arguments) for name, arguments in COMMANDS.items()})


@pytest.mark.parametrize("kind", ["harbor", "cloudevents"])
def test_deliveries_are_parsed_as_recorded(kind: str, run: Run, tmp_path: Path) -> None:
    found = {}
    for case in read_cases(FOLDER / f"{kind}.toml"):
        (tmp_path / "body").write_text(case.body)
        headers = [part for name, text in case.headers.items() for part in ("--header", f"{name}: {text}")]
        host = ["--registry-host", case.registry_host] if case.registry_host else []
        found[case.name] = run("warmhook", "parse", kind, str(tmp_path / "body"), *headers, *host)
    check(f"parse-{kind}", found)
