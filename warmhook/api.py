"""Name the API: group, version, kinds, and every label and annotation that Warmhook writes or reads."""

from __future__ import annotations

from typing import Final

GROUP: Final = "warmhook.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

# On WarmImages.
POLICY_LABEL: Final = f"{GROUP}/policy"
REPOSITORY_LABEL: Final = f"{GROUP}/repository"
OWNER_LABEL: Final = f"{GROUP}/owner"
EVENT_ANNOTATION: Final = f"{GROUP}/event-id"
GONE_ANNOTATION: Final = f"{GROUP}/policy-gone-since"
"""When the policy was first found missing. The WarmImage is deleted if it still is one sync interval later."""
EARLY_ANNOTATION: Final = f"{GROUP}/early-blobs"
"""The blobs of a push of the same repository that has not ended."""

# On WarmImages and WarmPolicies, by people.
REFRESH_ANNOTATION: Final = f"{GROUP}/refresh"
"""Any text: each new one refreshes the image, or all images of the policy, once."""
PURGE_ANNOTATION: Final = f"{GROUP}/purge"
"""Present and not `false`: the image, or all images of the policy, are not wanted on nodes for now."""
# On WarmImages, the same of their policy.
POLICY_REFRESH_ANNOTATION: Final = f"{GROUP}/policy-refresh"
POLICY_PURGE_ANNOTATION: Final = f"{GROUP}/policy-purge"

# On the ConfigMaps of a node.
KIND_LABEL: Final = f"{GROUP}/kind"
"""`desired` or `report`."""
NODE_ANNOTATION: Final = f"{GROUP}/node"
LINE_LABEL: Final = f"line.{GROUP}/"
"""Prefix of the label that indexes a line: its key and version."""
DROPPED_ANNOTATION: Final = f"{GROUP}/refused"
"""On a desired ConfigMap: keys of the lines that found no room in it, or that it may lack since it was created."""
TRUNCATED_LABEL: Final = f"{GROUP}/full"
"""On a desired ConfigMap that has no room for some of its lines."""
WARM_ANNOTATION: Final = f"{GROUP}/warm"
"""On a report: versions of the warm lines."""
SEEN_ANNOTATION: Final = f"{GROUP}/seen"
"""On a report: when the agent wrote it last."""

VERSION_ANNOTATION: Final = f"{GROUP}/version"
"""On a report: the version of the agent that wrote it."""
PEER_ANNOTATION: Final = f"{GROUP}/peer"
"""On a report: where the agent serves images to others."""
TRANSFERS_ANNOTATION: Final = f"{GROUP}/transfers"
"""On a report: what the agent fetched from whom, for the lines of the last hour."""
HINT_ANNOTATION: Final = f"hint.{GROUP}/"
"""Prefix of the annotation of a desired ConfigMap that has a hint: the key of its line and when the hint expires."""
EARLY_HINT_ANNOTATION: Final = f"early.{GROUP}/"
"""The same of a desired ConfigMap that has blobs of a push that has not ended."""

# On Pods.
PREFER_ANNOTATION: Final = f"{GROUP}/prefer-warm"
