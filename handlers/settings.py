"""Read the settings of `web` and `watch` from the environment, once."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from adapters.env import BadSetting, choice, flag, number, text
from adapters.logs import LOG_MODES, LogMode
from warmhook.admission_review import is_namespace
from warmhook.peer_rates import RATE

_PROGRAMS: Final = frozenset({"web", "web --watch", "watch"})

_EXTENSION: Final = re.compile(r"[a-z0-9]{1,20}")
_ATTRIBUTES: Final = frozenset(
    {"specversion", "id", "source", "type", "time", "subject", "data", "datacontenttype", "dataschema"}
)
_ROUTES: Final = frozenset({"webhooks", "events", "admission", "metrics"})
_MORE_ROUTES: Final = frozenset({"dead-letters", "ui"})
UiAccess: TypeAlias = Literal["token", "loopback"]
_UI_ACCESS: Final[tuple[UiAccess, ...]] = ("token", "loopback")


@dataclass(frozen=True, slots=True)
class UiSettings:
    """The settings of the page."""

    access: UiAccess = "token"
    """`token`: each reader signs in with a token. `loopback`: all who reach a port of this machine only."""
    port: int = 8081
    """That port."""
    streams: int = 64
    """Open pages that are told of changes at once; others must be loaded again by hand."""
    pool_label: str = ""
    """The label of Nodes that names their pool; empty: those of common clouds."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one `web` or `watch`."""

    port: int = 8080
    tls_port: int = 0
    """The port of the same routes over TLS, which admission needs; 0: none."""
    watch: bool = False
    """Whether this process watches."""
    serve: frozenset[str] = _ROUTES
    """Groups of routes that this process has; none for the program `watch`."""
    namespace: str = "warmhook-system"
    """The namespace of the node ConfigMaps."""
    config: str | None = None
    """The file with the senders; `None`: no senders."""
    events_url: str = "http://127.0.0.1:8080/events"
    """Where events are posted that another process handles."""
    events_token_file: Path | None = None
    """Holds the bearer token of `/events`; `None`: nobody may post there unless `events_open`."""
    events_open: bool = False
    """Without a token file anybody may post to `/events`: for Knative, where a NetworkPolicy restricts it."""
    sink: str | None = None
    """`K_SINK`: `web` also posts pushes there, and `watch` posts there instead of to `events_url`."""
    sink_extensions: Mapping[str, str] = field(default_factory=dict)
    """Additional attributes of every event for the sink."""
    sync_seconds: int = 300
    write_bytes: int = 4 * 1024 * 1024
    """Bytes of node ConfigMaps written per second; 0: no limit."""
    registry_rate: int = RATE
    """Bytes per second that a registry sends to all nodes together, until nodes have measured it."""
    node_rate: int = RATE
    """Bytes per second that a node receives from another one, until nodes have measured it."""
    early_nodes: int = 32
    """Of so many nodes of an image all fetch its blobs before a push ends; of more only those that read the
    registry."""
    log: LogMode = "auto"
    host: str = field(default_factory=socket.gethostname)
    """The name of this machine or Pod, which is in the name of the leader."""
    kubeconfig: str | None = None
    """`None`: the ServiceAccount of the Pod."""
    ui: UiSettings = field(default_factory=UiSettings)

    @property
    def dispatches_in_process(self) -> bool:
        """Whether the handlers of this process handle what it watches."""
        handles = "events" in self.serve and self.sink is None and self.events_url == _own_events(self.port)
        return self.watch and handles

    @property
    def ui_port(self) -> int:
        """The port of the page alone; 0: it has none, and is on the port of the other routes or not served."""
        return self.ui.port if "ui" in self.serve and self.ui.access == "loopback" else 0

    @property
    def forwards_admissions(self) -> bool:
        """Whether another process handles the Pods that admission saw here."""
        return "admission" in self.serve and "events" not in self.serve

    @property
    def publishes(self) -> bool:
        """Whether accepted pushes are posted to the sink as well."""
        return "webhooks" in self.serve and self.sink is not None

    @property
    def posts_events(self) -> bool:
        """Whether this process posts events over HTTP."""
        return self.publishes or self.forwards_admissions or (self.watch and not self.dispatches_in_process)


def read_settings(environ: Mapping[str, str], program: str = "web") -> Settings:
    """The settings that `environ` holds for `web`, `web --watch` or `watch`. Raises `BadSetting`."""
    if program not in _PROGRAMS:
        raise BadSetting("usage: python -m handlers [--watch]")
    port = number(environ, "PORT", 8080, minimum=1, maximum=65535)
    given = text(environ, "WARMHOOK_SERVE", "webhooks,events,admission,metrics")
    serve = frozenset(part.strip() for part in given.split(","))
    if not serve <= _ROUTES | _MORE_ROUTES:
        groups = ", ".join(sorted(_ROUTES | _MORE_ROUTES))
        raise BadSetting(f"WARMHOOK_SERVE must be a list of {groups}, not {given!r}")
    events_url = text(environ, "WARMHOOK_EVENTS_URL", _own_events(port))
    if not events_url.startswith(("http://", "https://")):
        raise BadSetting(f"WARMHOOK_EVENTS_URL must be an http:// or https:// URL, not {events_url!r}")
    namespace = text(environ, "WARMHOOK_NAMESPACE", "warmhook-system")
    if not is_namespace(namespace):
        raise BadSetting(f"WARMHOOK_NAMESPACE must be the name of a namespace, not {namespace!r}")
    token_file = environ.get("WARMHOOK_EVENTS_TOKEN_FILE")
    return Settings(
        port=port,
        tls_port=number(environ, "WARMHOOK_TLS_PORT", 0, minimum=0, maximum=65535),
        watch=program != "web",
        serve=frozenset() if program == "watch" else serve,
        namespace=namespace,
        config=environ.get("WARMHOOK_CONFIG") or None,
        events_url=events_url,
        events_token_file=_readable(token_file) if token_file else None,
        events_open=flag(environ, "WARMHOOK_EVENTS_OPEN"),
        sink=_sink(environ),
        sink_extensions=_extensions(environ.get("K_CE_OVERRIDES", "")),
        sync_seconds=number(environ, "WARMHOOK_SYNC_SECONDS", 300, minimum=1, maximum=86400),
        write_bytes=number(environ, "WARMHOOK_WRITE_BYTES", 4 * 1024 * 1024, minimum=0, maximum=1 << 40),
        registry_rate=number(environ, "WARMHOOK_REGISTRY_RATE", RATE, minimum=1000, maximum=1 << 40),
        node_rate=number(environ, "WARMHOOK_NODE_RATE", RATE, minimum=1000, maximum=1 << 40),
        early_nodes=number(environ, "WARMHOOK_EARLY_BLOB_NODES", 32, minimum=0, maximum=5000),
        log=choice(environ, "WARMHOOK_LOG", "auto", LOG_MODES),
        kubeconfig=environ.get("KUBECONFIG") or None,
        ui=UiSettings(
            access=choice(environ, "WARMHOOK_UI_ACCESS", "token", _UI_ACCESS),
            port=number(environ, "WARMHOOK_UI_PORT", 8081, minimum=1, maximum=65535),
            streams=number(environ, "WARMHOOK_UI_STREAMS", 64, minimum=1, maximum=1024),
            pool_label=environ.get("WARMHOOK_UI_POOL_LABEL", ""),
        ),
    )


def _own_events(port: int) -> str:
    return f"http://127.0.0.1:{port}/events"


def _sink(environ: Mapping[str, str]) -> str | None:
    sink = environ.get("K_SINK") or None
    if sink is not None and not sink.startswith(("http://", "https://")):
        raise BadSetting("K_SINK must be an http:// or https:// URL")
    return sink


def _extensions(given: str) -> dict[str, str]:
    """The value that a Knative SinkBinding writes: `{"extensions": {"name": "value"}}`."""
    try:
        extensions = json.loads(given or "{}").get("extensions", {})
        usable = all(
            _EXTENSION.fullmatch(name) and name not in _ATTRIBUTES and isinstance(value, str)
            for name, value in extensions.items()
        )
    except (ValueError, AttributeError, RecursionError):
        usable = False
    if not usable:
        raise BadSetting(
            'K_CE_OVERRIDES must be {"extensions": {"name": "value"}}, names of a-z and 0-9, none an event has'
        )
    return dict(extensions)


def _readable(path: str) -> Path:
    try:
        token = Path(path).read_bytes().strip()
    except OSError as error:
        raise BadSetting(f"WARMHOOK_EVENTS_TOKEN_FILE: cannot read {path}: {error.strerror}") from error
    if not token:
        raise BadSetting(f"WARMHOOK_EVENTS_TOKEN_FILE: {path} is empty; write a token into it")
    return Path(path)
