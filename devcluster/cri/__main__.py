"""Serve the image half of a runtime: `python -m devcluster.cri --socket PATH --root DIR`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from adapters.signals import until_signal
from devcluster.cri.server import serve_cri


def main() -> None:
    """Serve until SIGTERM or SIGINT. Prints one line when ready."""
    parser = argparse.ArgumentParser(prog="devcluster.cri", description="CRI's image service on a unix socket.")
    parser.add_argument("--socket", type=Path, required=True, help="at most 107 characters")
    parser.add_argument("--root", type=Path, required=True, help="content; created if it is absent")
    asyncio.run(until_signal(_serve(parser.parse_args())))


async def _serve(arguments: argparse.Namespace) -> None:
    async with serve_cri(arguments.socket, arguments.root):
        sys.stdout.write(json.dumps({"event": "ready", "socket": str(arguments.socket)}) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    main()
