"""Child programs are started, judged and stopped as the demo promises."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from adapters.kubernetes.errors import KubernetesError, Refused, Unavailable
from cli.demo_run.run import for_children, run_in_folder
from cli.errors import Failed
from devcluster.cluster import naming_its_end
from devcluster.programs import Program, ProgramFailed, Programs
from tests.real.programs import real_time


def children(folder: Path, environ: dict[str, str] | None = None) -> Programs:
    return Programs(folder, environ or {"PATH": os.environ["PATH"]}, folder=folder)


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def alive(program: Program) -> bool:
    try:
        os.killpg(program.process.pid, 0)
    except ProcessLookupError:
        return False
    return True


@real_time
async def test_everything_is_stopped_when_the_context_ends(tmp_path: Path) -> None:
    async with children(tmp_path) as programs:
        started = [await programs.start(str(i), shell("exec sleep 60"), stage=i) for i in range(3)]
    assert [alive(program) for program in started] == [False, False, False]


@real_time
async def test_a_program_that_depends_on_others_is_stopped_before_them(tmp_path: Path) -> None:
    order = tmp_path / "order"
    script = f"trap 'echo $0 >> {order}; exit' TERM; echo ready; while :; do sleep 0.01; done"
    async with children(tmp_path) as programs:
        for stage, name in ((1, "runtime"), (0, "server"), (2, "agent")):
            program = await programs.start(name, (*shell(script), name), stage=stage)
            await programs.ready(program, lambda program=program: "ready" in program.output(), seconds=10)  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
    assert order.read_text().split() == ["agent", "runtime", "server"]


@real_time
async def test_a_suspended_program_is_stopped_too(tmp_path: Path) -> None:
    async with children(tmp_path) as programs:
        program = await programs.start("a", shell("exec sleep 60"), stage=0)
        os.killpg(program.process.pid, signal.SIGSTOP)
    assert program.ended == "was ended by SIGTERM"


@real_time
async def test_a_program_that_ends_while_it_starts_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    async with children(tmp_path) as programs:
        program = await programs.start("web", shell("seq 1 20; exit 3"), stage=0)
        with pytest.raises(ProgramFailed) as failed:
            await programs.ready(program, lambda: False, seconds=10)
    assert str(failed.value) == "web ended with exit status 3 while it started"
    assert failed.value.tail.splitlines() == [str(number) for number in range(13, 21)]


@real_time
async def test_a_program_that_never_becomes_ready_is_not_waited_for_without_end(tmp_path: Path) -> None:
    async with children(tmp_path) as programs:
        program = await programs.start("web", shell("exec sleep 60"), stage=0)
        with pytest.raises(ProgramFailed, match=r"^web was not ready within 0 s$"):
            await programs.ready(program, lambda: False, seconds=0.05)


@real_time
async def test_a_command_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match=r"^web: cannot run /no/such/program: No such file or directory$"):
        async with children(tmp_path) as programs:
            await programs.start("web", ("/no/such/program",), stage=0)


def test_children_inherit_no_setting_and_no_proxy() -> None:
    given = {
        "HOME": "/root",
        "PORT": "1",
        "WARMHOOK_LOG": "json",
        "NODE_NAME": "x",
        "https_proxy": "p",
        "NO_PROXY": "a",
    }

    assert for_children(given) == {"HOME": "/root", "PYTHONUNBUFFERED": "1", "NO_PROXY": "*"}


def test_the_folder_is_removed_whatever_happens() -> None:
    seen: list[Path] = []

    async def work(folder: Path) -> int:
        seen.append(folder)
        (folder / "file").write_text("content")
        raise ProgramFailed("web ended", "one\ntwo")

    with pytest.raises(Failed, match=r"^web ended; the end of its log:\n    one\n    two$"):
        run_in_folder(work, {})
    assert not seen[0].exists()


def test_a_signal_ends_the_work_in_order() -> None:
    steps: list[str] = []

    async def work(_folder: Path) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)
        finally:
            # A second one does not cut short what is ending.
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.01)
            steps.append("cleaned up")
        return 0

    assert run_in_folder(work, {}) is None
    assert steps == ["cleaned up"]


@real_time
async def test_a_request_that_broke_because_the_server_died_is_told_as_its_end(tmp_path: Path) -> None:
    async with children(tmp_path) as programs:
        api = await programs.start("apiserver", shell("exec sleep 60"), stage=0)
        api.process.kill()
        assert not api.ended  # as yet nobody has been told
        with pytest.raises(ProgramFailed, match=r"^apiserver was ended by SIGKILL$"):
            async with naming_its_end(api, seconds=30):
                raise Unavailable("connection reset")


@pytest.mark.parametrize("error", [Unavailable("connection reset"), Refused("no such kind", status=400)])
@real_time
async def test_an_error_of_a_server_that_runs_stays_what_it_is(tmp_path: Path, error: KubernetesError) -> None:
    async with children(tmp_path) as programs:
        api = await programs.start("apiserver", shell("exec sleep 60"), stage=0)
        with pytest.raises(KubernetesError) as caught:
            async with naming_its_end(api, seconds=0.01):
                raise error
    assert caught.value is error
