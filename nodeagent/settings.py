"""Read the settings of an agent from the environment, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adapters.credential_providers import check_programs, load_providers
from adapters.env import BadSetting, choice, flag, number, text
from adapters.logs import LOG_MODES, LogMode
from nodeagent.peers.settings import PeerSettings, read_peer_settings
from warmhook.admission_review import is_namespace
from warmhook.credential_providers import BadProviders, Provider
from warmhook.placement import NODE_NAME_MAX


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one agent."""

    node: str
    """The Node's name, from the downward API."""
    namespace: str = "warmhook-system"
    """The namespace of the node's two ConfigMaps."""
    runtime_endpoint: str = "unix:///run/containerd/containerd.sock"
    parallel_pulls: int = 2
    check_seconds: int = 45
    """The interval of checks of the runtime while nothing changes."""
    state_dir: Path = Path("/var/lib/warmhook")
    metrics_port: int = 9464
    """The port of metrics and probes; 0: none."""
    min_free_percent: int = 20
    """Free share of the disk for images that pulls leave. A kubelet removes images below 15 %. 0: no limit."""
    allow_local_registries: bool = False
    """Whether nodes may pull from themselves and from link-local addresses, and get images from such peers."""
    log: LogMode = "auto"
    kubeconfig: str | None = None
    """`None`: the ServiceAccount of the Pod."""
    providers: tuple[Provider, ...] = ()
    """The kubelet's credential providers; empty: none."""
    providers_dir: Path = Path()
    """The folder of their programs."""
    peers: PeerSettings = field(default_factory=PeerSettings)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`. Raises `BadSetting`."""
    node = text(environ, "NODE_NAME")
    # The longest name that still fits into `warmhook-desired-<node>`; such nodes never get lines.
    if len(node) > NODE_NAME_MAX or "/" in node:
        raise BadSetting(f"NODE_NAME must be a Node's name of at most {NODE_NAME_MAX} characters, not {node[:250]!r}")
    default = Settings(node)
    endpoint = text(environ, "CONTAINER_RUNTIME_ENDPOINT", default.runtime_endpoint)
    if not endpoint.startswith(("unix:///", "/")):
        raise BadSetting(f"CONTAINER_RUNTIME_ENDPOINT must be like unix:///run/runtime.sock, not {endpoint!r}")
    namespace = text(environ, "WARMHOOK_NAMESPACE", default.namespace)
    if not is_namespace(namespace):
        raise BadSetting(f"WARMHOOK_NAMESPACE must be the name of a namespace, not {namespace!r}")
    allow_local = flag(environ, "WARMHOOK_ALLOW_LOCAL_REGISTRIES")
    return Settings(
        node=node,
        namespace=namespace,
        runtime_endpoint=endpoint,
        parallel_pulls=number(environ, "WARMHOOK_PARALLEL_PULLS", default.parallel_pulls, minimum=1, maximum=64),
        check_seconds=number(environ, "WARMHOOK_CHECK_SECONDS", default.check_seconds, minimum=1, maximum=3600),
        state_dir=Path(text(environ, "WARMHOOK_STATE_DIR", str(default.state_dir))),
        metrics_port=number(environ, "WARMHOOK_METRICS_PORT", default.metrics_port, minimum=0, maximum=65535),
        min_free_percent=number(environ, "WARMHOOK_MIN_FREE_PERCENT", default.min_free_percent, minimum=0, maximum=99),
        allow_local_registries=allow_local,
        log=choice(environ, "WARMHOOK_LOG", default.log, LOG_MODES),
        kubeconfig=environ.get("KUBECONFIG") or None,
        providers=_providers(environ),
        providers_dir=Path(environ.get("WARMHOOK_CREDENTIAL_PROVIDER_BIN_DIR", "")),
        peers=read_peer_settings(environ, allow_local=allow_local),
    )


def _providers(environ: Mapping[str, str]) -> tuple[Provider, ...]:
    names = ("WARMHOOK_CREDENTIAL_PROVIDER_CONFIG", "WARMHOOK_CREDENTIAL_PROVIDER_BIN_DIR")
    config, folder = (environ.get(name) for name in names)
    if not config and not folder:
        return ()
    if not config or not folder:
        raise BadSetting(f"{' and '.join(names)} must be set together")
    at = names[0]
    try:
        providers = load_providers(Path(config))
        at = names[1]
        check_programs(providers, Path(folder))
    except BadProviders as error:
        raise BadSetting(f"{at}: {error}") from error
    return providers
