"""Every kind of sender is authenticated by what the configuration names, and by nothing else."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from adapters.env import BadSetting
from adapters.registries import find_adapters
from tests.adapters.registries.cases import FOLDER, Case, read_cases
from tests.handlers.test_receiver import deliveries
from tests.handlers.world import World, configuration, in_world, run_in_world

ADAPTERS = find_adapters()
ACCOUNT, AUDIENCE = "push@acme.iam.gserviceaccount.com", "https://hooks.example.com/webhooks/gar"
PUBSUB = {"audience": AUDIENCE, "email": ACCOUNT}


def _cases(kind: str) -> list[Case]:
    adapter = ADAPTERS[kind]
    return [
        case
        for case in read_cases(FOLDER / f"{kind}.toml")
        if case.verified is not None
        and all([case.secret] if isinstance(case.secret, str) else case.secret)
        and not adapter.takes_tokens(case.source(adapter))
    ]


def _source(kind: str, name: str = "sender", **given: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "allowedHosts": ["a.example"], **given}


def _file(*sources: dict[str, Any]) -> str:
    return json.dumps({"sources": sources})


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_delivery_is_taken_with_the_right_secret_only(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    adapter, cases, sources = ADAPTERS[kind], _cases(kind), []
    for number, case in enumerate(cases):
        secrets = [case.secret] if isinstance(case.secret, str) else case.secret
        files = [tmp_path / f"{number}-{which}" for which in range(len(secrets))]
        for file, secret in zip(files, secrets, strict=True):
            file.write_text(secret)
        secret_files = [{"file": str(file)} for file in files]
        hosts = ["a.example", *adapter.fixed_hosts(case.source(adapter))]
        given = {"secret": secret_files, "options": dict(case.options), "allowedHosts": hosts}
        sources.append(_source(kind, f"s{number}", **given))

    written = list(tmp_path.iterdir())

    async def story(world: World) -> None:
        async def deliver(number: int, case: Case) -> int:
            answer = await world.client.post(
                f"/webhooks/s{number}",
                params=dict(case.query),
                headers=[(name.encode(), text.encode("latin-1", "replace")) for name, text in case.headers.items()],
                content=case.body.encode(),
            )
            assert answer.content == b"" or answer.status_code == 200
            return answer.status_code

        for number, case in enumerate(cases):
            assert await deliver(number, case) in ((200, 202) if case.verified else (401,)), case.name
            assert await deliver(number, replace(case, headers={}, query={})) == 401
        # The test's own client writes down what it asks for.
        said = str(deliveries()) + str([one.getMessage() for one in caplog.records if one.name != "httpx"])
        said += world.metrics.exposition().decode()
        for file in written:
            assert file.read_text() not in said
            file.write_text("another")
        for number, case in enumerate(cases):
            assert await deliver(number, case) == 401

    assert {case.verified for case in cases} == {True, False}
    run_in_world(story, sources=_file(*sources))


@pytest.fixture
def _files_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads and a loop whose time jumps do not go together."""

    async def at_once(function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    monkeypatch.setattr("asyncio.to_thread", at_once)


@pytest.mark.usefixtures("_files_are_read_at_once")
@in_world()
async def test_a_signed_token_is_taken_by_the_keys_that_the_source_names(world: World, tmp_path: Path) -> None:
    keys = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]
    public = jwt.algorithms.RSAAlgorithm.to_jwk(keys[0].public_key(), as_dict=True)
    (tmp_path / "keys").write_text(json.dumps({"keys": [{**public, "kid": "k"}]}))
    world.restart(sources=_file(_source("gar", keys={"file": str(tmp_path / "keys")}, options=PUBSUB)))
    moment = int(world.now().timestamp())
    claims = {"iss": "https://accounts.google.com", "aud": AUDIENCE, "email": ACCOUNT, "email_verified": True}
    claims |= {"iat": moment, "exp": moment + 3600}
    tokens = [jwt.encode(claims, key, algorithm="RS256", headers={"kid": "k"}) for key in keys]
    for token, status in ((tokens[0], 202), (tokens[1], 401), ("x", 401)):
        answer = await world.client.post(
            "/webhooks/sender", headers={"authorization": f"Bearer {token}"}, content=b"{}"
        )
        assert answer.status_code == status
        assert token not in str(deliveries()) or token == "x"


@pytest.mark.parametrize(
    ("token", "page", "status", "reason"),
    [("\xe0.b.c", "{}", 401, "bad-secret"), ("", "<html>502 Bad Gateway</html>", 503, "keys-unreachable")],
    ids=["no ASCII", "error page"],
)
@pytest.mark.usefixtures("_files_are_read_at_once")
@in_world()
async def test_a_token_nobody_can_read_and_keys_nobody_can_are_each_one_line_and_counted(
    world: World, tmp_path: Path, token: str, page: str, status: int, reason: str
) -> None:
    (tmp_path / "keys").write_text(page)
    signed = jwt.encode({}, b"k" * 32, algorithm="HS256", headers={"kid": "k"})
    world.restart(sources=_file(_source("gar", keys={"file": str(tmp_path / "keys")}, options=PUBSUB)))
    given = f"Bearer {token or signed}".encode("latin-1")
    answer = await world.client.post("/webhooks/sender", headers=[(b"authorization", given)], content=b"{}")
    assert answer.status_code == status
    assert [line["reason"] for line in deliveries()] == [reason]
    assert world.metric("warmhook_deliveries_total", reason=reason) == 1


@pytest.mark.parametrize(
    ("kind", "given", "problem"),
    [
        ("harbor", {"insecure": False}, "secret: missing; say insecure: true"),
        ("harbor", {"insecure": True, "keys": {"file": "/k"}}, "insecure: a source with a secret or keys"),
        ("harbor", {"secret": {}}, "secret: give either file or env"),
        ("harbor", {"secret": {"env": "EMPTY"}}, "secret.env: EMPTY is not set, or empty"),
        ("gar", {"keys": {"file": "/k"}}, "keys: not used by kind gar with these options"),
        ("gar", {"options": PUBSUB, "secret": {"env": "S"}, "keys": {"file": "/k"}}, "secret: not used"),
        ("gar", {"options": PUBSUB, "keys": {}}, "keys: give either file or url"),
        ("gar", {"options": PUBSUB, "keys": {"url": "http://keys.example"}}, "keys.url: "),
    ],
)
def test_a_source_that_anybody_or_nobody_could_use_is_refused_at_start(
    kind: str, given: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadSetting) as refused:
        configuration(_file(_source(kind, **given)), {"S": "s3cret"})

    assert problem in str(refused.value)
    assert "s3cret" not in str(refused.value)


@in_world(sources=_file(_source("harbor", insecure=True)))
async def test_a_source_that_says_so_needs_no_secret(world: World) -> None:
    assert (await world.client.post("/webhooks/sender", content=b"{}")).status_code == 202
