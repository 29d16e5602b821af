"""Make WarmImage objects as the handlers leave them."""

from __future__ import annotations

from collections.abc import Sequence

from warmhook.ports import Object

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def image_object(
    image: str,
    *,
    name: str = "",
    namespace: str = "shop",
    host: str = "h.example",
    path: str = "shop",
    reason: str = "",
    counted: bool = True,
    digest: str = "",
    wanted: str = "",
    failures: Sequence[tuple[str, str, str]] = (),
    **counts: int,
) -> Object:
    """A WarmImage of `host/path/image`; `counts` as in its status, `failures`: node, reason and message."""
    tally = {state: counts.get(state, 0) for state in ("warm", "pulling", "waiting", "failed", "unreachable")}
    desired = sum(tally.values())
    ready = not reason and 0 < tally["warm"] == desired - tally["unreachable"]
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": reason or ("AllWarm" if ready else "NotAllWarm"),
        "message": f"{tally['warm']} of {desired} nodes warm",
    }
    found = {
        "observedGeneration": 2 if counted else 1,
        "desired": desired,
        **tally,
        "failures": [{"node": node, "reason": why, "message": message} for node, why, message in failures],
        "conditions": [condition],
    }
    return {
        "metadata": {
            "namespace": namespace,
            "name": name or image.replace(":", "-").partition("@")[0],
            "generation": 2,
            "creationTimestamp": "2026-03-01T12:00:00Z",
        },
        "spec": {"image": f"{host}/{path}/{image}"} | ({"digest": wanted} if wanted else {}),
        "status": found | ({"digest": digest} if digest else {}),
    }
