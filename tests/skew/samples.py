"""Samples of everything that programs of Warmhook write for each other, with all their fields, and how each is read."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog

from adapters.cloudevents import STRUCTURED, read_event, write_event
from adapters.kubernetes.warmimage import read_warmimage, warmimage_object
from adapters.kubernetes.warmpolicy import read_warmpolicy
from handlers.reconcile.objects import read_desired as read_desired_metadata
from nodeagent.desired import read_desired
from nodeagent.removal_records import RecordFile
from nodeagent.state_file import State, StateFile
from warmhook.admission_review import Admitted
from warmhook.api import PEER_ANNOTATION, TRANSFERS_ANNOTATION, VERSION_ANNOTATION
from warmhook.delivery_records import DeliveryRecord, RecentDeliveries, read_delivery_records
from warmhook.desired_lines import select_lines
from warmhook.early_blobs import EarlyBlobs, encode_early_blobs, read_early_blobs
from warmhook.events import (
    Changed,
    Event,
    Pushed,
    admitted_event,
    changed_event,
    pushed_event,
    read_admitted,
    read_change,
    read_changed,
    read_pushed,
    read_reported,
    reported_event,
    sync_event,
)
from warmhook.hints import Child, Early, Hint, Peer, line_of_hint, read_early, read_hint
from warmhook.images import Reference, parse_reference
from warmhook.node_lines import Line, desired_name, new_configmap, node_patch
from warmhook.node_report import LineReport, read_detail, read_report, report_name, report_patch
from warmhook.peers import PeerReport, Transfer, encode_peer, encode_transfers
from warmhook.ports import Object
from warmhook.removals import Brought
from warmhook.status import Counts, Failure, status_object
from warmhook.timeline import read_push_times
from warmhook.warmimages import ObjectKey, PolicyKey, Pull, policy_label

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
_DIGEST: Final = "sha256:" + "a" * 64
_BLOB: Final = "sha256:" + "b" * 64
_IMAGE: Final = "harbor.example.com/shop/app:v1"
_KEY: Final = "k" * 43
_NODE: Final = "node-1"
_UID: Final = "54c63f73-5599-4584-bb64-354389b36a36"
_OF_NODE: Final = {"apiVersion": "v1", "kind": "Node", "name": _NODE, "uid": _UID}


@dataclass(frozen=True, slots=True)
class Kind:
    """Something that one program writes and another reads."""

    write: Callable[[], Any]
    """What today's program writes, as JSON."""
    read: Callable[[Any], Any]
    """What today's program understands of it."""


def plain(value: Any) -> Any:
    """A value as JSON; a field of a dataclass that is its default is left out."""
    if isinstance(value, Reference):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.repr}
        return {name: plain(each) for name, each in fields.items() if each not in (None, "", (), frozenset(), 0, False)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(map(plain, value))
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


# --- what handlers write for agents ----------------------------------------------------------------------------------

_PARENTS: Final = (Peer("node-2", "10.0.0.2:9465", _KEY), Peer("node-3", "[fd00::3]:9465", _KEY))
_CHILDREN: Final = (Child("node-4", _KEY),)


def _lines() -> Iterator[Line]:
    every = Pull("Always", 60, 7, -5, pinned=True, secrets=("regcred", "other"))
    yield Line(ObjectKey("shop", "plain"), _IMAGE)
    yield Line(ObjectKey("shop", "digest"), _IMAGE, _DIGEST, size_bytes=123_456_789)
    yield Line(ObjectKey("shop", "moved"), _IMAGE, pushed_at="2026-03-01T12:00:00.5Z")
    yield Line(ObjectKey("shop", "pulled"), f"docker.io/library/nginx@{_DIGEST}", pull=every, on_removal="Delete")
    yield Line(ObjectKey("shop", "idle"), _IMAGE, suspended=True, purged=True)
    yield Line(ObjectKey("shop", "refreshed"), _IMAGE, refreshed_at="2026-03-01T12:00:00Z")


def _desired() -> Object:
    lines = {line.key: line for line in _lines()}
    expires = int(NOW.timestamp()) + 900
    hints = {key: Hint(expires, _DIGEST, _PARENTS, _CHILDREN, 3, 120) for key in list(lines)[:1]}
    hints |= {key: Hint(expires) for key in list(lines)[1:2]}
    blobs = Early(expires, "harbor.example.com", "shop/app", {_BLOB: 2**21}, _PARENTS, _CHILDREN, 2)
    patch = node_patch(_NODE, _UID, lines, ["f" * 16], hints, dict.fromkeys(list(lines)[:1], blobs))
    obj = new_configmap(desired_name(_NODE), patch)
    return {**obj, "metadata": obj["metadata"] | {"uid": "of the ConfigMap", "resourceVersion": "7"}}


def _read_desired(obj: Object) -> Any:
    """What the agent and what the handlers make of it."""
    desired = read_desired(obj)
    selection = select_lines(desired.data, {}, 0)
    hints = {key: read_hint(text) for key, text in desired.data.items() if line_of_hint(key)}
    early = {key: read_early(text) for key, text in desired.data.items() if key.endswith(".early")}
    assert not selection.malformed, selection.malformed
    return {
        "agent": plain({"lines": selection.lines, "hints": hints, "early": early, "owner": desired.owner_uid}),
        "handlers": plain(read_desired_metadata(obj["metadata"])),
    }


# --- what agents write for handlers, and for themselves --------------------------------------------------------------


def _report() -> Object:
    lines = {
        "0" * 16: LineReport("00000000", "warm"),
        "1" * 16: LineReport("11111111", "warm", moved=_BLOB),
        "2" * 16: LineReport("22222222", "waiting"),
        "3" * 16: LineReport("33333333", "pulling", attempts=2),
        "4" * 16: LineReport("44444444", "failed", "NotFound", 4, "no such \u20ac image"),
    }
    obj = new_configmap(report_name(_NODE), report_patch(_NODE, _UID, NOW, {}, lines))
    peer = PeerReport("10.0.0.5:9465", _KEY, 5_000_000, {"harbor.example.com": 10_000_000})
    obj["metadata"]["annotations"] |= {
        VERSION_ANNOTATION: "0.1.0",
        PEER_ANNOTATION: encode_peer(peer),
        TRANSFERS_ANNOTATION: encode_transfers([Transfer("00000000", 1, 2, 3, 4, 5)]),
    }
    return obj


def _read_report(obj: Object) -> Any:
    details = {key: read_detail(text) for key, text in (obj.get("data") or {}).items()}
    return plain({"report": read_report(obj["metadata"]), "details": details})


def _in_folder(write: Callable[[Path], Any]) -> Any:
    with tempfile.TemporaryDirectory(prefix="wh") as folder:
        return write(Path(folder))


def _state() -> Any:
    lines = {line.key: line.encode() for line in _lines()}
    state = State(7, lines, {"00000000": _DIGEST}, {"11111111": "it is a chart"}, {"2" * 16: "2026-03-01T12:00:00Z"})
    records = {_DIGEST: Brought(frozenset({_IMAGE}), {"0" * 16: "Delete", "1" * 16: "Retain"})}

    def write(folder: Path) -> Any:
        StateFile(folder, _NODE, structlog.get_logger()).save(state)
        RecordFile(folder, _NODE, structlog.get_logger()).save(records)
        return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}

    return _in_folder(write)


def _read_state(files: Mapping[str, Any]) -> Any:
    def read(folder: Path) -> Any:
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        log = structlog.get_logger()
        return plain({"state": StateFile(folder, _NODE, log).load(), "removals": RecordFile(folder, _NODE, log).load()})

    return _in_folder(read)


# --- events between watch, admission, a Broker and the handlers ------------------------------------------------------


def _events() -> Iterator[Event]:
    pushed = Pushed(replace(parse_reference(_IMAGE), digest=_DIGEST), NOW - timedelta(seconds=1), "delivery-1")
    yield pushed_event("harbor", pushed, NOW)
    yield admitted_event(_pod(), NOW)
    seen = {"metadata": {"name": "x", "namespace": "shop", "labels": {"a": "b"}}}
    yield changed_event(
        [
            Changed("WarmImage", "shop", "x", resource_version="7", uid="u", object=seen),
            Changed("WarmPolicy", "shop", "y", deleted=True, resource_version="8", uid="v"),
            Changed("Node", "", _NODE),
        ],
        NOW,
    )
    yield reported_event(["shop/x", "shop/y"], NOW)
    yield sync_event(7, NOW)


def _pod() -> Admitted:
    image = parse_reference(_IMAGE)
    return Admitted(
        namespace="shop",
        owner="Deployment/web",
        images=(image,),
        containers=(("web", image),),
        owner_uid="u-2",
        labels={"app": "web"},
        node_selector={"pool": "shop"},
        pull_secrets=("regcred",),
    )


def _read_event(body: Any) -> Any:
    event = read_event({"content-type": STRUCTURED}, json.dumps(body).encode(), NOW)
    readers: dict[str, Callable[[Event], Any]] = {
        "image.pushed": read_pushed,
        "pod.admitted": read_admitted,
        "objects.changed": lambda given: [read_change(named) for named in read_changed(given)],
        "report.changed": read_reported,
    }
    found = next((read(event) for name, read in readers.items() if name in event.type), None)
    return {"id": event.id, "type": event.type, "means": plain(found)}


# --- objects of people and of Warmhook -------------------------------------------------------------------------------

_LABELS: Final = {"matchLabels": {"pool": "shop"}, "matchExpressions": [{"key": "gpu", "operator": "Exists"}]}
_AFFINITY: Final = {
    "nodeSelectorTerms": [
        {
            "matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["7"]}],
            "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-9"]}],
        }
    ]
}
_NODES: Final = {
    "selector": _LABELS,
    "names": ["node-1", "node-2"],
    "limit": "50%",
    "affinity": _AFFINITY,
    "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "shop", "effect": "NoSchedule"}],
    "runningPods": {"matchLabels": {"app": "web"}},
}
_PULL: Final = {
    "policy": "Always",
    "timeoutSeconds": 60,
    "backoffLimit": 7,
    "priority": 5,
    "pinned": True,
    "secrets": ["regcred"],
    "sharePrivate": True,
    "refreshIntervalSeconds": 3600,
    "refreshWindows": [{"schedule": "0 3 * * *", "durationSeconds": 7200, "timeZone": "Europe/Paris"}],
}
_SOURCE: Final = {"mode": "peers", "seeds": "10%", "seedNodes": {"matchLabels": {"seed": "yes"}}}
_POLICY: Final[Object] = {
    "apiVersion": "warmhook.dev/v1alpha1",
    "kind": "WarmPolicy",
    "metadata": {"name": "shop", "namespace": "shop"},
    "spec": {
        "images": [f"{_IMAGE}@{_DIGEST}", "docker.io/library/redis:7"],
        "push": [
            {
                "repository": "harbor.example.com/shop/**",
                "tags": ["v*"],
                "exclude": ["*-dev"],
                "semver": ">=1.2 <3",
                "untagged": True,
                "keep": 3,
            }
        ],
        "pods": {"selector": _LABELS, "existing": True},
        "rollouts": {"selector": _LABELS},
        "preferWarm": True,
        "suspend": True,
        "template": {
            "nodes": _NODES,
            "pull": _PULL,
            "lifetime": {"type": "Keep", "expireAfterSeconds": 86400},
            "onRemoval": "Delete",
            "source": _SOURCE,
        },
    },
}
_WARMIMAGE: Final[Object] = {
    "apiVersion": "warmhook.dev/v1alpha1",
    "kind": "WarmImage",
    "metadata": {
        "name": "app-1f0c2d9a7b",
        "namespace": "shop",
        "uid": _UID,
        "generation": 2,
        "resourceVersion": "7",
        "creationTimestamp": "2026-03-01T11:59:00Z",
        "labels": {
            "warmhook.dev/policy": policy_label(PolicyKey("shop", "shop")),
            "warmhook.dev/repository": "0" * 16,
            "warmhook.dev/owner": "1" * 16,
        },
        "annotations": {
            "warmhook.dev/event-id": "0" * 32,
            "warmhook.dev/refresh": "by hand",
            "warmhook.dev/policy-refresh": "by policy",
            "warmhook.dev/purge": "false",
            "warmhook.dev/policy-gone-since": "2026-03-01T11:59:30Z",
            "warmhook.dev/early-blobs": encode_early_blobs(EarlyBlobs(int(NOW.timestamp()) + 300, {_BLOB: 2**21})),
        },
    },
    "spec": {
        "image": _IMAGE,
        "digest": _DIGEST,
        "pushedAt": "2026-03-01T12:00:00Z",
        "policyName": "shop",
        "pods": {
            "source": "Rollout",
            "owners": [
                {
                    "kind": "Deployment",
                    "name": "web",
                    "labels": {"app": "web"},
                    "containers": ["web"],
                    "admittedAt": "2026-03-01T11:59:59Z",
                    "selector": {"matchLabels": {"app": "web"}},
                }
            ],
            "moreOwners": True,
            "affinity": _AFFINITY,
            "tolerations": [{"operator": "Exists"}],
        },
        "nodes": _NODES,
        "pull": _PULL,
        "lifetime": {"type": "Once", "deadlineSeconds": 600, "ttlSecondsAfterFinished": 60},
        "source": _SOURCE,
        "suspend": True,
    },
}


def _warmimages() -> Iterator[Object]:
    """With all fields; as a push creates it; with the status that handlers write."""
    yield _WARMIMAGE
    warmimage = read_warmimage(_WARMIMAGE)
    yield warmimage_object(warmimage) | {"status": {}}
    counts = Counts(warm=2, failed=1, unreachable=1, transfers=(Transfer("00000000", 1, 2, 3, 4, 5),))
    resolved = {
        "image": f"{_IMAGE}@{_DIGEST}",
        "checkedAt": "2026-03-01T12:00:01Z",
        "digest": _DIGEST,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "platforms": ["linux/amd64", "linux/arm64/v8"],
        "sizeBytes": 123,
        "problem": "Network",
    }
    handled = {"refreshedAt": "2026-03-01T12:00:02Z", "refreshedBy": "Nodes", "refreshHandled": "by hand"}
    before = {"resolved": resolved, "policyRefreshHandled": "by policy", **handled}
    status = status_object(before, warmimage, counts, [Failure("node-3", "DiskFull", "no space")], NOW)
    yield _WARMIMAGE | {"status": status}


def _read_warmimage(obj: Object) -> Any:
    found = read_warmimage({**obj, "metadata": _WARMIMAGE["metadata"] | obj["metadata"]})
    early = read_early_blobs((obj["metadata"].get("annotations") or {}).get("warmhook.dev/early-blobs"))
    return plain({"warmimage": found, "times": read_push_times(obj), "early": early, "resolved": found.resolved})


def _deliveries() -> Mapping[str, str]:
    recent = RecentDeliveries()
    recent.add(DeliveryRecord(NOW, "harbor", "harbor", "accepted", "", (_IMAGE,), 2, "", "0" * 32, 0.25))
    recent.add(DeliveryRecord(NOW, "github", "github", "skipped", "malformed", detail="event_data: missing"))
    return {"warmhook-web-1.8080": recent.encode(NOW)}


KINDS: Final[Mapping[str, Kind]] = {
    "desired": Kind(lambda: [_desired()], _read_desired),
    "report": Kind(lambda: [_report()], _read_report),
    "state": Kind(lambda: [_state()], _read_state),
    "events": Kind(lambda: [json.loads(write_event(event)) for event in _events()], _read_event),
    "warmimages": Kind(lambda: list(_warmimages()), _read_warmimage),
    "warmpolicies": Kind(lambda: [_POLICY], lambda obj: plain(read_warmpolicy(obj))),
    "deliveries": Kind(lambda: [_deliveries()], lambda data: plain(read_delivery_records(data))),
}
"""By the name of the file that has it."""
