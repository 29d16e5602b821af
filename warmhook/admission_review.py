"""Read an AdmissionReview: the images of the Pod and the nodes for such Pods, or why nothing follows from it.

Every JSON document gets an answer: the content of a Pod is foreign, and its creation must never wait or fail.
https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#request
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from warmhook.images import NotAReference, Reference, parse_reference
from warmhook.labels import NotASelector, Requirement, TooManyTerms, parse_selector
from warmhook.lenient_fields import as_mapping
from warmhook.node_affinity import Affinity, Constraints, Term, intersect, parse_affinity
from warmhook.taints import Toleration, parse_tolerations

AdmissionSkip: TypeAlias = Literal[
    "not-a-pod", "not-create", "dry-run", "mirror-pod", "daemonset-pod", "own-pod", "malformed", "too-large"
]
ADMISSION_SKIPS: Final[tuple[AdmissionSkip, ...]] = get_args(AdmissionSkip)

_MIRROR: Final = "kubernetes.io/config.mirror"
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PART_OF: Final = "app.kubernetes.io/part-of"
_HASH_LABEL: Final = "pod-template-hash"
_API_VERSION: Final = "admission.k8s.io/v1"
# A CronJob names its Jobs by the minute they are for, in minutes since 1970.
_OF_CRONJOB: Final = re.compile(r"(.+)-[0-9]{8,10}")

# An event must be able to carry them; no Pod that a person wrote comes near this number.
IMAGES_MAX: Final = 128
LABELS_MAX: Final = 128
_CONSTRAINTS_MAX: Final = 16 * 1024
"""Characters of the constraints as JSON: WarmImages hold them."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A new Pod: other Pods of its owner will need the same images on every node where they can be scheduled."""

    namespace: str
    owner: str
    """Kind and name of the object that creates such Pods: `Deployment/web`; for a Pod without an owner its own."""
    images: tuple[Reference, ...]
    """Init containers and sidecars, containers, ephemeral containers, image volumes; each once."""
    containers: tuple[tuple[str, Reference], ...] = ()
    """Names of containers, or `volume/` and the name of an image volume, with the image of each."""
    owner_uid: str = ""
    """The uid of the Pod's controller; empty if it has none."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The labels of the Pod."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    affinity: Affinity | None = None
    """The required part only; preferences do not exclude nodes."""
    tolerations: tuple[Toleration, ...] = ()
    pull_secrets: tuple[str, ...] = ()

    @property
    def constraints(self) -> Constraints:
        """The nodes where such Pods can be scheduled. Raises `TooManyTerms`."""
        selected: Affinity | None = None
        if self.node_selector:
            try:
                requirements = parse_selector({"matchLabels": dict(self.node_selector)}).requirements
            except NotASelector:
                requirements = ()  # no node has such a label
            selected = (Term(requirements),) if requirements else ()
        return Constraints(intersect(selected, self.affinity), self.tolerations)


@dataclass(frozen=True, slots=True)
class Review:
    """An AdmissionReview, as far as it could be read."""

    uid: str = ""
    """Empty if the body has none."""
    api_version: str = _API_VERSION
    pod: Mapping[str, Any] | None = None
    """The Pod as it is now; `None` if the request is about something else, or the Pod must not be changed."""
    namespace: str = ""
    outcome: Admitted | AdmissionSkip = "malformed"


def answer_object(review: Review, patch: str = "") -> dict[str, Any]:
    """The AdmissionReview that allows the request, whatever it was; `patch` is a JSON patch in base64."""
    response: dict[str, Any] = {"uid": review.uid, "allowed": True}
    if patch:
        response |= {"patchType": "JSONPatch", "patch": patch}
    return {"apiVersion": review.api_version, "kind": "AdmissionReview", "response": response}


def read_review(body: object, own_namespace: str) -> Review:
    """Read the decoded body; every value can be read.

    `own_namespace` is the namespace of the Pods of Warmhook.
    """
    review, request = as_mapping(body), as_mapping(as_mapping(body).get("request"))
    given = request.get("uid")
    uid = given if isinstance(given, str) else ""
    api_version = _text(review.get("apiVersion")) or _API_VERSION
    if not request:
        return Review(uid, api_version)
    if _reason_not_a_pod(request):
        return Review(uid, api_version, outcome="not-a-pod")
    pod = as_mapping(request.get("object"))
    metadata = as_mapping(pod.get("metadata"))
    # The API server always names the namespace; a manifest that does not means this one.
    namespace = _text(request.get("namespace")) or _text(metadata.get("namespace")) or "default"
    skip = _skip(request, metadata, namespace, own_namespace)
    if skip is not None:
        # A dry run shows what a real one would do, so its Pod may still be changed.
        return Review(uid, api_version, pod if skip == "dry-run" else None, namespace, skip)
    try:
        outcome: Admitted | AdmissionSkip = _admitted(pod, metadata, namespace) or "malformed"
    except TooManyTerms:
        outcome = "too-large"
    return Review(uid, api_version, pod, namespace, outcome)


def read_pod(pod: Mapping[str, Any], namespace: str) -> Admitted | None:
    """The images and constraints of a Pod; `None` if it cannot be read or has too many parts."""
    try:
        return _admitted(pod, as_mapping(pod.get("metadata")), namespace)
    except TooManyTerms:
        return None


def _reason_not_a_pod(request: Mapping[str, Any]) -> bool:
    kind, resource = as_mapping(request.get("kind")), as_mapping(request.get("resource"))
    named = {"group": "", "version": "v1"}
    is_pod = {**named, **kind} == {**named, "kind": "Pod"} and resource.get("resource", "pods") == "pods"
    return not is_pod or (bool(request.get("subResource")) and request.get("subResource") != "ephemeralcontainers")


def _skip(
    request: Mapping[str, Any], metadata: Mapping[str, Any], namespace: str, own_namespace: str
) -> AdmissionSkip | None:
    if request.get("operation") != "CREATE" or request.get("subResource"):
        return "not-create"
    owners = [as_mapping(owner) for owner in _list(metadata.get("ownerReferences"))]
    if _MIRROR in as_mapping(metadata.get("annotations")):
        return "mirror-pod"
    if any(owner.get("kind") == "DaemonSet" for owner in owners):
        return "daemonset-pod"
    if namespace == own_namespace or as_mapping(metadata.get("labels")).get(_PART_OF) == "warmhook":
        return "own-pod"
    return "dry-run" if request.get("dryRun") is True else None


def _admitted(pod: Mapping[str, Any], metadata: Mapping[str, Any], namespace: str) -> Admitted | None:
    """Raises `TooManyTerms`."""
    spec = as_mapping(pod.get("spec"))
    containers = read_containers(spec)
    images = tuple(dict.fromkeys(image for _, image in containers))
    if not images or not is_namespace(namespace):
        return None
    labels = _texts(metadata.get("labels"))
    owner, owner_uid = _owner(metadata, labels)
    required = as_mapping(as_mapping(spec.get("affinity")).get("nodeAffinity")).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    affinity = None if required is None else parse_affinity(required, strict=False)
    name = _text(spec.get("nodeName"))
    if name:
        affinity = intersect(affinity, (Term(fields=(Requirement("metadata.name", "In", (name,)),)),))
    secrets = (_text(as_mapping(reference).get("name")) for reference in _list(spec.get("imagePullSecrets")))
    admitted = Admitted(
        namespace=namespace,
        owner=owner,
        images=images,
        containers=containers,
        owner_uid=owner_uid,
        labels=labels,
        node_selector=_texts(spec.get("nodeSelector")),
        affinity=affinity,
        tolerations=parse_tolerations(spec.get("tolerations")),
        pull_secrets=tuple(dict.fromkeys(filter(None, secrets))),
    )
    if max(len(containers) / IMAGES_MAX, len(labels) / LABELS_MAX, len(admitted.pull_secrets) / LABELS_MAX) > 1:
        raise TooManyTerms(f"more than {IMAGES_MAX} images, labels or secrets")
    if len(json.dumps(dict(labels))) + len(admitted.constraints.canonical()) > _CONSTRAINTS_MAX:
        raise TooManyTerms(f"constraints of more than {_CONSTRAINTS_MAX} characters")
    return admitted


def read_containers(spec: Mapping[str, Any]) -> tuple[tuple[str, Reference], ...]:
    """The containers of a Pod's spec, of all kinds, and its image volumes: `containers` of `Admitted`."""
    return tuple(_containers(spec))


def named_images(spec: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """The name of each container, or `volume/` and the name of each image volume, with the image as it is written."""
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in map(as_mapping, _list(spec.get(kind))):
            yield _text(container.get("name")), container.get("image")
    for volume in map(as_mapping, _list(spec.get("volumes"))):
        if volume.get("image") is not None:
            yield f"volume/{_text(volume.get('name'))}", as_mapping(volume["image"]).get("reference")


def _containers(spec: Mapping[str, Any]) -> Iterator[tuple[str, Reference]]:
    for name, text in named_images(spec):
        if isinstance(text, str) and text:
            try:
                yield name, parse_reference(text, default_tag="latest")
            except NotAReference:
                continue  # the kubelet reports it to the author of the Pod


def _owner(metadata: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[str, str]:
    """Kind and name of the owner that outlives single rollouts and runs, and the controller's uid."""
    owners = [as_mapping(owner) for owner in _list(metadata.get("ownerReferences"))]
    controller = next(
        (owner for owner in owners if owner.get("controller") is True), as_mapping(owners[0]) if owners else {}
    )
    kind, name, uid = (_text(controller.get(key)) for key in ("kind", "name", "uid"))
    if not kind or not name:
        # A Pod without an owner: Pods from one manifest share the beginning of their generated names.
        return f"Pod/{_text(metadata.get('generateName')) or _text(metadata.get('name'))}", ""
    template_hash = labels.get(_HASH_LABEL, "")
    if kind == "ReplicaSet" and template_hash and name.endswith(f"-{template_hash}"):
        return f"Deployment/{name.removesuffix(f'-{template_hash}')}", uid
    if kind == "Job" and (run := _OF_CRONJOB.fullmatch(name)):
        return f"CronJob/{run[1]}", uid
    return f"{kind}/{name}", uid


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    # All names in Kubernetes are ASCII.
    return value if isinstance(value, str) and value.isascii() else ""


def _texts(value: object) -> dict[str, str]:
    return {
        key: text for key, text in as_mapping(value).items() if _text(key) and isinstance(text, str) and text.isascii()
    }


def is_namespace(text: str) -> bool:
    """Whether `text` can be the name of a namespace (an RFC 1123 label). It becomes part of paths."""
    return _NAMESPACE.fullmatch(text) is not None
