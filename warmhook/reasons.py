"""Say what each reason means that deliveries, nodes and conditions give, and what helps."""

from __future__ import annotations

from typing import Final

_MEANINGS: Final = {
    # Of nodes without the image.
    "NotFound": "The registry does not have the image, or hides it from this node. Check the name and the credentials.",
    "Unauthorized": "The registry does not serve the image to this node. Check the Secret that the message names.",
    "RateLimited": "The registry limits requests. The node waits as long as it says, and then goes on.",
    "Network": "The registry could not be reached. The node tries again.",
    "Timeout": "The pull made no progress for too long. The node tries again.",
    "DiskFull": "The pull would leave too little free space on the node. Free space, or wait for the kubelet to.",
    "Evicted": "Another program removed pulled images again and again. The node waits for an hour, then longer.",
    "Refused": "The host of the image is the node itself or link-local, see WARMHOOK_ALLOW_LOCAL_REGISTRIES.",
    "NotRunnable": "It is a chart, a signature or another artefact, not a container image.",
    "PlatformMissing": "The image is for other platforms than that of the node.",
    "RuntimeError": "The container runtime failed; the message has its error.",
    "TooManyLines": "The node has no room for more images. Select fewer images per node.",
    "NoAgent": "The agent of the node has reported nothing for 10 minutes. Check its Pod.",
    "Unreachable": "The agent of the node has reported nothing for 10 minutes. Check its Pod.",
    # Of conditions.
    "AllWarm": "Every node that should hold the image does.",
    "ReachableWarm": "Every node that should hold the image does, but for the unreachable ones.",
    "NotAllWarm": "Not every node that should hold the image does yet.",
    "NoNodes": "The WarmImage selects no node. Check its selector, names and limit.",
    "Suspended": "It is suspended: nodes pull and delete nothing for it.",
    "Purged": "It is purged: the image is not wanted on nodes for now.",
    "Invalid": "A field cannot be used; the message names it.",
    "BeyondLimits": "It asks for more than its namespace may have; the message names each field.",
    "WithinLimits": "It no longer asks for more than its namespace may have.",
    "PodsUnknown": "The Pods that decide about its nodes may not be read.",
    "DeadlineExceeded": "Its deadline has ended it before all nodes were warm.",
    "NodesFailed": "The image has failed on nodes.",
    "NodesUnreachable": "Agents of nodes that should hold the image have reported nothing for 10 minutes.",
    "NoneFailed": "The image has failed on no node.",
    # Of deliveries.
    "bad-secret": "The secret of the sender is not the secret of the source. Compare both.",
    "token-not-encoded": "The secret has characters that a URL must percent-encode.",
    "no-policy": "No policy has a rule for this image, or the policy that has one cannot be read.",
    "host-not-allowed": "The host of the image is not in allowedHosts of the source.",
    "early-blob": "A layer was pushed before its manifest.",
    "refused": "Policies want the image, but the API server rejected every WarmImage: see the condition Degraded.",
    "duplicate": "The push was handled before.",
    "superseded": "A newer push is known.",
    "expired": "The push is older than expireAfterSeconds.",
    "not-a-push": "A pull, a deletion or a scan: nothing to do.",
    "ping": "A test of the sender: nothing to do.",
    "handshake": "The sender validated the endpoint: nothing to do.",
    "unknown-event": "This kind of source does not know the event. Check the kind, and which events the sender sends.",
    "not-a-container": "Another kind of package than a container image.",
    "not-runnable": "A chart, a signature or another artefact that no runtime runs.",
    "pull-through-cache": "The registry stored an image because it was pulled.",
    "proxy-cache": "The registry stored an image because it was pulled.",
    "remote-cache": "The registry stored an image because it was pulled.",
    "replication-echo": "The registry stored an image because it was replicated, or an event of Warmhook came back.",
    "no-registry-host": "The payload names no host: set registryHost of the source.",
    "no-tag-no-digest": "The event names no version of the image.",
    "malformed": "The body is not in the documented form of this sender.",
    "origin-not-allowed": "The origin of the sender is not in allowedOrigins of the source.",
    "too-large": "The body is larger than 1 MiB.",
    "unknown-encoding": "The body has an encoding other than gzip.",
    "slow-body": "The body was incomplete after 10 seconds.",
    "busy": "Too many bodies were being read at once. The sender repeats it.",
    "disconnected": "The sender closed the connection before the body was read.",
    "secret-unreadable": "The file of the secret cannot be read. The sender repeats the delivery.",
    "keys-unreachable": "The address of the signing keys cannot be read. The sender repeats the delivery.",
    "api-server-403": "The receiver may not read policies or write WarmImages. The sender repeats the delivery.",
    "api-server-404": "The CRDs of the API server are not those of this version. The sender repeats the delivery.",
    "slow-api-server": "The API server did not store the WarmImage in time. The sender repeats the delivery.",
}
_API_SERVER: Final = "The API server did not store the WarmImage. The sender repeats the delivery."


def meaning(reason: str) -> str:
    """One or two sentences; empty for a reason that is not known, or none."""
    return _MEANINGS.get(reason, _API_SERVER if reason.startswith("api-server-") else "")
