"""Run the API server alone: `python -m devcluster.apiserver --port 8001 --kubeconfig FILE`."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom

import uvicorn
import yaml

from adapters.server import Server
from devcluster.apiserver.app import application
from devcluster.apiserver.core import ApiServer
from devcluster.apiserver.journal import persisted

_HOST = "127.0.0.1"


def kubeconfig(port: int, host: str = _HOST, certificate: Path | None = None) -> str:
    """A kubeconfig for a server on that port of an address of this machine, over TLS with that certificate."""
    name, cluster = "warmhook", {"server": f"http://{host}:{port}"}
    if certificate is not None:
        cluster = {"server": f"https://{host}:{port}", "certificate-authority": str(certificate.resolve())}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": {}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
            "current-context": name,
        },
        sort_keys=False,
    )


class _Server(Server):
    """Ends its streams when it stops."""

    def __init__(self, config: uvicorn.Config, api: ApiServer) -> None:
        super().__init__(config)
        self._api = api

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._api.end_watches()
        await super().shutdown(sockets)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devcluster.apiserver", description=__doc__)
    parser.add_argument("--port", type=int, default=8001, help="its port; 0 takes a free one")
    parser.add_argument("--host", default=_HOST, metavar="ADDRESS", help=f"address of this machine, default {_HOST}")
    parser.add_argument(
        "--certificate",
        type=Path,
        metavar="FILE",
        help="certificate and key in PEM form, to serve TLS",
    )
    parser.add_argument("--data", type=Path, help="file that keeps the cluster over restarts")
    parser.add_argument("--kubeconfig", type=Path, help="file to write a kubeconfig to")
    parser.add_argument(
        "--no-garbage-collector",
        dest="garbage_collector",
        action="store_false",
        help="leave dependents of deleted owners alone, as a cluster without kube-controller-manager does",
    )
    parser.add_argument(
        "--service",
        dest="services",
        action="append",
        default=[],
        metavar="NAME.NAMESPACE=HOST:PORT",
        type=_service,
        help="where a webhook's Service is really served; may be given several times",
    )
    return parser


def _service(text: str) -> tuple[str, tuple[str, int]]:
    service, equals, address = text.partition("=")
    host, colon, port = address.rpartition(":")
    if not equals or not colon or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME.NAMESPACE=HOST:PORT")
    return service, (host, int(port))


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Prints one line with the address when ready."""
    given = _arguments().parse_args(arguments)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((given.host, given.port))
        listener.listen()
    except OSError as error:
        sys.stderr.write(f"--port {given.port}: {error.strerror}; choose another port\n")
        return 2
    port: int = listener.getsockname()[1]
    for file in (given.kubeconfig, given.data):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    if given.kubeconfig is not None:
        given.kubeconfig.write_text(kubeconfig(port, given.host, given.certificate))
    api = ApiServer(lambda: datetime.now(UTC), SystemRandom(), garbage_collector=given.garbage_collector)
    config = uvicorn.Config(
        application(api, services=dict(given.services)),
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
        ssl_certfile=given.certificate,
    )
    server = _Server(config, api)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    with persisted(api, given.data) if given.data is not None else nullcontext():
        # Connections made before uvicorn is ready wait in the listener's queue.
        sys.stdout.write(f"apiserver ready on http://{given.host}:{port}\n")
        sys.stdout.flush()
        server.run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
