"""Tell Warmhook that an image was pushed: `warmhook push`."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import click

from cli.durations import DURATION
from cli.errors import Failed, Unusable
from cli.output import OutputFormat, output_option, print_object, printable
from warmhook import __version__
from warmhook.images import NotAReference, is_digest, parse_reference

_SECRET_ENV: Final = "WARMHOOK_SECRET"  # noqa: S105 - the name of a variable
_TIMEOUT_DEFAULT: Final = "60s"


@click.command("push")
@click.argument("image")
@click.option("--to", required=True, metavar="URL", help="The address of web, without /webhooks/.")
@click.option("--source", required=True, metavar="NAME", help="The source of kind webhook in its configuration.")
@click.option("--digest", metavar="sha256:...", help="What the tag names now; nodes then get exactly this.")
@click.option(
    "--secret-file",
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="The file with the secret of the source; - is standard input.",
)
@click.option("--secret-env", metavar="NAME", help=f"The variable with the secret; {_SECRET_ENV} by default.")
@click.option(
    "--timeout", type=DURATION, default=_TIMEOUT_DEFAULT, show_default=True, help="For how long to repeat it."
)
@output_option
def push(
    image: str,
    to: str,
    source: str,
    digest: str | None,
    timeout: int,
    output: OutputFormat,
    **secrets: str | None,
) -> None:
    """Tell Warmhook that IMAGE was pushed, from a job of a CI or by hand.

    IMAGE has its registry and a tag or a digest. The delivery is signed with the secret, which is not sent, and
    repeated while Warmhook cannot store it. Exit status 0 says that web accepted it, whether or not a policy wants the
    image; warmhook status --wait follows what nodes do.
    """
    url, announced = _url(to, source), _announced(image, digest)
    secret = _secret(secrets["secret_file"], secrets["secret_env"])
    attempts = asyncio.run(_send(url, announced, secret, timeout))
    if output in ("json", "yaml"):
        print_object({"image": announced, "url": url, "attempts": attempts}, output)
        return
    click.echo(f"delivered {announced} to {printable(url)}")
    click.echo(f"to follow it: warmhook status --wait -n '<namespace of its policy>' {announced}", err=True)


async def _send(url: str, image: str, secret: bytes, seconds: int) -> int:
    """The number of attempts. Raises `Failed`."""
    # Imported here: the client costs more than the other commands need to start.
    import httpx

    from adapters.clock import real_clock
    from adapters.push_sender import NotDelivered, push_body, send_push

    try:
        async with httpx.AsyncClient(headers={"user-agent": f"warmhook-cli/{__version__}"}) as client:
            sent = await send_push(client, url, push_body(image), secret, clock=real_clock(), seconds=seconds)
    except NotDelivered as error:
        raise Failed(printable(str(error))) from None
    return sent.attempts


def _url(to: str, source: str) -> str:
    """Where the delivery goes. Raises `Unusable`."""
    try:
        parts = urlsplit(to)
        given = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        given = False
    if not given:
        raise Unusable("--to: expected the address of web, such as https://hooks.example.com")
    if parts.username is not None or parts.query or parts.fragment:
        raise Unusable("--to: leave out user names, queries and fragments; the secret is in a file or a variable")
    if "/webhooks/" in f"{parts.path}/":
        raise Unusable("--to: leave out /webhooks/ and what follows; --source names the source")
    return f"{to.rstrip('/')}/webhooks/{quote(source, safe='')}"


def _announced(image: str, digest: str | None) -> str:
    """The reference that is sent. Raises `Unusable` for what `web` would skip."""
    # Imported here: models of payloads.
    from adapters.push_sender import push_body
    from adapters.registries import Delivery, Source, find_adapter
    from warmhook.events import Pushed

    if digest is not None:
        if not is_digest(digest):
            raise Unusable(f"--digest {digest!r}: expected sha256: and 64 hexadecimal digits")
        if "@" in image and not image.endswith(f"@{digest}"):
            raise Unusable(f"--digest differs from the digest in {image!r}: leave one of them out")
        image = image if "@" in image else f"{image}@{digest}"
    try:
        # Stricter than `web`, which would drop a digest that is cut.
        parse_reference(image)
    except NotAReference as error:
        raise Unusable(str(error)) from None
    (outcome,) = find_adapter("webhook").parse(Delivery(push_body(image), datetime.now(UTC)), Source("cli"))
    if isinstance(outcome, Pushed):
        return str(outcome.image)
    advice = {
        "no-registry-host": "write it with its registry, such as registry.example.com/shop/web:1",
        "no-tag-no-digest": "add a tag or a digest; latest is not assumed",
        "not-runnable": "it is a signature or another companion of an image, which web skips",
    }
    reason = getattr(outcome, "reason", "")
    raise Unusable(f"{image!r}: {advice.get(reason) or getattr(outcome, 'detail', '') or reason}")


def _secret(file: str | None, env: str | None) -> bytes:
    """The secret, byte for byte except one newline at the end of a file, as `web` reads it. Raises `Unusable`."""
    if file is not None and env is not None:
        raise Unusable("--secret-file and --secret-env exclude each other")
    if file is None:
        name = env or _SECRET_ENV
        value, where = os.fsencode(os.environ.get(name, "")), f"the variable {name} is not set, or empty"
    else:
        try:
            value = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        except OSError as error:
            raise Unusable(f"--secret-file {file}: {error.strerror}") from None
        where = "--secret-file: it is empty"
        if value.endswith(b"\n"):
            value = value[:-1].removesuffix(b"\r")
    if not value.strip():
        raise Unusable(f"{where}; give the secret of the source with --secret-file or --secret-env")
    return value
