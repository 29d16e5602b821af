"""Run the kubelet's credential providers: programs that read the name of an image and write its credentials.

What they answer is kept in memory only, for as long as the answer says.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias, cast
from weakref import WeakValueDictionary

from adapters.clock import Clock
from adapters.logs import Log
from adapters.outages import OutageLog
from warmhook.credential_providers import (
    BadAnswer,
    BadProviders,
    Provider,
    cache_keys,
    read_answer,
    read_providers,
    request_for,
)
from warmhook.images import Reference
from warmhook.ports import Credentials, Json
from warmhook.registry_credentials import Entry, fitting_credentials

RUN_SECONDS: Final = 60.0
"""The limit for one run, as in a kubelet."""
HOLD_SECONDS: Final = 30.0
"""A failed program is not run again for the same repository so soon, nor a hanging one for the same registry."""
REFUSED_SECONDS: Final = 60.0
"""An answer whose credentials a registry refuses is kept so long."""
_OUTPUT_BYTES: Final = 1024 * 1024
_KEPT_MAX: Final = 1024
_REAP_SECONDS: Final = 5.0
# What a program needs to reach a registry. The rest of the environment is the agent's own.
_PASSED: Final = frozenset({"PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"})

Run: TypeAlias = Callable[[Sequence[str], Mapping[str, str], bytes], Awaitable[bytes]]
"""Run a command with this environment and input, and return its output. Raises `RunFailed`, or `TimeoutError`."""


class RunFailed(Exception):
    """A program did not answer; the message quotes nothing that it wrote."""


def load_providers(config: Path) -> tuple[Provider, ...]:
    """The providers in a kubelet's configuration, a file or a folder of files. Raises `BadProviders`."""
    try:
        files = [config]
        if config.is_dir():
            files = sorted(path for path in config.iterdir() if path.suffix in (".json", ".yaml", ".yml"))
        return read_providers({str(path): _document(path) for path in files})
    except OSError as error:
        raise BadProviders(f"{config} cannot be read: {error.strerror}") from error


def check_programs(providers: Iterable[Provider], folder: Path) -> None:
    """Look for the program of each provider. Raises `BadProviders`."""
    for provider in providers:
        program = folder / provider.name
        if not program.is_file() or not os.access(program, os.X_OK):
            raise BadProviders(f"{program} is not a program that can be run")


def _document(path: Path) -> Json:
    # Few agents have providers; the others are spared the memory of the import.
    import yaml

    from adapters.strictyaml import decode

    try:
        return decode(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        # The error itself quotes the file, which may hold secrets of a provider's environment.
        mark = getattr(error, "problem_mark", None)
        raise BadProviders(f"{path}{f', line {mark.line + 1},' if mark else ''} is no YAML") from None


async def run_program(command: Sequence[str], environ: Mapping[str, str], request: bytes) -> bytes:
    """Run a program; cancelling ends it with all that it has started. Raises `RunFailed`."""
    try:
        # What it writes to stderr may hold secrets, so it goes nowhere.
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environ, cwd="/", start_new_session=True
        )
    except OSError as error:
        raise RunFailed(f"it does not start: {error.strerror}") from error
    try:
        output = await _exchange(cast("StreamWriter", process.stdin), cast("StreamReader", process.stdout), request)
        status = await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _REAP_SECONDS)
        raise
    if status:
        raise RunFailed(f"it ended with exit code {status}; run it by hand with the name of the image to see why")
    return output


async def _exchange(stdin: StreamWriter, stdout: StreamReader, request: bytes) -> bytes:
    # A program that reads nothing may answer nevertheless.
    with contextlib.suppress(ConnectionError):
        stdin.write(request)
        await stdin.drain()
    stdin.close()
    output = b""
    while chunk := await stdout.read(64 * 1024):
        output += chunk
        if len(output) > _OUTPUT_BYTES:
            raise RunFailed(f"it wrote more than {_OUTPUT_BYTES} bytes")
    return output


@dataclass(frozen=True, slots=True)
class Provided:
    """What the providers have for an image."""

    credentials: tuple[Credentials, ...] = ()
    problem: str = ""
    """Why one of them has failed; empty if none has."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer, or the failure of a run; both times are monotonic seconds."""

    entries: tuple[Entry, ...]
    since: float
    until: float
    problem: str = ""


class CredentialProviders:
    """The credential providers of a node."""

    def __init__(
        self,
        providers: Iterable[Provider],
        folder: Path,
        environ: Mapping[str, str],
        clock: Clock,
        log: Log,
        run: Run = run_program,
    ) -> None:
        """Run the programs of `folder` with little of the environment `environ`."""
        self._folder, self._clock, self._run_program = folder, clock, run
        self._environ = {name: value for name, value in environ.items() if name.upper() in _PASSED}
        self._providers = list[Provider]()
        self._kept: dict[tuple[str, ...], _Kept] = {}
        self._turns = WeakValueDictionary[tuple[str, str], asyncio.Lock]()
        self._outages = dict[str, OutageLog]()
        for provider in providers:
            if provider.needs_token:
                why = "tokenAttributes.requireServiceAccount: images are pulled before there is a Pod with a token"
                log.warning("credential-provider-skipped", provider=provider.name, reason=why)
                continue
            self._providers.append(provider)
            self._outages[provider.name] = OutageLog(log, clock, "credential-provider-failed")

    def fits(self, image: Reference) -> bool:
        """Whether a provider is for this image."""
        return any(provider.fits(image) for provider in self._providers)

    async def credentials(self, image: Reference) -> Provided:
        """What the providers have for an image, in their order. The failure of a provider is logged."""
        fitting = [provider for provider in self._providers if provider.fits(image)]
        answers = await asyncio.gather(*(self._answer(provider, image) for provider in fitting))
        return Provided(
            tuple(found for answer in answers for found in fitting_credentials(answer.entries, image)),
            next((answer.problem for answer in answers if answer.problem), ""),
        )

    def refused(self, image: Reference) -> None:
        """A registry refused the credentials for an image: they are kept for a minute at most.

        Not less, because an answer may be for many images.
        """
        for key in {key for provider in self._providers for key in cache_keys(provider, image).values()}:
            if kept := self._kept.get(key):
                self._kept[key] = replace(kept, until=min(kept.until, kept.since + REFUSED_SECONDS))

    async def _answer(self, provider: Provider, image: Reference) -> _Kept:
        # One at a time: the first answer may be for all images of the registry.
        turn = self._turns.setdefault((provider.name, image.host), asyncio.Lock())
        async with turn:
            now, keys = self._clock.monotonic(), cache_keys(provider, image)
            self._kept = {key: kept for key, kept in self._kept.items() if kept.until > now}
            kept = next((self._kept[key] for key in keys.values() if key in self._kept), None)
            return kept or await self._run(provider, image)

    async def _run(self, provider: Provider, image: Reference) -> _Kept:
        keys, outage = cache_keys(provider, image), self._outages[provider.name]
        command = [str(self._folder / provider.name), *provider.args]
        try:
            async with asyncio.timeout(RUN_SECONDS):
                output = await self._run_program(
                    command, self._environ | dict(provider.env), request_for(provider, image)
                )
            answer = read_answer(provider, output)
        except TimeoutError:
            problem, key = f"no answer within {RUN_SECONDS:g} s", keys["Registry"]
        except (RunFailed, BadAnswer) as error:
            problem, key = str(error), keys["Image"]
        else:
            outage.recovered()
            return self._keep(keys[answer.key_type], answer.entries, answer.cache_seconds)
        outage.failed(provider=provider.name, registry=image.host, error=problem)
        return self._keep(key, (), HOLD_SECONDS, f"credential provider {provider.name}: {problem}")

    def _keep(self, key: tuple[str, ...], entries: tuple[Entry, ...], seconds: float, problem: str = "") -> _Kept:
        now = self._clock.monotonic()
        kept = _Kept(entries, now, now + seconds, problem)
        if seconds > 0:
            while len(self._kept) >= _KEPT_MAX:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = kept
        return kept
