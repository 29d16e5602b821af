"""The CRI adapter reads a runtime's answers, errors and hostile texts as it says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cri_api.v1 import api_pb2 as cri

from adapters.cri import open_runtime, sanitize
from tests.real.programs import real_time
from warmhook.platforms import Platform
from warmhook.ports import Credentials, ImageConfig, PullFailed, Runtime, RuntimeUnreachable
from warmhook.pull_failures import FailureReason

C = grpc.StatusCode
CRIO = "unable to pull image or OCI artifact: pull image err: "
WRAPPED = 'failed to pull and unpack image "h/a:1": failed to resolve reference "h/a:1": '

Answer = Callable[[Any, Any], Awaitable[Any]]


@contextlib.asynccontextmanager
async def _runtime(**methods: Answer) -> AsyncIterator[Runtime]:
    """The adapter on a server with only these methods of both services."""
    folder = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=getattr(cri, f"{name}Request").FromString,
            response_serializer=getattr(cri, f"{name}Response").SerializeToString,
        )
        for name, answer in methods.items()
    }
    server = grpc.aio.server(options=[("grpc.max_send_message_length", 64 << 20)])
    services = ("runtime.v1.ImageService", "runtime.v1.RuntimeService")
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, handlers) for name in services])
    server.add_insecure_port(f"unix://{folder}/s")
    await server.start()
    try:
        async with open_runtime(f"unix://{folder}/s") as runtime:
            yield runtime
    finally:
        await server.stop(grace=0)
        shutil.rmtree(folder)


def _answers(message: Any) -> Answer:
    async def answer(*_: Any) -> Any:
        return message

    return answer


def _aborts(code: grpc.StatusCode, text: str) -> Answer:
    async def abort(_: Any, context: Any) -> Any:
        await context.abort(code, text)

    return abort


async def _pull_request(credentials: Credentials | None) -> Any:
    """The request that a pull sends to the runtime."""
    seen: list[Any] = []

    async def pull(request: Any, _: Any) -> Any:
        seen.append(request)
        return cri.PullImageResponse(image_ref="sha256:1")

    async with _runtime(PullImage=pull) as runtime:
        assert await runtime.pull("h/a:1", timeout_seconds=10, credentials=credentials) == "sha256:1"
    return seen[0]


async def _pull_error(code: grpc.StatusCode, text: str, credentials: Credentials | None = None) -> Exception:
    """The error of a pull that the runtime aborts with this code and text."""
    async with _runtime(PullImage=_aborts(code, text)) as runtime:
        with pytest.raises((PullFailed, RuntimeUnreachable)) as caught:
            await runtime.pull("h/a:1", timeout_seconds=10, credentials=credentials)
        return caught.value


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        (C.NOT_FOUND, WRAPPED + "h/a:1: not found", "NotFound"),
        (C.UNAVAILABLE, WRAPPED + "unexpected status from HEAD request: 503 Service Unavailable", "Network"),
        (C.UNAVAILABLE, CRIO + "pinging container registry h: dial tcp 10.0.0.1:443: connection refused", "Network"),
        (C.UNAVAILABLE, "RegistryUnavailable: pull image h/a:1: pinging container registry h", "Network"),
        (C.DEADLINE_EXCEEDED, "Deadline Exceeded", "Timeout"),
    ],
)  # fmt: skip
@real_time
async def test_a_failed_pull_has_a_reason_and_is_no_unreachable_runtime(
    code: grpc.StatusCode, text: str, reason: FailureReason
) -> None:
    error = await _pull_error(code, text)
    assert isinstance(error, PullFailed)
    assert error.reason == reason


@real_time
async def test_what_cri_o_adds_about_artifacts_is_dropped() -> None:
    text = CRIO + "write /var/tmp/1: no space left on device; artifact err: reference is a container image"
    error = await _pull_error(C.UNKNOWN, text)
    assert str(error) == "DiskFull: write /var/tmp/1: no space left on device"


def test_a_message_loses_what_every_message_repeats() -> None:
    assert sanitize("rpc error: code = Unknown desc = " + WRAPPED + "connection refused") == "connection refused"


@real_time
async def test_a_pull_that_reaches_its_deadline_says_how_long_that_was() -> None:
    async def pull(_: Any, __: Any) -> Any:
        await asyncio.sleep(60)

    async with _runtime(PullImage=pull) as runtime:
        with pytest.raises(PullFailed) as caught:
            await runtime.pull("h/a:1", timeout_seconds=0.05)
        assert (caught.value.reason, caught.value.message) == ("Timeout", "the pull took longer than 0.05 s")


def test_a_message_is_one_line_without_control_characters() -> None:
    assert sanitize("a\x1b[31m\r\nb\x00c\u202ed\u2028e") == "a [31m b c d e"


def test_a_message_has_at_most_200_characters_and_keeps_both_ends() -> None:
    message = sanitize("begin " + "x" * 5000 + " end")
    assert len(message) <= 200
    assert message.startswith("begin")
    assert message.endswith("end")


def test_a_long_message_has_its_digests_shortened_before_it_is_cut() -> None:
    text = "unexpected commit digest sha256:" + "a" * 64 + ", expected sha256:" + "b" * 64 + " failed " + "y" * 40
    assert sanitize(text) == text.replace("a" * 64, "a" * 12).replace("b" * 64, "b" * 12)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('Get "https://user:hunter2@h/v2/": EOF', 'Get "https://h/v2/": EOF'),
        ('Get "https://s3.example/b?X-Amz-Signature=hunter2&x=1": EOF', 'Get "https://s3.example/b": EOF'),
        ("auth: Bearer hunter2hunter2.x-y refused", "auth: Bearer *** refused"),
        ("Authorization: Basic aHVudGVyMg== refused", "Authorization: Basic *** refused"),
        ("h/shop/a:1@sha256:12 is kept", "h/shop/a:1@sha256:12 is kept"),
    ],
)
def test_a_message_shows_no_credentials(text: str, shown: str) -> None:
    assert sanitize(text) == shown


@real_time
async def test_the_credentials_of_the_pull_itself_are_cut_out_of_its_error() -> None:
    credentials = Credentials("h", "puller", "pass-word", "token-token")
    error = await _pull_error(C.UNKNOWN, "sent pass-word, token-token and cHVsbGVyOnBhc3Mtd29yZA==", credentials)
    assert str(error) == "RuntimeError: sent ***, *** and ***"


@real_time
async def test_no_credentials_are_in_the_error_of_a_runtime_that_is_stopping() -> None:
    error = await _pull_error(C.UNAVAILABLE, "stopping, sent pass-word", Credentials("h", "puller", "pass-word"))
    assert isinstance(error, RuntimeUnreachable)
    assert "pass-word" not in "".join(traceback.format_exception(error))


@real_time
async def test_a_short_password_cannot_be_read_from_what_is_cut_out_of_the_error() -> None:
    error = await _pull_error(C.UNKNOWN, "unexpected status: 401 Unauthorized", Credentials("h", "puller", "expect"))
    assert isinstance(error, PullFailed)
    assert error.reason == "Unauthorized"
    assert "unex" not in str(error)


@real_time
async def test_a_pull_always_has_a_sandbox_config_and_without_credentials_sends_none() -> None:
    request = await _pull_request(None)
    assert request.HasField("sandbox_config")
    assert not request.HasField("auth")


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("harbor.example.com", "https://harbor.example.com"),
        ("https://harbor.example.com/v2/", "https://harbor.example.com"),
        ("127.0.0.1:5000", "https://127.0.0.1:5000"),
        ("docker.io", "https://registry-1.docker.io"),
    ],
)
@real_time
async def test_credentials_are_bound_to_their_host_in_the_form_that_containerd_reads(address: str, sent: str) -> None:
    auth = (await _pull_request(Credentials(address, "puller", "pass-word", "token"))).auth
    assert (auth.server_address, auth.username, auth.password, auth.identity_token) == (
        sent, "puller", "pass-word", "token",
    )  # fmt: skip


@real_time
async def test_a_list_longer_than_the_default_limit_of_grpc_is_read() -> None:
    tags = [f"registry.example.com/{'x' * 100}:{number}" for number in range(20)]
    images = [cri.Image(id=f"sha256:{number:064}", repo_tags=tags, size=1) for number in range(3000)]
    async with _runtime(ListImages=_answers(cri.ListImagesResponse(images=images))) as runtime:
        assert len(await runtime.images()) == 3000


async def _config_of(info: dict[str, str], image_id: str = "sha256:1") -> ImageConfig | None:
    """The configuration that the adapter reads from the information of an image."""

    async def status(request: Any, _: Any) -> Any:
        assert request.verbose
        return cri.ImageStatusResponse(image=cri.Image(id=request.image.image), info=info)

    async with _runtime(ImageStatus=status) as runtime:
        return await runtime.config(image_id)


@real_time
async def test_the_configuration_is_read_as_containerd_and_cri_o_write_it() -> None:
    """CRI-O has no chainID, and its IDs do not begin with `sha256:`."""
    spec = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:1", "sha256:2"]}}
    expected = ImageConfig(Platform("linux", "amd64"), layers=2)
    assert await _config_of({"info": json.dumps({"chainID": "sha256:3", "imageSpec": spec})}) == expected
    assert await _config_of({"info": json.dumps({"labels": None, "imageSpec": spec})}, "0" * 64) == expected


@real_time
async def test_a_hostile_platform_is_cut_and_cleaned() -> None:
    spec = {"architecture": "x\x1b[31m\n" * 1000, "os": "linux", "rootfs": {"diff_ids": ["sha256:1"]}}
    config = await _config_of({"info": json.dumps({"imageSpec": spec})})
    assert config
    assert config.platform.architecture.isprintable()
    assert len(config.platform.architecture) <= 32


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"info": '{"chainID":"","imageSpec":{"architecture":"","os":"","rootfs":{"type":"","diff_ids":null}}}'},
        {"info": ""},
        {"info": "no JSON"},
        {"info": "null"},
        {"info": "[]"},
        {"info": '{"imageSpec": 1}'},
        {"info": '{"imageSpec": {"rootfs": [1]}}'},
        {"info": '{"imageSpec": {"rootfs": {"diff_ids": 7}}}'},
        {"info": "[" * 100_000},
    ],
)
@real_time
async def test_a_configuration_that_says_nothing_is_that_of_no_image(info: dict[str, str]) -> None:
    """containerd shows a chart so; of what it calls an artifact CRI-O has no information."""
    assert await _config_of(info) == ImageConfig()


@pytest.mark.parametrize("mebibytes", [1, 8, 20])
@real_time
async def test_a_configuration_of_mebibytes_is_not_parsed(mebibytes: int) -> None:
    """Two bytes of JSON can be seventy of a process that has 256 MiB; 16 MiB are the most that is received."""
    empty = "{}," * (mebibytes * 2**20 // 3)
    spec = f'{{"architecture": "amd64", "os": "linux", "rootfs": {{"diff_ids": ["x"]}}, "history": [{empty}{{}}]}}'
    assert await _config_of({"info": f'{{"imageSpec": {spec}}}'}) == ImageConfig(oversized=True)


@real_time
async def test_an_error_about_one_image_is_not_an_unreachable_runtime() -> None:
    async with _runtime(ImageStatus=_aborts(C.INTERNAL, "blob not found")) as runtime:
        assert await runtime.config("sha256:1") is None


@real_time
async def test_a_pinned_image_is_known_as_such() -> None:
    pinned = cri.ImageStatusResponse(image=cri.Image(id="sha256:1", pinned=True))
    async with _runtime(ImageStatus=_answers(pinned)) as runtime:
        image = await runtime.image("h/a:1")
    assert image is not None
    assert image.pinned


@real_time
async def test_a_runtime_that_is_still_starting_is_unreachable() -> None:
    assert isinstance(await _pull_error(C.UNKNOWN, "server is not initialized yet"), RuntimeUnreachable)


@real_time
async def test_a_server_without_cri_is_unreachable_and_says_what_to_check() -> None:
    async with _runtime() as runtime:
        with pytest.raises(RuntimeUnreachable, match="disabled_plugins"):
            await runtime.images()


@real_time
async def test_another_error_of_a_query_names_the_endpoint_and_the_code() -> None:
    async with _runtime(ListImages=_aborts(C.INTERNAL, "broken\x00store")) as runtime:
        with pytest.raises(RuntimeUnreachable, match=r"unix:///tmp/wh.*/s: INTERNAL: broken store"):
            await runtime.images()


@real_time
async def test_a_busy_runtime_that_accepts_late_is_reached() -> None:
    """A connection attempt of gRPC is given as long as the shortest pause between two, so that must not be short."""
    status = _answers(cri.ImageStatusResponse(image=cri.Image(id="sha256:1")))
    async with _runtime(ImageStatus=status) as direct:
        behind = direct._endpoint.removeprefix("unix://")  # type: ignore[attr-defined]
        server = await asyncio.start_unix_server(lambda *ends: _late(behind, *ends), f"{behind}-late")
        async with server, open_runtime(f"unix://{behind}-late") as late:
            assert await late.image("sha256:1")


async def _late(behind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a connection up after 0.3 s, as a program does that was busy meanwhile."""

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(target):
            while content := await source.read(65536):
                target.write(content)
                await target.drain()

    await asyncio.sleep(0.3)
    with contextlib.suppress(ConnectionError):
        behind_reader, behind_writer = await asyncio.open_unix_connection(behind)
        await asyncio.gather(copy(reader, behind_writer), copy(behind_reader, writer))


@real_time
async def test_a_missing_socket_is_named_with_what_to_check() -> None:
    async with open_runtime("/tmp/wh-no-such-socket") as runtime:
        with pytest.raises(RuntimeUnreachable, match="wh-no-such-socket: no socket: check that the runtime is running"):
            await runtime.images()


@real_time
async def test_an_empty_endpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="endpoint is empty"):
        await open_runtime("").__aenter__()


def _container(image: str, *, ref: str = "", image_id: str = "") -> Any:
    return cri.Container(id="c", image=cri.ImageSpec(image=image), image_ref=ref, image_id=image_id)


def _sandboxes(info: dict[str, str]) -> dict[str, Answer]:
    """A runtime with two sandboxes of this information and no containers."""
    items = [cri.PodSandbox(id="a"), cri.PodSandbox(id="b")]
    return {
        "ListContainers": _answers(cri.ListContainersResponse()),
        "ListPodSandbox": _answers(cri.ListPodSandboxResponse(items=items)),
        "PodSandboxStatus": _answers(cri.PodSandboxStatusResponse(info=info)),
    }


@real_time
async def test_the_images_of_containers_are_known_by_every_name_and_id_that_the_runtime_has() -> None:
    answer = cri.ListContainersResponse(
        containers=[_container("web:1", ref="sha256:1"), _container("sha256:2", ref="x@sha256:3", image_id="sha256:2")]
    )
    methods = _sandboxes({}) | {
        "ListContainers": _answers(answer),
        "ListPodSandbox": _answers(cri.ListPodSandboxResponse()),
    }
    async with _runtime(**methods) as runtime:
        assert await runtime.used_images() == {"web:1", "sha256:1", "sha256:2", "x@sha256:3"}


@real_time
async def test_a_container_without_an_image_is_an_error() -> None:
    answer = _answers(cri.ListContainersResponse(containers=[_container("web:1")]))
    async with _runtime(**_sandboxes({}) | {"ListContainers": answer}) as runtime:
        with pytest.raises(RuntimeUnreachable, match="container c has no image"):
            await runtime.used_images()


@pytest.mark.parametrize(
    ("info", "used"), [('{"image":"pause:1"}', {"pause:1"}), ("{}", set()), ('{"image":null,"pid":1}', set())]
)
@real_time
async def test_the_pause_image_of_a_sandbox_is_read_as_containerd_and_cri_o_write_it(info: str, used: set[str]) -> None:
    async with _runtime(**_sandboxes({"info": info})) as runtime:
        assert await runtime.used_images() == used


@pytest.mark.parametrize("info", [{}, {"info": ""}, {"info": "["}, {"info": "[]"}, {"other": "{}"}])
@real_time
async def test_a_sandbox_whose_image_cannot_be_read_is_an_error(info: dict[str, str]) -> None:
    async with _runtime(**_sandboxes(info)) as runtime:
        with pytest.raises(RuntimeUnreachable, match="its image cannot be read"):
            await runtime.used_images()


@real_time
async def test_a_sandbox_that_is_gone_uses_nothing_and_one_that_fails_is_an_error() -> None:
    gone = _aborts(grpc.StatusCode.NOT_FOUND, "not found")
    async with _runtime(**_sandboxes({}) | {"PodSandboxStatus": gone}) as runtime:
        assert await runtime.used_images() == set()
    failed = _aborts(grpc.StatusCode.UNKNOWN, "broken")
    async with _runtime(**_sandboxes({}) | {"PodSandboxStatus": failed}) as runtime:
        with pytest.raises(RuntimeUnreachable, match="UNKNOWN"):
            await runtime.used_images()
