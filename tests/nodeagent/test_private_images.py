"""The agent pulls private images with Secrets and credential providers, and delays no other image for them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.credential_providers import CredentialProviders, RunFailed
from adapters.kubernetes.errors import Conflict, NotFound
from adapters.kubernetes.paths import secrets
from nodeagent.pull_credentials import RECHECK_SECONDS
from nodeagent.pull_secrets import READ_EVERY_SECONDS
from tests.support.agents import Bench, line_of, on_node, warm, with_agent
from tests.support.instant import until
from warmhook.credential_providers import Provider
from warmhook.node_lines import Line
from warmhook.ports import PullFailed
from warmhook.secret_access import forbidden_message
from warmhook.warmimages import ObjectKey, Pull

WEB = "registry.example.com/shop/web:1"
API = "registry.example.com/shop/api:1"
PUBLIC = "public.example.com/shop/web:1"
PASSWORD, NEW_PASSWORD = "correct-horse-battery", "staple-of-the-day"
DOCKER_CONFIG = "kubernetes.io/dockerconfigjson"
V1 = "credentialprovider.kubelet.k8s.io/v1"


def login(password: str = PASSWORD) -> dict[str, str]:
    return {"auth": base64.b64encode(f"robot:{password}".encode()).decode()}


async def create_secret(b: Bench, name: str, namespace: str, kind: str, content: str) -> None:
    """Create a Secret with the text of a Docker configuration."""
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind}
    data = {".dockerconfigjson": base64.b64encode(content.encode()).decode()}
    with contextlib.suppress(Conflict):
        await b.kubernetes.create("/api/v1/namespaces", {**body, "kind": "Namespace", "metadata": {"name": namespace}})
    await b.kubernetes.create(secrets(namespace), body | {"data": data})


async def write_secret(b: Bench, *logins: dict[str, str], name: str = "regcred", namespace: str = "shop") -> None:
    """Create or replace a Secret; each login is for a path below the registry."""
    auths = {"registry.example.com" + "/shop" * number: each for number, each in enumerate(logins)}
    content = json.dumps({"auths": auths})
    data = {".dockerconfigjson": base64.b64encode(content.encode()).decode()}
    try:
        await b.kubernetes.patch(secrets(namespace, name), {"data": data})
    except NotFound:
        await create_secret(b, name, namespace, DOCKER_CONFIG, content)


def private(b: Bench, image: str = WEB, *names: str, namespace: str = "shop", password: str = PASSWORD) -> Line:
    """A line for an image that its registry gives away for a password only."""
    b.runtime.push(image, "first")
    b.runtime.private[image] = password
    key = ObjectKey(namespace, image.rpartition("/")[2].replace(":", "-"))
    return Line(key, image, pull=Pull(secrets=names or ("regcred",)))


def reads(b: Bench, name: str = "regcred", namespace: str = "shop") -> list[float]:
    """When the agent read a Secret."""
    return [at for at, method, path in b.requests if (method, path) == ("GET", secrets(namespace, name))]


def everything_written(b: Bench) -> str:
    """All that the agent logged, reported, counted and saved."""
    saved = "".join(path.read_text() for path in b.state_dir.rglob("*") if path.is_file())
    return json.dumps([b.logs, b.stored_report()], default=repr) + b.metrics.exposition().decode() + saved


@with_agent
async def test_an_image_is_pulled_with_the_secret_of_its_line(b: Bench) -> None:
    await write_secret(b, login())
    line = private(b)
    await b.want(line)
    assert await warm(b, line) < 5
    (used,) = b.runtime.credentials
    assert used is not None
    assert (used.server_address, used.username, used.password) == ("registry.example.com", "robot", PASSWORD)


@with_agent
async def test_an_identity_token_is_used_without_a_user(b: Bench) -> None:
    await write_secret(b, login("") | {"identitytoken": PASSWORD})
    line = private(b)
    await b.want(line)
    await warm(b, line)
    (used,) = b.runtime.credentials
    assert used is not None
    assert (used.username, used.password, used.identity_token) == ("", "", PASSWORD)


@with_agent
async def test_no_secret_is_read_while_no_pull_needs_it(b: Bench) -> None:
    await write_secret(b, login())
    line, public = private(b), line_of(PUBLIC, name="public")
    b.runtime.push(PUBLIC, "first")
    await b.want(line, public)
    await warm(b, line, public)
    await asyncio.sleep(3600)
    assert len(reads(b)) == 1
    assert {path for _, _, path in b.requests if "/secrets" in path} == {secrets("shop", "regcred")}


@with_agent
async def test_many_images_with_one_secret_read_it_once_a_minute(b: Bench) -> None:
    await write_secret(b, login())
    lines = [private(b, f"registry.example.com/shop/app:{number}") for number in range(40)]
    await b.want(*lines)
    await warm(b, *lines)
    assert len(reads(b)) == 1


@with_agent
async def test_credentials_are_tried_from_the_longest_path_on_until_the_registry_accepts_one(b: Bench) -> None:
    await write_secret(b, login(), login(NEW_PASSWORD))
    line = private(b)
    await b.want(line)
    await warm(b, line)
    assert [used and used.password for used in b.runtime.credentials] == [NEW_PASSWORD, PASSWORD]


@with_agent
async def test_a_public_image_is_pulled_although_its_credentials_are_refused(b: Bench) -> None:
    await write_secret(b, login(NEW_PASSWORD))
    line = private(b)
    await b.want(line)
    await until(lambda: len(b.runtime.pulls) == 2)
    assert [used and used.password for used in b.runtime.credentials] == [NEW_PASSWORD, None]
    del b.runtime.private[WEB]
    await warm(b, line)


@with_agent
async def test_a_rotated_secret_is_used_within_two_minutes_although_the_line_would_wait_an_hour(b: Bench) -> None:
    await write_secret(b, login())
    line = private(b, password=NEW_PASSWORD)
    await b.want(line)
    await until(lambda: b.state(line) == "failed")
    assert b.reason(line) == "Unauthorized"
    await asyncio.sleep(2 * 3600)
    await write_secret(b, login(NEW_PASSWORD))
    assert await warm(b, line, seconds=200) < 1.2 * RECHECK_SECONDS


@with_agent
async def test_an_unchanged_secret_makes_no_line_due(b: Bench) -> None:
    await write_secret(b, login())
    line = private(b, password=NEW_PASSWORD)
    await b.want(line)
    await until(lambda: b.state(line) == "failed")
    await asyncio.sleep(2 * 3600)
    before = len(b.runtime.pulls)
    await asyncio.sleep(6 * 3600)
    assert len(b.runtime.pulls) - before <= 2 * 3  # each with the Secret and without


@with_agent
async def test_a_secret_that_agents_may_not_read_fails_its_line_until_the_role_exists(b: Bench) -> None:
    await write_secret(b, login())
    b.refuse("GET", secrets("shop", "regcred"), 403, "Forbidden")
    line = private(b)
    await b.want(line)
    await until(lambda: b.state(line) == "failed")
    detail = json.loads(b.detail(line))
    assert (detail["reason"], detail["message"]) == ("Unauthorized", forbidden_message("regcred"))
    (logged,) = b.events("secret-not-usable")
    assert logged["secret"] == "shop/regcred"
    assert logged["hint"].startswith("kubectl create role warmhook-regcred -n shop --verb=get ")
    await asyncio.sleep(3600)
    b.answers.clear()
    assert await warm(b, line, seconds=200) < 1.2 * RECHECK_SECONDS
    assert len(b.events("secret-not-usable")) == 1


@pytest.mark.parametrize("prepared", ["absent", "opaque", "empty"])
@with_agent
async def test_a_secret_that_cannot_be_used_says_why_at_its_line(b: Bench, prepared: str) -> None:
    if prepared != "absent":
        kind = "Opaque" if prepared == "opaque" else DOCKER_CONFIG
        await create_secret(b, "regcred", "shop", kind, f'{{"{PASSWORD}": 1}}')
    line = private(b)
    await b.want(line)
    await until(lambda: b.state(line) == "failed")
    detail = json.loads(b.detail(line))
    assert detail["reason"] == "Unauthorized"
    assert detail["message"].startswith("Secret regcred")
    assert PASSWORD not in everything_written(b)
    if prepared != "absent":
        await b.kubernetes.delete(secrets("shop", "regcred"))
    await write_secret(b, login())
    assert await warm(b, line, seconds=200) < 1.2 * RECHECK_SECONDS


@with_agent
async def test_of_two_secrets_one_is_enough(b: Bench) -> None:
    await write_secret(b, login(), name="second")
    line = private(b, WEB, "absent", "second")
    await b.want(line)
    assert await warm(b, line) < 5


@with_agent
async def test_nothing_secret_is_logged_reported_counted_or_saved(b: Bench) -> None:
    await write_secret(b, login(), login(NEW_PASSWORD), {"identitytoken": "token-" + PASSWORD})
    refused, pulled = private(b, password="another"), private(b, API)
    await b.want(refused, pulled)
    await warm(b, pulled)
    await until(lambda: b.state(refused) == "failed")
    await asyncio.sleep(600)
    written = everything_written(b)
    assert "Unauthorized" in written
    for secret in (PASSWORD, NEW_PASSWORD, login()["auth"], login(NEW_PASSWORD)["auth"]):
        assert secret not in written


@with_agent
async def test_a_namespace_pulls_by_its_own_secrets_and_not_by_those_of_another(b: Bench) -> None:
    await write_secret(b, login())
    other = Line(ObjectKey("other", "web"), WEB)
    mine = private(b)
    await b.want(other)
    await until(lambda: b.state(other) == "failed")
    assert b.runtime.credentials == [None] * len(b.runtime.credentials)
    b.refuse("GET", secrets("shop", "regcred"), 403, "Forbidden")
    await b.want(mine)
    await until(lambda: b.state(mine) == "failed")
    assert "regcred" in b.detail(mine)
    assert "regcred" not in b.detail(other)


@with_agent
async def test_the_secrets_of_a_warm_line_pull_nothing_for_another_namespace(b: Bench) -> None:
    await write_secret(b, login())
    mine = private(b)
    await b.want(mine)
    await warm(b, mine)
    begun = len(b.runtime.pulls)
    b.runtime.push(WEB, "second")
    other = Line(ObjectKey("other", "web"), WEB, pushed_at="2026-05-01T00:00:00Z")
    await b.want(other)
    await until(lambda: b.state(other) == "failed")
    assert set(b.runtime.credentials[begun:]) == {None}


@with_agent
async def test_a_refresh_pulls_a_warm_image_with_its_secret(b: Bench) -> None:
    await write_secret(b, login())
    line = private(b)
    await b.want(line)
    await warm(b, line)
    b.runtime.push(WEB, "second")
    await b.want(replace(line, refreshed_at="2026-05-02T00:00:00Z"))
    await until(lambda: len(b.runtime.pulls) == 2)
    assert [used and used.password for used in b.runtime.credentials] == [PASSWORD, PASSWORD]


@with_agent
async def test_the_secret_of_a_suspended_line_is_not_read(b: Bench) -> None:
    line = private(b, password=NEW_PASSWORD)
    await write_secret(b, login())
    await b.want(line)
    await until(lambda: b.state(line) == "failed")
    await b.want(replace(line, suspended=True))
    await asyncio.sleep(60)
    before = len(reads(b))
    await asyncio.sleep(3600)
    assert len(reads(b)) == before


@with_agent
async def test_a_namespace_with_many_credentials_leaves_attempts_to_another(b: Bench) -> None:
    many = {f"https://registry.example.com/{'/' * number}": login(f"wrong-{number}") for number in range(50)}
    await create_secret(b, "regcred", "a-greedy", DOCKER_CONFIG, json.dumps({"auths": many}))
    await write_secret(b, login())
    greedy, mine = private(b, namespace="a-greedy"), private(b)
    await b.want(greedy, mine)
    await warm(b, mine, greedy)
    assert len(b.runtime.pulls) <= 2


@with_agent
async def test_a_namespace_whose_credentials_break_the_pull_does_not_keep_another_from_it(b: Bench) -> None:
    await write_secret(b, login("breaks"), namespace="a-first")
    await write_secret(b, login())
    broken, mine = private(b, namespace="a-first"), private(b)
    b.runtime.breaking = {"breaks": PullFailed("Network", "500 Internal Server Error")}
    await b.want(broken, mine)
    assert await warm(b, mine) < 5
    assert [used and used.password for used in b.runtime.credentials] == ["breaks", PASSWORD]


@with_agent
async def test_a_registry_that_is_down_is_tried_once_and_not_once_more_without_credentials(b: Bench) -> None:
    await write_secret(b, login())
    line = private(b)
    b.runtime.fail(WEB, "Network")
    await b.want(line)
    await warm(b, line)
    assert [used and used.password for used in b.runtime.credentials] == [PASSWORD, PASSWORD]


@with_agent
async def test_secrets_that_hang_delay_no_other_image(b: Bench) -> None:
    b.hanging = {secrets("shop", f"hangs-{number}") for number in range(20)}
    hanging = [private(b, f"registry.example.com/shop/app:{number}", f"hangs-{number}") for number in range(20)]
    await b.want(*hanging)
    await asyncio.sleep(3)
    b.runtime.push(PUBLIC, "first")
    public = line_of(PUBLIC, name="public")
    await b.want(public)
    assert await warm(b, public) < 5
    await write_secret(b, login(), namespace="team")
    mine = private(b, API, namespace="team")
    await b.want(mine)
    assert await warm(b, mine) < 5


@with_agent
async def test_an_api_server_that_hangs_is_no_reason_to_wait_long(b: Bench) -> None:
    await write_secret(b, login())
    line = private(b)
    b.hanging = {secrets("shop", "regcred")}
    await b.want(line)
    await until(lambda: b.state(line) == "failed", seconds=400)
    assert b.reason(line) == "Network"
    b.hanging.clear()
    await warm(b, line, seconds=400)


@with_agent
async def test_a_public_image_is_pulled_while_its_secret_cannot_be_read(b: Bench) -> None:
    b.hanging = {secrets("shop", "regcred")}
    line = private(b)
    del b.runtime.private[WEB]
    await b.want(line)
    assert await warm(b, line) < 20


@with_agent
async def test_a_line_that_goes_ends_the_wait_for_its_secret(b: Bench) -> None:
    b.hanging = {secrets("shop", "regcred")}
    line = private(b)
    await b.want(line)
    await asyncio.sleep(5)
    await b.want(without=(line,))
    await asyncio.sleep(60)
    assert b.runtime.pulls == []


# --- credential providers ---


class Program:
    """A credential provider in memory."""

    def __init__(self, b: Bench, **provider: Any) -> None:
        self.asked: list[str] = []
        self.answer: dict[str, Any] = {"cacheKeyType": "Registry", "cacheDuration": "1h"}
        self.answer |= {"auth": {"registry.example.com": {"username": "robot", "password": PASSWORD}}}
        self.fails = self.hangs = False
        providers = [Provider("p", ("registry.example.com",), V1, 60.0, **provider)]
        b.providers = CredentialProviders(providers, Path("/plugins"), {}, b.clock(), b.log(), self.run)

    async def run(self, command: Sequence[str], _environ: Mapping[str, str], request: bytes) -> bytes:
        assert command[0] == "/plugins/p"
        self.asked.append(json.loads(request)["image"])
        if self.hangs:
            await asyncio.sleep(86400)
        if self.fails:
            raise RunFailed("it ended with exit code 1")
        return json.dumps({"kind": "CredentialProviderResponse", "apiVersion": V1} | self.answer).encode()


def plain(b: Bench, image: str = WEB, password: str = PASSWORD) -> Line:
    """A line for a private image that names no Secret."""
    b.runtime.push(image, "first")
    b.runtime.private[image] = password
    return line_of(image)


@on_node
async def test_a_provider_needs_no_secret_and_no_permission(b: Bench) -> None:
    program = Program(b)
    line, other = plain(b), plain(b, API)
    async with b.agent():
        await b.want(line, other)
        assert await warm(b, line, other) < 5
    assert len(program.asked) == 1
    assert not [path for _, _, path in b.requests if "/secrets" in path]


@on_node
async def test_an_answer_for_one_repository_or_for_no_time_is_used_for_no_other_pull(b: Bench) -> None:
    program = Program(b)
    program.answer["cacheKeyType"] = "Image"
    line, other = plain(b), plain(b, API)
    async with b.agent():
        await b.want(line, other)
        await warm(b, line, other)
        assert sorted(program.asked) == ["registry.example.com/shop/api", "registry.example.com/shop/web"]
        program.answer |= {"cacheDuration": "0s", "cacheKeyType": "Global"}
        more = [plain(b, f"registry.example.com/shop/more:{number}") for number in range(2)]
        await b.want(*more)
        await warm(b, *more)
    assert len(program.asked) == 4


@on_node
async def test_an_expired_answer_is_asked_for_again(b: Bench) -> None:
    program = Program(b)
    line, later = plain(b), plain(b, API)
    async with b.agent():
        await b.want(line)
        await warm(b, line)
        await asyncio.sleep(3600)
        await b.want(later)
        await warm(b, later)
    assert len(program.asked) == 2


@on_node
async def test_secrets_are_tried_before_providers_and_nothing_comes_last(b: Bench) -> None:
    Program(b)
    await write_secret(b, login(NEW_PASSWORD))
    line = private(b, password="another")
    async with b.agent():
        await b.want(line)
        await until(lambda: len(b.runtime.pulls) >= 3)
    assert [used and used.password for used in b.runtime.credentials[:3]] == [NEW_PASSWORD, PASSWORD, None]


@on_node
async def test_a_refused_answer_is_not_kept(b: Bench) -> None:
    program = Program(b)
    line = plain(b, password=NEW_PASSWORD)
    async with b.agent():
        await b.want(line)
        await until(lambda: b.state(line) == "failed")
        program.answer["auth"]["registry.example.com"]["password"] = NEW_PASSWORD
        await warm(b, line, seconds=400)


@on_node
async def test_a_failing_provider_is_logged_once_and_the_image_is_pulled_without_it(b: Bench) -> None:
    program = Program(b)
    program.fails = True
    line, public = plain(b), plain(b, API)
    del b.runtime.private[API]
    async with b.agent():
        await b.want(line, public)
        assert await warm(b, public) < 5
        await until(lambda: b.state(line) == "failed")
        assert json.loads(b.detail(line))["message"] == "credential provider p: it ended with exit code 1"
        await asyncio.sleep(3600)
        logged = b.events("credential-provider-failed")[0]
        assert (logged["provider"], logged["registry"]) == ("p", "registry.example.com")
        program.fails = False
        await warm(b, line, seconds=400)
        assert len(b.events("credential-provider-failed-over")) == 1


@on_node
async def test_a_permission_that_is_added_for_the_account_of_a_provider_is_noticed_within_an_hour(b: Bench) -> None:
    Program(b)
    line = plain(b, password=NEW_PASSWORD)
    async with b.agent():
        await b.want(line)
        await until(lambda: b.state(line) == "failed")
        assert b.reason(line) == "Unauthorized"
        await asyncio.sleep(6 * 3600)
        b.runtime.private[WEB] = PASSWORD
        assert await warm(b, line, seconds=5000) < 3600 + 2 * RECHECK_SECONDS


@on_node
async def test_a_hanging_provider_is_ended_after_a_minute_and_delays_no_other_registry(b: Bench) -> None:
    program = Program(b)
    program.hangs = True
    lines = [plain(b, f"registry.example.com/shop/app:{number}") for number in range(20)]
    b.runtime.push(PUBLIC, "first")
    public = line_of(PUBLIC, name="public")
    async with b.agent():
        await b.want(*lines)
        await asyncio.sleep(5)
        await b.want(public)
        assert await warm(b, public) < 5
        await until(lambda: b.runtime.pulls.count(lines[0].image) > 0, seconds=100)
        (logged,) = b.events("credential-provider-failed")
    assert logged["error"] == "no answer within 60 s"
    assert len(program.asked) == 1


@on_node
async def test_a_provider_that_insists_on_the_token_of_a_pod_is_left_out_and_logged(b: Bench) -> None:
    program = Program(b, needs_token=True)
    line = plain(b)
    async with b.agent():
        await b.want(line)
        await until(lambda: b.state(line) == "failed")
    (logged,) = b.events("credential-provider-skipped")
    assert logged["provider"] == "p"
    assert program.asked == []


def test_the_message_of_a_forbidden_secret_fits_into_a_report() -> None:
    assert len(forbidden_message("s" * 160)) <= 200


@with_agent
async def test_a_namespace_with_hundreds_of_refused_secrets_costs_the_api_server_few_requests(b: Bench) -> None:
    lines = [
        private(b, f"registry.example.com/team/app:{app}", *(f"absent-{app}-{each}" for each in range(8)))
        for app in range(40)
    ]
    await write_secret(b, login(), namespace="team")
    mine = private(b, password=NEW_PASSWORD, namespace="team")
    await b.want(*lines, mine)
    await until(lambda: b.state(mine) == "failed", seconds=600)
    before = len(b.requests)
    await asyncio.sleep(3600)
    assert len([path for _, _, path in b.requests[before:] if "/shop/secrets" in path]) <= 3600 / READ_EVERY_SECONDS
    await write_secret(b, login(NEW_PASSWORD), namespace="team")
    assert await warm(b, mine, seconds=200) < 1.2 * RECHECK_SECONDS


@with_agent
async def test_every_refused_secret_of_many_is_read_again_in_turn(b: Bench) -> None:
    await write_secret(b, login(), name="there")
    lines = [
        private(b, f"registry.example.com/shop/app:{app}", *(f"absent-{app}-{each}" for each in range(8)))
        for app in range(20)
    ]
    last = private(b, "registry.example.com/shop/last:1", "z-last")
    await b.want(*lines, last)
    await until(lambda: b.state(last) == "failed", seconds=1200)
    await write_secret(b, login(), name="z-last")
    await warm(b, last, seconds=3600)
