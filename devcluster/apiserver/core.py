"""Answer the requests to an API server, as a function and without sockets."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from devcluster.apiserver import builtins, crds, discovery, views
from devcluster.apiserver.errors import (
    PageNotFound,
    StatusError,
    internal_json,
    method_not_allowed,
    too_large_body,
)
from devcluster.apiserver.garbage import Collector
from devcluster.apiserver.paths import Target, parse_path
from devcluster.apiserver.reads import found, listed
from devcluster.apiserver.resources import Registry
from devcluster.apiserver.reviews import Reviews
from devcluster.apiserver.store import Key, Store
from devcluster.apiserver.tokens import TokenIssuer
from devcluster.apiserver.watches import Watch
from devcluster.apiserver.webhooks import Draft, Reviewing, reviewed
from devcluster.apiserver.writes import Request, Writes, Written
from warmhook.ports import Object, Response, Utcnow

_BODY_LIMIT_BYTES = 3 * 1024 * 1024
_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
_WEBHOOKS = "mutatingwebhookconfigurations.admissionregistration.k8s.io"
_HEALTH = ("/healthz", "/livez", "/readyz")


def is_watch(method: str, query: Mapping[str, str]) -> bool:
    """Whether a request asks for a stream."""
    return method == "GET" and query.get("watch", "") in ("1", "true")


class ApiServer:
    """A laptop-sized API server. Every client is an admin; access reviews answer by the RBAC objects that are stored.

    Not safe for threads: call it from one event loop, or from none.
    """

    def __init__(self, now: Utcnow, random: Random, *, garbage_collector: bool = True) -> None:
        """`random` makes uids and generated names."""
        self.store = Store()
        self.registry = Registry()
        self._now = now
        self._random = random
        self._writes = Writes(self.store, self.registry, now, random)
        self._tokens = TokenIssuer(self.store, now)
        self._reviews = Reviews(self.store, self._tokens)
        self._collector = Collector(self.store, self.registry, self._writes, garbage=garbage_collector)
        self._bootstrap(random)

    def _bootstrap(self, random: Random) -> None:
        """Create the namespaces that every cluster has; they are older than every write of a client."""
        (resource,) = (each for each in self.registry if each.table == "namespaces")
        for i, name in enumerate(_NAMESPACES):
            metadata = {
                "name": name,
                "uid": f"{random.getrandbits(128):032x}",
                "resourceVersion": str(i + 1),
                "creationTimestamp": self._now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
            self.store.restore(0, [(resource.table, ("", name), builtins.created(resource, obj))])

    def handle(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """Answer a request that is no watch. Header names are in lower case."""
        try:
            return self._handle(method, path, query, headers, body)
        except StatusError as error:
            return error.response()
        except PageNotFound:
            return Response(404, {"content-type": "text/plain; charset=utf-8"}, b"404 page not found\n")

    def review(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Reviewing | None:
        """The webhooks that a request calls before it is handled; `None` if it calls none.

        The object as they change it is then handled in place of the body.
        """
        configurations = [one.object for one in self.store.table(_WEBHOOKS).items.values()]
        if method != "POST" or not configurations:
            return None
        try:
            target = parse_path(self.registry, path)
            if target.resource.table != "pods" or target.name:
                return None
            request = Request(target, query, headers, body)
            obj = self._writes.draft(request)
        except (StatusError, PageNotFound):
            return None  # `handle` refuses it
        namespace = self.store.table("namespaces").items.get(("", target.namespace or ""))
        labels = namespace.object["metadata"].get("labels", {}) if namespace else {}
        options: dict[str, Any] = {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"}
        options |= {name: query[name] for name in ("fieldManager", "fieldValidation") if name in query}
        if request.dry_run:
            options["dryRun"] = ["All"]
        draft = Draft(target.resource, target.namespace or "", obj, options, request.dry_run, labels, self._random)
        return reviewed(configurations, draft)

    def watch(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Watch | Response:
        """Begin a watch, or refuse it."""
        try:
            target = parse_path(self.registry, path)
            view = views.parse_accept(headers.get("accept", ""))
            return Watch(self.store, target, query, view, self._now)
        except StatusError as error:
            return error.response()
        except PageNotFound:
            return Response(404, {"content-type": "text/plain; charset=utf-8"}, b"404 page not found\n")

    def collect(self) -> int:
        """Run the controllers once; returns the number of objects that they deleted or changed."""
        return self._collector.collect()

    def compact(self) -> None:
        """Forget the history: watches from older versions expire with 410."""
        self.store.compact()

    def restore(self, version: int, objects: list[tuple[str, Key, Object]]) -> None:
        """Hold these objects, by table and key, and nothing else; versions go on from `version`."""
        for table in self.store.tables.values():
            table.clear()
        self.store.restore(version, objects)
        for stored in self.store.table("customresourcedefinitions.apiextensions.k8s.io").items.values():
            self.registry.replace(stored.object["metadata"]["name"], crds.served(stored.object))

    def end_watches(self) -> None:
        """End every stream that is open, as a server does that stops."""
        self.store.end_watches()

    def _handle(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Response:
        if path in _HEALTH or path.startswith(tuple(f"{name}/" for name in _HEALTH)):
            return Response(200, {"content-type": "text/plain; charset=utf-8"}, b"ok")
        if (document := discovery.document(self.registry, path)) is not None:
            if method != "GET":
                raise method_not_allowed()
            return Response(200, {"content-type": "application/json"}, internal_json(document))
        if (answer := self._tokens.handle(method, path, headers, body)) is not None:
            return answer
        if len(body) > _BODY_LIMIT_BYTES:
            raise too_large_body(_BODY_LIMIT_BYTES)
        if (answer := self._reviews.handle(method, path, headers, body)) is not None:
            return answer
        target = parse_path(self.registry, path)
        view = views.parse_accept(headers.get("accept", ""))
        if method == "GET":
            return self._read(target, query, view)
        written = self._write(method, Request(target, query, headers, body))
        return self._written(target, written, query, view)

    def _read(self, target: Target, query: Mapping[str, str], view: views.View) -> Response:
        if target.name:
            content = views.object_body(view, target.resource, found(self.store, target, query), query, self._now())
        else:
            items, metadata = listed(self.store, target, query)
            content = views.list_body(view, target.resource, items, metadata, query, self._now())
        return Response(200, {"content-type": "application/json"}, content)

    def _write(self, method: str, request: Request) -> Written:
        writes = self._writes
        if request.target.resource.namespaced and request.target.namespace is None:
            raise method_not_allowed()
        named = {"PUT": writes.replace, "PATCH": writes.patch, "DELETE": writes.delete}
        if request.target.name and method in named:
            return named[method](request)
        if not request.target.name and method == "POST":
            return writes.create(request)
        if not request.target.name and method == "DELETE":
            return self._delete_collection(request)
        raise method_not_allowed()

    def _delete_collection(self, request: Request) -> Written:
        target = request.target
        items, _ = listed(self.store, target, request.query)
        for stored in items:
            meta = stored.object["metadata"]
            one = Target(target.resource, meta.get("namespace"), meta["name"])
            self._writes.delete_stored(one, stored, dry_run=request.dry_run)
        return Written(200)

    def _written(self, target: Target, written: Written, query: Mapping[str, str], view: views.View) -> Response:
        headers = {"content-type": "application/json"}
        if written.warnings:
            texts = (text.replace("\\", "\\\\").replace('"', '\\"') for text in written.warnings)
            headers["warning"] = ", ".join(f'299 - "{text}"' for text in texts)
        if written.stored is not None:
            content = views.object_body(view, target.resource, written.stored, query, self._now())
            return Response(written.status, headers, content)
        status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        if written.gone is not None:
            details = {
                "name": target.name,
                "group": target.resource.group,
                "kind": target.resource.plural,
                "uid": written.gone.object["metadata"]["uid"],
            }
            status["details"] = {name: value for name, value in details.items() if value}
        return Response(written.status, headers, internal_json(status))
