"""What is broken between the registry and the WarmImage."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any, Final

from adapters.certificates import make_pair
from adapters.kubernetes import paths
from tests.explain.broken import culprit
from tests.explain.scene import IMAGE, Scene
from tests.handlers.world import HOST, SOURCES, digest, status
from warmhook.api import API_VERSION

_OTHER_HOST: Final = SOURCES.replace(f"registryHost: {HOST}", "allowedHosts: [other.example.com]")
_PODS: Final[dict[str, Any]] = {"pods": {"selector": {"matchLabels": {"app": "web"}}}}
_WEBHOOK: Final = paths.mutating_webhooks("warmhook")


async def _hooks(scene: Scene, bundle: bytes) -> None:
    """Write the authority that the API server trusts."""
    hook = (await scene.admin.get(_WEBHOOK))["webhooks"][0]
    hook["clientConfig"] |= {"caBundle": base64.b64encode(bundle).decode()}
    await scene.admin.patch(_WEBHOOK, {"webhooks": [hook]})


# --- the installation ---


@culprit("installation", "CRDMissing", "warmhook crds | kubectl apply")
async def the_crds_are_not_installed(scene: Scene) -> None:
    await scene.stop_watch()
    for kind in ("warmimages", "warmpolicies"):
        await scene.admin.delete(f"{paths.CRDS}/{kind}.warmhook.dev")


@culprit("installation", "NoLeader", "get pods -l app.kubernetes.io/name=warmhook-handlers")
async def no_replica_of_watch_runs(scene: Scene) -> None:
    await scene.settled()
    await scene.stop_watch()
    await scene.pass_time(120)
    await scene.push()


@culprit("installation", "Forbidden", "kubectl apply --server-side -k .")
async def the_handlers_lost_their_rights(scene: Scene) -> None:
    """The embedded API server enforces no RBAC, so the refusals are written here."""
    await scene.admin.delete("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/warmhook-handlers")
    scene.world.answer(status(403, "Forbidden"), "POST PATCH", "configmaps/warmhook-desired")
    scene.world.answer(status(403, "Forbidden"), "POST", "warmhook-system/configmaps")
    await scene.push()
    await scene.pass_time(120)


@culprit("installation", "Forbidden", "kubectl apply --server-side -k .")
async def the_receiver_lost_its_rights(scene: Scene) -> None:
    """The embedded API server enforces no RBAC, so the refusals are written here."""
    await scene.admin.delete("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/warmhook-receiver")
    scene.world.answer(status(403, "Forbidden"), "GET", "/warmpolicies")
    await scene.push()
    await scene.settled()


@culprit("installation", "WebhookMissing", "kubectl apply --server-side -k .")
async def the_api_server_does_not_call_warmhook_for_pods(scene: Scene) -> None:
    await scene.patch_policy({"push": None, **_PODS})
    await scene.admin.delete(_WEBHOOK)


@culprit("installation", "NoCaBundle", "rollout restart deployment warmhook-handlers")
async def the_webhook_has_no_authority(scene: Scene) -> None:
    await scene.stop_watch()
    await scene.patch_policy({"push": None, **_PODS})
    await _hooks(scene, b"")


@culprit("installation", "CertificateExpired", "rollout restart deployment warmhook-handlers")
async def the_certificate_of_the_webhook_is_expired(scene: Scene) -> None:
    await scene.stop_watch()
    await scene.patch_policy({"push": None, **_PODS})
    long_ago = scene.world.now() - timedelta(days=200)
    await _hooks(scene, make_pair(["warmhook-admission.warmhook-system.svc"], long_ago).authority)


# --- deliveries ---


@culprit("delivery", "BadSecret", "patch secret warmhook-senders")
async def the_secret_of_the_registry_is_wrong(scene: Scene) -> None:
    await scene.push(secret="wrong")
    await scene.settled()


@culprit("delivery", "HostNotAllowed", f"add {HOST} to allowedHosts of source harbor", sources=_OTHER_HOST)
async def the_host_is_not_allowed_for_the_source(scene: Scene) -> None:
    await scene.push()
    await scene.settled()


@culprit("delivery", "NoDelivery", f"warmhook push {IMAGE}")
async def the_registry_posts_to_an_unknown_source(scene: Scene) -> None:
    await scene.push(source="docker")
    await scene.settled()


@culprit("delivery", "NoDelivery", f"warmhook push {IMAGE}")
async def no_registry_has_sent_anything(scene: Scene) -> None:
    await scene.settled()


@culprit("delivery", "NoDelivery", f"warmhook push {IMAGE}")
async def the_registry_sent_other_tags_only(scene: Scene) -> None:
    await scene.patch_policy({"push": [{"repository": f"{HOST}/shop/**", "keep": 3}]})
    await scene.push("v0")
    await scene.settled()


@culprit("delivery", "ApiServer503", "kubectl get --raw /readyz")
async def the_api_server_did_not_take_the_warmimage(scene: Scene) -> None:
    scene.world.answer(status(503, "Unavailable"), "POST", "/warmimages")
    await scene.push()
    await scene.settled()


@culprit("delivery", "HostNotAllowed", f"add {HOST} to allowedHosts")
async def a_later_push_of_a_warm_image_was_not_taken(scene: Scene) -> None:
    """The sender is changed while it runs, as by a new configuration."""
    await scene.warm()
    scene.world.restart(_OTHER_HOST)
    async with scene.world.app.router.lifespan_context(scene.world.app):
        await scene.push(content=digest("b"))
        await scene.settled()


# --- policies ---


@culprit("policy", "NoPolicy", "WarmPolicy", policy=False)
async def there_is_no_policy(scene: Scene) -> None:
    await scene.push()
    await scene.settled()


@culprit("policy", "NoPolicy", f'"repository":"{HOST}/shop/app"')
async def no_rule_has_the_repository(scene: Scene) -> None:
    await scene.patch_policy({"push": [{"repository": f"{HOST}/other/**"}]})
    await scene.push()
    await scene.settled()


@culprit("policy", "Suspended", '"suspend":false')
async def the_policy_is_suspended(scene: Scene) -> None:
    await scene.patch_policy({"suspend": True})
    await scene.push()
    await scene.settled()


@culprit("policy", "Invalid", "edit warmpolicy shop", patterns=False)
async def the_policy_cannot_be_read(scene: Scene) -> None:
    await scene.patch_policy({"push": None, "images": ["NOT AN IMAGE"]})
    await scene.settled()


@culprit("policy", "WriteRefused", "describe warmpolicy shop")
async def the_api_server_refuses_the_warmimage(scene: Scene) -> None:
    scene.world.answer(status(422, "quota exceeded"), "POST", "/warmimages")
    await scene.push()
    await scene.settled()


@culprit("policy", "PolicyGone", "get warmpolicies")
async def the_policy_was_deleted(scene: Scene) -> None:
    scene.runtime.hanging.add(IMAGE)
    await scene.push()
    await scene.reported("pulling")
    await scene.admin.delete(f"/apis/{API_VERSION}/namespaces/shop/warmpolicies/shop")


@culprit("policy", "PodsNotRead", "describe warmpolicy shop")
async def the_handlers_may_not_list_existing_pods(scene: Scene) -> None:
    scene.world.answer(status(403, "pods is forbidden"), "GET", "/namespaces/shop/pods")
    await scene.patch_policy({"push": None, "pods": {"selector": {}, "existing": True}})
    await scene.settled()


@culprit("installation", "NoLeader", "get pods -l app.kubernetes.io/name=warmhook-handlers")
async def nobody_has_written_the_images_of_the_policy(scene: Scene) -> None:
    await scene.settled()
    await scene.stop_watch()
    await scene.pass_time(120)
    await scene.patch_policy({"push": None, "images": [IMAGE]})


# --- rules ---


@culprit("rule", "TagNotMatched", '"/spec/push/0/tags/-","value":"v1"')
async def the_rule_has_other_tags(scene: Scene) -> None:
    await scene.patch_policy({"push": [{"repository": f"{HOST}/shop/**", "tags": ["release-*"]}]})
    await scene.push()
    await scene.settled()


@culprit("rule", "NotInRange", "edit warmpolicy shop")
async def the_version_is_not_in_the_range(scene: Scene) -> None:
    await scene.patch_policy({"push": [{"repository": f"{HOST}/shop/**", "semver": ">=2"}]})
    await scene.push()
    await scene.settled()


@culprit("rule", "Excluded", "edit warmpolicy shop")
async def the_tag_is_excluded(scene: Scene) -> None:
    await scene.patch_policy({"push": [{"repository": f"{HOST}/shop/**", "exclude": ["v*"]}]})
    await scene.push()
    await scene.settled()


@culprit("rule", "Superseded", '"/spec/push/0/keep","value":2')
async def a_newer_build_took_its_place(scene: Scene) -> None:
    await scene.push()
    await scene.settled()
    await scene.push("v2", content=digest("b"))
    await scene.settled()


@culprit("rule", "Expired", f"warmhook push {IMAGE}")
async def the_image_is_expired(scene: Scene) -> None:
    await scene.patch_policy({"template": {"lifetime": {"expireAfterSeconds": 60}}})
    await scene.push()
    await scene.pass_time(90)
    await scene.world.sync()


@culprit("rule", "NoPodSeen", "get pods -l app=web")
async def no_such_pod_was_created(scene: Scene) -> None:
    await scene.settled()
    await scene.patch_policy({"push": None, **_PODS})


@culprit("warmimage", "Missing", f"warmhook push {IMAGE}")
async def somebody_deleted_the_warmimage(scene: Scene) -> None:
    await scene.warm()
    (name,) = [obj["metadata"]["name"] for obj in (await scene.world.warmimages()).values()]
    await scene.admin.delete(f"/apis/{API_VERSION}/namespaces/shop/warmimages/{name}")
    await scene.settled()
