"""What the registry adapter does with registries that log in, redirect, limit, fail, hang and lie."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest

from adapters.oci_registry import OciRegistries
from adapters.registry_settings import EndpointSettings, Login, Mirror, RegistrySettings
from tests.support.instant import instant, loop_clock
from warmhook.images import Reference
from warmhook.manifests import BODY_MAX, Resolved
from warmhook.resolutions import ResolveProblem, Unresolved

HOST = "registry.example.com"
OCI = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = json.dumps({"config": {}, "layers": [{"mediaType": "application/x", "size": 5}]}).encode()
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
START = datetime(2026, 3, 1, tzinfo=UTC)
IMAGE = Reference(HOST, "shop/app", "v1")
REALM = "https://auth.example.com/token"
BEARER = {"www-authenticate": f'Bearer realm="{REALM}",service="registry",scope="repository:other:push"'}

Answer: TypeAlias = httpx.Response | Exception | Awaitable[httpx.Response]


def good(**headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(200, headers={"content-type": OCI} | named, content=MANIFEST)


def token(**fields: Any) -> httpx.Response:
    return httpx.Response(200, json={"token": "t0ken", **fields})


class Network:
    """Answers requests, and the adapter that sends them."""

    def __init__(
        self,
        answer: Callable[[httpx.Request], Answer],
        *,
        login: Callable[[], Login | None] = lambda: None,
        mirrors: tuple[Mirror, ...] = (),
        **given: Any,
    ) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = answer
        settings = {HOST: RegistrySettings(EndpointSettings(HOST, login=login, **given), mirrors)}
        self.adapter = OciRegistries(settings, loop_clock(START), transport=httpx.MockTransport(self._handle))

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answer(request)
        if isinstance(answer, Exception):
            raise answer
        return await answer if isinstance(answer, Awaitable) else answer

    async def resolve(self, image: Reference = IMAGE, known: Resolved | None = None) -> Resolved | Unresolved:
        return await self.adapter.resolve(image, known)

    async def digest(self) -> str:
        found = await self.resolve()
        assert isinstance(found, Resolved), found
        return found.digest

    async def problem(self) -> ResolveProblem:
        found = await self.resolve()
        assert isinstance(found, Unresolved), found
        return found.problem

    def sent(self) -> list[str]:
        """Method, host and path of each request."""
        return [f"{request.method} {request.url.host}{request.url.path}" for request in self.requests]


def asking_for_tokens(request: httpx.Request) -> httpx.Response:
    if request.url.host == "auth.example.com":
        return token()
    if request.headers.get("authorization") != "Bearer t0ken":
        return httpx.Response(401, headers=BEARER)
    return good()


def basic(name: str = "bob", password: str = "geheim") -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


# --- authentication --------------------------------------------------------------------------------------------------


@instant
async def test_a_token_is_fetched_for_pulling_from_this_repository_and_used_again() -> None:
    network = Network(asking_for_tokens)
    assert await network.digest() == DIGEST
    assert dict(network.requests[1].url.params) == {"service": "registry", "scope": "repository:shop/app:pull"}
    assert "authorization" not in network.requests[1].headers
    assert await network.digest() == DIGEST
    assert [request.url.host for request in network.requests] == [HOST, "auth.example.com", HOST, HOST]


@instant
async def test_a_token_for_one_repository_is_not_used_for_another() -> None:
    network = Network(asking_for_tokens)
    await network.resolve()
    await network.resolve(Reference(HOST, "shop/other", "v1"))
    assert "authorization" not in network.requests[3].headers


@instant
async def test_a_token_that_expired_is_fetched_again() -> None:
    network = Network(asking_for_tokens)
    await network.digest()
    await asyncio.sleep(55)
    await network.digest()
    assert [request.url.host for request in network.requests].count("auth.example.com") == 2


@pytest.mark.parametrize("fields", [{"token": "", "access_token": "t0ken"}, {"expires_in": 1}, {"expires_in": None}])
def test_tokens_of_every_registry_are_read(fields: Mapping[str, Any]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return token(**fields) if request.url.host == "auth.example.com" else asking_for_tokens(request)

    @instant
    async def case() -> None:
        assert await Network(answer).digest() == DIGEST

    case()


@instant
async def test_credentials_go_to_the_realm_and_not_to_the_registry_with_tokens() -> None:
    network = Network(asking_for_tokens, login=lambda: ("bob", "geheim"))
    assert await network.digest() == DIGEST
    sent = [request.headers.get("authorization", "") for request in network.requests]
    assert sent == ["", basic(), "Bearer t0ken"]


@instant
async def test_user_name_and_password_are_sent_where_the_registry_wants_them() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        known = request.headers.get("authorization") == basic()
        return good() if known else httpx.Response(401, headers={"www-authenticate": 'Basic realm="registry"'})

    network = Network(answer, login=lambda: ("bob", "geheim"))
    assert await network.digest() == DIGEST
    assert await network.digest() == DIGEST
    assert len(network.requests) == 3


@instant
async def test_changed_credentials_are_used_without_a_restart() -> None:
    password = "old"

    def answer(request: httpx.Request) -> httpx.Response:
        known = request.headers.get("authorization") == basic(password="new")
        return good() if known else httpx.Response(401, headers={"www-authenticate": "Basic"})

    network = Network(answer, login=lambda: ("bob", password))
    assert await network.problem() == "Unauthorized"
    password = "new"
    assert await network.digest() == DIGEST


def _unreadable() -> Login:
    raise OSError("/etc/warmhook/registries/password: geheim")


@pytest.mark.parametrize(
    ("headers", "login"),
    [
        ({}, lambda: ("bob", "geheim")),
        ({"www-authenticate": "Negotiate"}, lambda: ("bob", "geheim")),
        ({"www-authenticate": "Basic"}, lambda: None),
        ({"www-authenticate": "Basic"}, lambda: ("bob", "wrong")),
        ({"www-authenticate": "Basic"}, _unreadable),
        (BEARER, lambda: None),
    ],
)
def test_a_registry_that_lets_nobody_in_is_unauthorized(
    headers: Mapping[str, str], login: Callable[[], Login | None]
) -> None:
    @instant
    async def case() -> None:
        network = Network(lambda _request: httpx.Response(401, headers=headers), login=login)
        found = await network.resolve()
        assert isinstance(found, Unresolved)
        assert found.problem == "Unauthorized"
        assert "geheim" not in found.message
        assert len(network.requests) <= 3

    case()


@pytest.mark.parametrize(
    "realm",
    [
        "http://auth.example.com/token",
        "https://169.254.169.254/latest",
        "https://localhost/token",
        "https://[::1]/token",
        "file:///etc/passwd",
        "//auth.example.com/token",
        "https://",
        "https://[",
        "",
    ],
)
def test_a_realm_is_https_and_nowhere_near(realm: str) -> None:
    @instant
    async def case() -> None:
        challenge = {"www-authenticate": f'Bearer realm="{realm}"'}
        network = Network(lambda _request: httpx.Response(401, headers=challenge), login=lambda: ("bob", "geheim"))
        assert await network.problem() == "Unusable"
        assert len(network.requests) == 1

    case()


@instant
async def test_a_registry_without_tls_may_be_its_own_realm() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token":
            return token() if request.headers.get("authorization") == basic() else httpx.Response(403)
        realm = {"www-authenticate": f'Bearer realm="http://{HOST}/token"'}
        known = request.headers.get("authorization") == "Bearer t0ken"
        return good() if known else httpx.Response(401, headers=realm)

    assert await Network(answer, plain_http=True, login=lambda: ("bob", "geheim")).digest() == DIGEST


@instant
async def test_a_registry_without_tls_sends_no_credentials_elsewhere() -> None:
    network = Network(asking_for_tokens, plain_http=True, login=lambda: ("bob", "geheim"))
    assert await network.digest() == DIGEST
    assert not any(request.headers.get("authorization", "").startswith("Basic") for request in network.requests)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (httpx.Response(401), "Unauthorized"),
        (httpx.Response(403), "Unauthorized"),
        (httpx.Response(500), "Network"),
        (httpx.Response(429), "RateLimited"),
        (httpx.Response(200, content=b"{}"), "Unusable"),
        (httpx.Response(200, content=b"[]"), "Unusable"),
        (httpx.Response(200, content=b"<html>"), "Unusable"),
        (httpx.Response(200, json={"token": "a\r\nb"}), "Unusable"),
        (httpx.Response(200, json={"token": "x" * 300_000}), "Unusable"),
        (httpx.Response(302, headers={"location": "https://evil.example.com/"}), "Unusable"),
    ],
)
def test_a_realm_that_gives_no_token_is_a_problem(answer: httpx.Response, problem: str) -> None:
    @instant
    async def case() -> None:
        network = Network(lambda request: answer if request.url.host != HOST else asking_for_tokens(request))
        assert await network.problem() == problem

    case()


# --- redirects -------------------------------------------------------------------------------------------------------


@instant
async def test_a_redirect_is_followed_without_credentials() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "cdn.example.com":
            return good()
        if request.headers.get("authorization") != basic():
            return httpx.Response(401, headers={"www-authenticate": "Basic"})
        return httpx.Response(307, headers={"location": "https://bob:x@cdn.example.com/blob?sign=1"})

    network = Network(answer, login=lambda: ("bob", "geheim"))
    assert await network.digest() == DIGEST
    assert "authorization" not in network.requests[-1].headers
    assert network.requests[-1].url.query == b"sign=1"


@pytest.mark.parametrize(
    "location",
    ["http://cdn.example.com/", "https://169.254.169.254/", "https://127.0.0.1/", f"http://{HOST}/", "ftp://x/", "//["],
)
def test_a_redirect_to_somewhere_else_than_https_is_not_followed(location: str) -> None:
    @instant
    async def case() -> None:
        network = Network(lambda _request: httpx.Response(302, headers={"location": location}))
        assert await network.problem() == "Unusable"
        assert len(network.requests) == 1

    case()


def redirected(answer: httpx.Response) -> Callable[[httpx.Request], Answer]:
    """A registry that redirects to a host with this answer."""

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.host == HOST:
            return httpx.Response(307, headers={"location": "https://cdn.example.com/blob"})
        return token() if request.url.path == "/token" else answer

    return handle


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_the_target_of_a_redirect_names_no_realm_that_gets_the_credentials(scheme: str) -> None:
    @instant
    async def case() -> None:
        challenge = {"www-authenticate": f'{scheme} realm="https://evil.example.com/token"'}
        network = Network(redirected(httpx.Response(401, headers=challenge)), login=lambda: ("bob", "geheim"))
        assert await network.problem() == "Unauthorized"
        assert network.sent() == [f"GET {HOST}/v2/shop/app/manifests/v1", "GET cdn.example.com/blob"]
        assert all("authorization" not in request.headers for request in network.requests)

    case()


@instant
async def test_the_target_of_a_redirect_pauses_no_other_image() -> None:
    network = Network(redirected(httpx.Response(429, headers={"retry-after": "3600"})))
    assert await network.problem() == "RateLimited"
    assert await network.problem() == "RateLimited"
    assert len(network.requests) == 4


@instant
async def test_redirects_end() -> None:
    network = Network(lambda _request: httpx.Response(302, headers={"location": "/again"}))
    assert await network.problem() == "Unusable"
    assert len(network.requests) == 4


# --- mirrors ---------------------------------------------------------------------------------------------------------


def from_mirrors(answers: Mapping[str, Answer], **given: Any) -> Network:
    mirrors = (Mirror("one.example.com", "proxy/"), Mirror("two.example.com"))
    return Network(lambda request: answers[request.url.host], mirrors=mirrors, **given)


@instant
async def test_mirrors_are_asked_in_order_and_the_registry_itself_last() -> None:
    absent = httpx.Response(404)
    network = from_mirrors({"one.example.com": httpx.ConnectError(""), "two.example.com": absent, HOST: good()})
    assert await network.digest() == DIGEST
    assert network.sent()[:3] == [
        "GET one.example.com/v2/proxy/shop/app/manifests/v1",
        "GET two.example.com/v2/shop/app/manifests/v1",
        f"GET {HOST}/v2/shop/app/manifests/v1",
    ]
    assert [dict(request.url.params) for request in network.requests[:3]] == [{"ns": HOST}, {"ns": HOST}, {}]


@instant
async def test_a_mirror_that_has_the_image_is_enough_and_gets_no_credentials_of_the_registry() -> None:
    denied = httpx.Response(401, headers={"www-authenticate": "Basic"})
    network = from_mirrors(
        {"one.example.com": denied, "two.example.com": good(), HOST: httpx.Response(500)}, login=lambda: ("b", "g")
    )
    assert await network.digest() == DIGEST
    assert not any("authorization" in request.headers for request in network.requests)
    assert HOST not in {request.url.host for request in network.requests}


@instant
async def test_the_problem_is_that_of_the_registry_itself() -> None:
    broken = httpx.Response(500)
    network = from_mirrors({"one.example.com": broken, "two.example.com": broken, HOST: httpx.Response(404)})
    assert await network.problem() == "NotFound"


async def _never() -> httpx.Response:
    await asyncio.sleep(10**9)
    raise AssertionError


@instant
async def test_a_mirror_that_hangs_costs_three_seconds() -> None:
    mirrors = (Mirror("one.example.com"),)
    network = Network(lambda request: good() if request.url.host == HOST else _never(), mirrors=mirrors)
    assert await network.digest() == DIGEST
    assert asyncio.get_running_loop().time() == pytest.approx(3)


# --- digests ---------------------------------------------------------------------------------------------------------


@instant
async def test_the_body_decides_the_digest_where_the_registry_gives_none() -> None:
    assert await Network(lambda _request: good()).digest() == DIGEST
    assert await Network(lambda _request: good(docker_content_digest="sha256:short")).digest() == DIGEST


@instant
async def test_a_digest_of_another_algorithm_is_checked_with_it() -> None:
    long = "sha512:" + hashlib.sha512(MANIFEST).hexdigest()
    assert await Network(lambda _request: good(docker_content_digest=long)).digest() == long


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "sha512:" + "0" * 128])
def test_a_body_with_another_digest_than_announced_is_not_used(digest: str) -> None:
    @instant
    async def case() -> None:
        assert await Network(lambda _request: good(docker_content_digest=digest)).problem() == "Unusable"
        found = await Network(lambda _request: good()).resolve(Reference(HOST, "shop/app", "", digest))
        assert isinstance(found, Unresolved)
        assert found.problem == "Unusable"

    case()


@instant
async def test_an_image_that_is_known_costs_one_head_request() -> None:
    known = Resolved(DIGEST, OCI, ("linux/amd64",), 7)
    network = Network(lambda _request: httpx.Response(200, headers={"docker-content-digest": DIGEST}))
    assert await network.resolve(known=known) is known
    assert network.sent() == [f"HEAD {HOST}/v2/shop/app/manifests/v1"]


@pytest.mark.parametrize("head", [httpx.Response(405), httpx.Response(200)], ids=["no HEAD", "no digest"])
def test_an_image_is_read_again_if_the_registry_does_not_tell_its_digest(head: httpx.Response) -> None:
    @instant
    async def case() -> None:
        network = Network(lambda request: head if request.method == "HEAD" else good())
        found = await network.resolve(known=Resolved(DIGEST, OCI))
        assert isinstance(found, Resolved)
        assert found.size_bytes == 5

    case()


# --- what is good to know --------------------------------------------------------------------------------------------


def index_of(children: int) -> bytes:
    names = ["sha256:" + hashlib.sha256(MANIFEST + b" " * number).hexdigest() for number in range(children)]
    platforms = [{"os": "linux", "architecture": f"arch{number}"} for number in range(children)]
    entries = [{"digest": name, "platform": platform} for name, platform in zip(names, platforms, strict=True)]
    return json.dumps({"manifests": entries}).encode()


@pytest.mark.parametrize(
    "child",
    [httpx.Response(404), httpx.Response(500), httpx.Response(429), httpx.ConnectError(""), httpx.Response(200)],
    ids=["404", "500", "429", "no connection", "another digest"],
)
def test_a_manifest_that_cannot_be_read_costs_only_the_size(child: Answer) -> None:
    index = httpx.Response(
        200, headers={"content-type": "application/vnd.oci.image.index.v1+json"}, content=index_of(2)
    )

    @instant
    async def case() -> None:
        found = await Network(lambda request: index if request.url.path.endswith("v1") else child).resolve()
        assert isinstance(found, Resolved)
        assert (found.platforms, found.size_bytes) == (("linux/arch0", "linux/arch1"), 0)

    case()


@instant
async def test_a_manifest_that_hangs_costs_five_seconds_and_the_size() -> None:
    headers = {"content-type": "application/vnd.oci.image.index.v1+json"}
    index = httpx.Response(200, headers=headers, content=index_of(2))
    found = await Network(lambda request: index if request.url.path.endswith("v1") else _never()).resolve()
    assert isinstance(found, Resolved)
    assert found.platforms == ("linux/arch0", "linux/arch1")
    assert asyncio.get_running_loop().time() == pytest.approx(5)


@instant
async def test_an_index_of_many_costs_few_requests() -> None:
    headers = {"content-type": "application/vnd.oci.image.index.v1+json"}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("v1"):
            return httpx.Response(200, headers=headers, content=index_of(30))
        number = json.loads(index_of(30))["manifests"]
        place = [entry["digest"] for entry in number].index(request.url.path.rpartition("/")[2])
        return httpx.Response(200, headers={"content-type": OCI}, content=MANIFEST + b" " * place)

    network = Network(answer)
    found = await network.resolve()
    assert isinstance(found, Resolved)
    assert (len(network.requests), found.size_bytes) == (5, 5)


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (httpx.Response(404), "NotFound"),
        (httpx.Response(403), "Unauthorized"),
        (httpx.Response(429), "RateLimited"),
        (httpx.Response(500), "Network"),
        (httpx.Response(503), "Network"),
        (httpx.Response(418), "Unusable"),
        (httpx.ConnectError("geheim"), "Network"),
        (httpx.ReadError("geheim"), "Network"),
        (httpx.ConnectTimeout("geheim"), "Timeout"),
        (httpx.Response(200, headers={"content-type": "text/html"}, content=b"<html>"), "Unusable"),
        (httpx.Response(200, headers={"content-type": OCI}, content=b" " * (BODY_MAX + 1)), "Unusable"),
        (
            httpx.Response(
                200,
                headers={"content-type": "application/vnd.docker.distribution.manifest.v1+prettyjws"},
                content=b'{"schemaVersion": 1}',
            ),
            "Unusable",
        ),
    ],
)
def test_every_failure_is_one_of_a_few_problems(answer: Answer, problem: str) -> None:
    @instant
    async def case() -> None:
        found = await Network(lambda _request: answer).resolve()
        assert isinstance(found, Unresolved)
        assert found.problem == problem
        assert "geheim" not in found.message

    case()


@instant
async def test_a_compressed_answer_is_not_unpacked() -> None:
    compressed = httpx.Response(200, headers={"content-type": OCI}, content=MANIFEST)
    compressed.headers["content-encoding"] = "gzip"
    assert await Network(lambda _request: compressed).problem() == "Unusable"


@instant
async def test_a_registry_that_hangs_is_given_up_after_ten_seconds() -> None:
    assert await Network(lambda _request: _never()).problem() == "Timeout"
    assert asyncio.get_running_loop().time() == pytest.approx(10)


@instant
async def test_a_registry_that_wants_a_pause_gets_it() -> None:
    limited = True
    network = Network(
        lambda _request: httpx.Response(429, headers={"retry-after": "120"}) if limited else good(),
    )
    found = await network.resolve()
    assert isinstance(found, Unresolved)
    assert found.retry_after_seconds == 120
    limited = False
    await asyncio.sleep(100)
    assert await network.problem() == "RateLimited"
    assert len(network.requests) == 1
    await asyncio.sleep(21)
    assert await network.digest() == DIGEST


@pytest.mark.parametrize("asked", ["", "Wed, 21 Oct 2026 07:28:00 GMT", "999999999"])
def test_a_pause_has_a_limit(asked: str) -> None:
    @instant
    async def case() -> None:
        found = await Network(lambda _request: httpx.Response(429, headers={"retry-after": asked})).resolve()
        assert isinstance(found, Unresolved)
        assert found.retry_after_seconds is not None
        assert 60 <= found.retry_after_seconds <= 3600

    case()


@instant
async def test_cookies_are_not_sent_back() -> None:
    network = Network(lambda _request: good(set_cookie="session=1"))
    await network.resolve()
    await network.resolve()
    assert not any("cookie" in request.headers for request in network.requests)


@instant
async def test_only_configured_registries_are_asked() -> None:
    network = Network(lambda _request: good())
    assert not network.adapter.serves("other.example.com")
    found = await network.resolve(Reference("other.example.com", "shop/app", "v1"))
    assert isinstance(found, Unresolved)
    assert network.requests == []


@instant
async def test_docker_hub_is_asked_where_its_api_is() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return good()

    settings = {"docker.io": RegistrySettings(EndpointSettings("docker.io"))}
    adapter = OciRegistries(settings, loop_clock(START), transport=httpx.MockTransport(answer))
    await adapter.resolve(Reference("registry-1.docker.io", "library/nginx", "1"))
    assert str(requests[0].url) == "https://registry-1.docker.io/v2/library/nginx/manifests/1"


@instant
async def test_a_ca_file_that_is_missing_for_a_moment_is_a_problem_of_the_network() -> None:
    network = Network(lambda _request: good(), ca_file=Path("/nowhere/ca.crt"))
    assert await network.problem() == "Network"
