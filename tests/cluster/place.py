"""Use a cluster that is not the test's own: note each object that is made, and remove them one by one."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Conflict, KubernetesError, NotFound, Refused
from adapters.kubernetes.paths import CRDS, configmaps, leases, warmimages_in
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from tests.real.programs import eventually
from warmhook.ports import Object

__all__ = ["Place", "open_place"]

_NAMESPACES: Final = "/api/v1/namespaces"


@dataclass(slots=True)
class Place:
    """A corner of the cluster: a prefix for names, a namespace of that name, and a list of what to remove."""

    kubernetes: Kubernetes
    """With the rights of the kubeconfig."""
    prefix: str = field(default_factory=lambda: f"whe-{secrets.token_hex(3)}")
    _made: list[str] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        """Of the node ConfigMaps and of the policies alike."""
        return self.prefix

    async def create(self, collection: str, body: Object) -> Object:
        """Create an object that `clear` removes."""
        made = await self.kubernetes.create(collection, body)
        self.note(f"{collection}/{made['metadata']['name']}")
        return made

    def note(self, path: str) -> None:
        """Have `clear` remove an object that somebody else made for this place."""
        if path not in self._made:
            self._made.append(path)

    async def clear(self) -> None:
        """Remove everything again, newest first; what the programs made in the namespace as well."""
        paths = list(reversed(self._made))
        for collection in (leases(self.namespace), configmaps(self.namespace), warmimages_in(self.namespace)):
            with contextlib.suppress(NotFound):  # a definition that never came to be
                found = (await self.kubernetes.list(collection, metadata_only=True)).items
                paths[:0] = [f"{collection}/{obj['metadata']['name']}" for obj in found]
        left: list[KubernetesError] = []
        for path in paths:
            try:
                await self.kubernetes.delete(path)
            except KubernetesError as error:
                left.append(error)
        await self._finalize()
        if left:
            raise ExceptionGroup(f"objects of {self.prefix} are left in the cluster", left)
        for path in self._made:
            if path.startswith(CRDS):
                await eventually(lambda path=path: self._gone(path), what=f"{path} is removed")

    async def _gone(self, path: str) -> bool:
        try:
            await self.kubernetes.get(path, metadata_only=True)
        except NotFound:
            return True
        return False

    async def _finalize(self) -> None:
        """Let the empty namespace go where no controller does."""
        path = f"{_NAMESPACES}/{self.namespace}"
        with contextlib.suppress(NotFound, Conflict, Refused):
            namespace = await self.kubernetes.get(path)
            await self.kubernetes.replace(f"{path}/finalize", {**namespace, "spec": {"finalizers": []}})


@contextlib.asynccontextmanager
async def open_place(kubernetes: Kubernetes) -> AsyncIterator[Place]:
    """A place with its namespace, in a cluster that knows WarmPolicies and WarmImages."""
    place = Place(kubernetes)
    try:
        for crd in (warmpolicy_crd(), warmimage_crd()):
            # One that is there stays as it is: it may be in use.
            with contextlib.suppress(Conflict):
                await place.create(CRDS, crd)
        await place.create(_NAMESPACES, {"metadata": {"name": place.namespace}})

        async def served() -> bool:
            try:
                await kubernetes.list(warmimages_in(place.namespace))
            except NotFound:
                return False
            return True

        await eventually(served, what="WarmImages are served")
        yield place
    finally:
        await place.clear()
