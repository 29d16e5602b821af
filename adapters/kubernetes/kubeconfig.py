"""Read a kubeconfig. The one file that knows the `kubernetes` library.

A single file whose current context holds a URL, certificates and a token needs no library. Everything else that kubectl
understands is left to it: several files, plugins, identity providers.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from adapters.kubernetes.rest_config import BadKubeconfig, RestConfig, tls_context

_DEFAULT_KUBECONFIG: Final = "~/.kube/config"
_FILES: Final = ("certificate-authority", "client-certificate", "client-key")
"""Keys of files; the same key with `-data` holds a file's content in base64."""
_PLAIN_KEYS: Final = frozenset(
    {"server", "insecure-skip-tls-verify", "tls-server-name", "proxy-url", "token", *_FILES}
    | {f"{name}-data" for name in _FILES}
)
_MALFORMED: Final = (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError)


async def load_kubeconfig(kubeconfig: str | None, context: str | None = None) -> RestConfig:
    """The server of `context`; `None`: of the current one. `kubeconfig` is a path or a list; `None`: `~/.kube/config`.

    Raises `BadKubeconfig`.
    """
    files = _existing(kubeconfig)
    try:
        plain = _read_plain(files[0], context) if len(files) == 1 else None
        return _plain_config(plain, files[0]) if plain is not None else await _library_config(files, context)
    except _MALFORMED as error:
        where = ", ".join(repr(str(file)) for file in files) + (f", context {context!r}," if context else "")
        reason = " ".join(str(error).split())
        raise BadKubeconfig(f"the kubeconfig {where} cannot be used ({reason}): check it with kubectl") from error


def _existing(kubeconfig: str | None) -> list[Path]:
    # `Path.expanduser` fails for a user without a home.
    files = [Path(os.path.expanduser(part)) for part in (kubeconfig or _DEFAULT_KUBECONFIG).split(os.pathsep) if part]
    found = [file for file in files if file.is_file()]
    if not found:
        named = ", ".join(repr(str(file)) for file in files)
        raise BadKubeconfig(f"no kubeconfig at {named}: set KUBECONFIG to the file of your cluster")
    return found


def _read_plain(file: Path, context: str | None) -> Mapping[str, Any] | None:
    """Cluster, user and namespace of a context in one mapping; `None` if the library has to read the file."""
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        name = context or config["current-context"]
        found = _named(config, "context", name)
        values = {**_named(config, "cluster", found["cluster"]), **_named(config, "user", found["user"])}
    except _MALFORMED:
        # The message of the library has the problem.
        return None
    plain = "server" in values and values.keys() <= _PLAIN_KEYS
    return {**values, "context": name, "namespace": found.get("namespace")} if plain else None


def _named(config: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    (found,) = (each[kind] for each in config[f"{kind}s"] if each["name"] == name)
    content: Mapping[str, Any] = found
    return content


def _plain_config(values: Mapping[str, Any], kubeconfig: Path) -> RestConfig:
    """Paths in `values` are relative to the folder of `kubeconfig`."""
    host, token = values["server"].rstrip("/"), values.get("token")
    tls = None
    if host.startswith("https"):
        with contextlib.ExitStack() as stack:
            tls = tls_context(*(_file(values, name, kubeconfig.parent, stack) for name in _FILES))
        _verify(tls, verify=not values.get("insecure-skip-tls-verify"))
    header = f"Bearer {token}" if token else ""
    return RestConfig(
        host,
        tls,
        lambda: header,
        values.get("tls-server-name"),
        values.get("proxy-url"),
        values.get("namespace") or "default",
        _origin(values["context"], [kubeconfig]),
    )


def _origin(context: str, files: list[Path]) -> str:
    return f"context {context!r} of {', '.join(map(str, files))}"


def _file(values: Mapping[str, Any], name: str, folder: Path, stack: contextlib.ExitStack) -> Path | None:
    if data := values.get(f"{name}-data"):
        # Certificates are read from files only. A Pod whose kubeconfig names files may have no place for others.
        file = Path(stack.enter_context(tempfile.TemporaryDirectory()), name)
        file.write_bytes(base64.b64decode(data))
        return file
    return folder / values[name] if values.get(name) else None


def _verify(tls: ssl.SSLContext, *, verify: bool) -> None:
    if not verify:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE


async def _library_config(files: list[Path], context: str | None) -> RestConfig:
    # Imported here: the library brings its synchronous client, 16 MiB and a third of a second of a program's start.
    try:
        Path.home()
    except RuntimeError:
        # The library reads it during its import. A user without a name has none if HOME is not set.
        os.environ["HOME"] = "/"
    from kubernetes.aio.client import Configuration
    from kubernetes.aio.config import ConfigException, load_kube_config
    from kubernetes.aio.config.kube_config import KubeConfigMerger

    logging.getLogger("kubernetes.aio.config.kube_config").addFilter(_hide_values)
    found = Configuration()
    try:
        paths = os.pathsep.join(map(str, files))
        await load_kube_config(paths, context=context, client_configuration=found, persist_config=False)
        merged = KubeConfigMerger(paths).config
        name = context or merged["current-context"]
        namespace = merged["contexts"].get_with_name(name)["context"].safe_get("namespace") or "default"
    except ConfigException as error:
        raise ValueError(_without_values(str(error))) from None
    tls = None
    if found.host.startswith("https"):
        tls = tls_context(found.ssl_ca_cert, found.cert_file, found.key_file)
        _verify(tls, verify=found.verify_ssl)
    # A token that was read from a file has its newline.
    header: str = found.api_key.get("BearerToken", "").strip()
    host, origin = found.host.rstrip("/"), _origin(name, files)
    return RestConfig(host, tls, lambda: header, found.tls_server_name, found.proxy, namespace, origin)


def _without_values(message: str) -> str:
    """A message of the library without the whole user or cluster, credentials included, that it may repeat."""
    return re.sub(r"\{.*\}", "{...}", message, flags=re.DOTALL)


def _hide_values(record: logging.LogRecord) -> bool:
    record.msg, record.args = _without_values(record.getMessage()), None
    return True
