"""Serve a folder as a registry: `python -m devcluster.registry --root DIR`. One JSON line per request on stdout."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

from adapters.signals import until_signal
from devcluster.registry.app import Access
from devcluster.registry.serve import serve_registry


def main() -> None:
    """Serve until SIGTERM or SIGINT; exit 2 if the arguments or the port cannot be used."""
    parser = argparse.ArgumentParser(prog="devcluster.registry", description="A read-only registry on loopback.")
    parser.add_argument("--port", type=int, default=5000, help="0 takes a free one")
    parser.add_argument("--root", type=Path, required=True, help="the folder to serve; created if it is absent")
    parser.add_argument("--bytes-per-second", type=int, default=0, help="for all answers together; 0: no limit")
    arguments = parser.parse_args()
    arguments.root.mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(until_signal(_serve(arguments.root, arguments.port, arguments.bytes_per_second)))
    except OSError as error:
        parser.error(f"cannot listen on port {arguments.port}: {error}")


async def _serve(root: Path, port: int, bytes_per_second: int) -> None:
    async with serve_registry(root, port=port, log=_print, bytes_per_second=bytes_per_second) as registry:
        _line({"event": "ready", "host": registry.host})
        await asyncio.Event().wait()


def _print(access: Access) -> None:
    _line({"event": "access"} | asdict(access))


def _line(fields: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
