"""What the manifests name exists: labels, ports, accounts, ConfigMaps, settings, commands, routes."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cli.demo_run.run import read_procfile
from handlers.configuration import read_configuration
from handlers.event_sink import EVENTS_SECONDS, SINK_SECONDS
from handlers.reconcile.targets import HANDLED
from handlers.settings import Settings
from handlers.settings import read_settings as read_web_settings
from handlers.watch.webhook_certificate import CONFIGURATION
from nodeagent.settings import read_settings as read_agent_settings
from tests.manifests.rendered import BASE, KNATIVE, UI, containers, find, identity, pod_templates, render
from tests.support.broker import read_delivery
from warmhook.events import PING, PUSHED
from warmhook.peer_requests import AUDIENCE
from warmhook.ports import Object

ROOT: Final = Path(__file__).parents[2]
BOTH: Final = {"base": [*render(BASE), *render(UI)], "knative": [*render(KNATIVE), *render(UI)]}
# Not among the manifests: the operator makes it.
MADE_ELSEWHERE: Final = {"warmhook-senders", "warmhook-registries"}
# Recordings of a real Knative.
RECORDED: Final = os.environ.get("WARMHOOK_TEST_KNATIVE", "")
KNATIVE_PORTS: Final = {8012, 8013, 8112, 9090}

both = pytest.mark.parametrize("objects", BOTH.values(), ids=BOTH)


def names(objects: list[Object], kind: str) -> set[tuple[str, str]]:
    return {(obj["metadata"].get("namespace", ""), obj["metadata"]["name"]) for obj in objects if obj["kind"] == kind}


def selected(objects: list[Object], namespace: str, selector: Object) -> list[Object]:
    """The Pod templates in a namespace whose labels a selector takes."""

    def takes(labels: Object) -> bool:
        expressions = selector.get("matchExpressions", [])
        assert all(expression["operator"] == "In" for expression in expressions)
        return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
            labels.get(each["key"]) in each["values"] for each in expressions
        )

    return [
        template
        for obj, template in pod_templates(objects)
        if obj["metadata"]["namespace"] == namespace and takes(template["metadata"]["labels"])
    ]


def environ(container: Object) -> dict[str, str]:
    """What a container's programs see; of the downward API something that could be it."""
    downward = {"spec.nodeName": "node-1", "metadata.namespace": "warmhook-system", "status.hostIP": "10.0.0.5"}
    return {
        each["name"]: each["value"] if "value" in each else downward[each["valueFrom"]["fieldRef"]["fieldPath"]]
        for each in container.get("env", [])
    }


def ports(template: Object) -> dict[str, int]:
    return {
        port.get("name", ""): port["containerPort"]
        for container in template["spec"]["containers"]
        for port in container.get("ports", [])
    }


def inside(value: Any) -> Iterator[Object]:
    """Every mapping within a value."""
    if isinstance(value, dict):
        yield value
        for member in value.values():
            yield from inside(member)
    elif isinstance(value, list):
        for item in value:
            yield from inside(item)


@both
def test_no_object_is_there_twice_and_each_is_in_a_namespace_that_is(objects: list[Object]) -> None:
    identities = [identity(obj) for obj in objects]
    assert len(set(identities)) == len(identities)
    namespaces = {name for _, name in names(objects, "Namespace")}
    assert namespaces == {"warmhook-system", "warmhook-agents"}
    assert {namespace for _, _, namespace, _ in identities} <= {"", "default", *namespaces}


@both
def test_selectors_take_the_pods_they_are_for(objects: list[Object]) -> None:
    for obj in objects:
        namespace, spec = obj["metadata"].get("namespace", ""), obj.get("spec") or {}
        match obj["kind"]:
            case "Deployment" | "DaemonSet":
                assert selected([obj], namespace, spec["selector"]) == [spec["template"]]
                for spread in spec["template"]["spec"].get("topologySpreadConstraints", []):
                    assert selected([obj], namespace, spread["labelSelector"]) == [spec["template"]]
            case "PodDisruptionBudget":
                assert len(selected(objects, namespace, spec["selector"])) == 1
            case "NetworkPolicy" if spec["podSelector"]:
                assert selected(objects, namespace, spec["podSelector"])


@both
def test_services_and_network_policies_name_ports_that_pods_open(objects: list[Object]) -> None:
    for obj in objects:
        namespace, spec = obj["metadata"].get("namespace", ""), obj.get("spec") or {}
        if identity(obj)[:2] == ("v1", "Service"):
            (template,) = selected(objects, namespace, {"matchLabels": spec["selector"]})
            assert {port["targetPort"] for port in spec["ports"]} <= ports(template).keys()
        if obj["kind"] == "NetworkPolicy":
            for template in selected(objects, namespace, spec["podSelector"]):
                named = {port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]}
                # A Knative Service is reached through the queue-proxy beside it.
                assert named <= ports(template).keys() | KNATIVE_PORTS


@both
def test_everything_that_pods_mount_and_are_exists(objects: list[Object]) -> None:
    for obj, template in pod_templates(objects):
        namespace, spec = obj["metadata"]["namespace"], template["spec"]
        assert (namespace, spec["serviceAccountName"]) in names(objects, "ServiceAccount")
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        mounted = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])}
        assert mounted == volumes.keys()
        for volume in volumes.values():
            if "configMap" in volume:
                assert (namespace, volume["configMap"]["name"]) in names(objects, "ConfigMap")
            if "secret" in volume:
                assert volume["secret"]["secretName"] in MADE_ELSEWHERE
                assert volume["secret"]["optional"]


@both
def test_roles_are_bound_to_accounts_that_exist(objects: list[Object]) -> None:
    bound = set()
    for obj in objects:
        if obj["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            role = obj["roleRef"]
            assert (obj["metadata"].get("namespace", ""), role["name"]) in names(objects, role["kind"])
            bound.add((role["kind"], obj["metadata"].get("namespace", ""), role["name"]))
            for subject in obj["subjects"]:
                assert (subject["namespace"], subject["name"]) in names(objects, "ServiceAccount")
    # Roles with labels: those of people, which the cluster aggregates, and those that an administrator binds.
    unlabelled = [obj for obj in objects if not obj["metadata"].get("labels")]
    for kind in ("Role", "ClusterRole"):
        assert {(kind, *name) for name in names(unlabelled, kind)} <= bound


@both
def test_programs_are_started_as_the_procfile_does_and_can_use_their_settings(objects: list[Object]) -> None:
    commands = {" ".join(["python", *arguments]) for _, *arguments in read_procfile(ROOT).values()}
    sources = "".join(
        path.read_text() for folder in ("handlers", "nodeagent") for path in (ROOT / folder).rglob("*.py")
    )
    for _, template in pod_templates(objects):
        for container in template["spec"]["containers"]:
            command = " ".join(container["command"])
            assert command in commands | {"python -m handlers"}
            given = environ(container)
            assert {name for name in given if f'"{name}"' not in sources} == set()
            if "nodeagent" in command:
                agent = read_agent_settings(given)
                assert agent.node == "node-1"
                assert {"metrics": agent.metrics_port, "peers": agent.peers.port} == ports(template)
                assert agent.peers.endpoint == f"10.0.0.5:{agent.peers.port}"
                continue
            web = read_web_settings(given)
            assert web.namespace == "warmhook-system"
            opened = ports(template)
            assert "watch" in container["name"] or web.port in opened.values()
            assert opened.get("admission", 0) == (web.tls_port if "admission" in web.serve else 0)


@both
def test_programs_are_asked_whether_they_live_where_they_answer(objects: list[Object]) -> None:
    for obj in objects:
        for container in containers(obj):
            opened = {port.get("name", port["containerPort"]) for port in container.get("ports", [])}
            for probe in ("readinessProbe", "startupProbe", "livenessProbe"):
                if probe in container:
                    asked = container[probe]["httpGet"]
                    assert asked["path"] in ("/healthz", "/readyz", "/metrics")
                    # Knative refuses a startupProbe without a port.
                    assert asked["port"] in opened


@both
def test_a_program_on_a_busy_node_has_time_to_start_and_to_answer(objects: list[Object]) -> None:
    for obj in objects:
        for container in containers(obj):
            if "WARMHOOK_SERVE" in environ(container):
                assert container.keys() >= {"readinessProbe", "startupProbe", "livenessProbe"}
                start = container["startupProbe"]
                assert start["periodSeconds"] * start["failureThreshold"] >= 60
            for probe in ("readinessProbe", "startupProbe", "livenessProbe"):
                assert container.get(probe, {"timeoutSeconds": 5})["timeoutSeconds"] >= 5


@both
def test_pods_that_are_always_needed_stay_while_nodes_are_drained(objects: list[Object]) -> None:
    # There is none of these while nothing happens; and nothing waits for the page.
    on_knative = {"warmhook-dead-letters", "warmhook-handlers"} if objects is BOTH["knative"] else set()
    evicted = {"warmhook-ui", *on_knative}
    for obj, template in pod_templates(objects):
        if obj["kind"] != "DaemonSet" and obj["metadata"]["name"] not in evicted:
            budgets = [one for one in objects if one["kind"] == "PodDisruptionBudget"]
            selectors = [budget["spec"]["selector"]["matchLabels"] for budget in budgets]
            assert [it for it in selectors if it.items() <= template["metadata"]["labels"].items()] != []


@both
def test_services_have_addresses_of_each_family_that_the_cluster_has(objects: list[Object]) -> None:
    services = [obj for obj in objects if identity(obj)[:2] == ("v1", "Service")]
    assert services
    assert {service["spec"]["ipFamilyPolicy"] for service in services} == {"PreferDualStack"}


def test_a_service_with_a_public_address_serves_webhooks_only() -> None:
    for obj, template in pod_templates(BOTH["knative"]):
        visibility = obj["metadata"]["labels"].get("networking.knative.dev/visibility")
        if obj["apiVersion"].startswith("serving.knative.dev") and visibility != "cluster-local":
            (container,) = template["spec"]["containers"]
            assert read_web_settings(environ(container)).serve == {"webhooks"}
    ingress = find(BOTH["base"], "Service", "warmhook-web")["spec"]["selector"]
    (template,) = selected(BOTH["base"], "warmhook-system", {"matchLabels": ingress})
    assert read_web_settings(environ(template["spec"]["containers"][0])).serve == {"webhooks", "metrics"}


# Of a Pod's spec, what Serving refuses or drops unless a feature flag is set.
BEHIND_FLAGS: Final = {"topologySpreadConstraints", "securityContext", "terminationGracePeriodSeconds"}


def test_knative_services_use_only_what_serving_takes_without_a_feature_flag() -> None:
    for obj, template in pod_templates(BOTH["knative"]):
        if obj["apiVersion"].startswith("serving.knative.dev"):
            pod = template["spec"]
            assert not BEHIND_FLAGS & pod.keys()
            assert not any("fieldRef" in value for value in inside(pod))


@pytest.mark.skipif(not RECORDED, reason="WARMHOOK_TEST_KNATIVE names no folder")
def test_the_manifests_avoid_what_a_real_serving_refused() -> None:
    said = Path(RECORDED, "serving-webhook-refusals.txt").read_text()
    fields = set(re.findall(r"spec\.template\.spec\.(\w+)", said)) - {"containers", "volumes"}
    assert fields == BEHIND_FLAGS
    assert "valueFrom.fieldRef" in said


@both
def test_the_configurations_can_be_used(objects: list[Object]) -> None:
    for _, template in pod_templates(objects):
        (container,) = template["spec"]["containers"]
        if path := environ(container).get("WARMHOOK_CONFIG"):
            (mount,) = (each for each in container["volumeMounts"] if each["mountPath"] == path)
            (volume,) = (each for each in template["spec"]["volumes"] if each["name"] == mount["name"])
            text = find(objects, "ConfigMap", volume["configMap"]["name"])["data"][mount["subPath"]]
            with tempfile.TemporaryDirectory(prefix="wh") as folder:
                file = Path(folder, "config.yaml")
                file.write_text(text)
                read_configuration(str(file), {})


def test_the_example_of_a_sender_is_one() -> None:
    text = (BASE / "config.yaml").read_text()
    (example,) = re.findall(r"# sources:\n(?:#.+\n)+", text)
    with tempfile.TemporaryDirectory(prefix="wh") as folder:
        (secret := Path(folder, "harbor")).write_text("Bearer x")
        plain = re.sub("^# ?", "", example, flags=re.MULTILINE).replace("/etc/warmhook/secrets/harbor", str(secret))
        (file := Path(folder, "config.yaml")).write_text(plain)
        assert set(read_configuration(str(file), {}).sources) == {"harbor"}
    mounts = find(BOTH["base"], "Deployment", "warmhook-web")["spec"]["template"]["spec"]["containers"][0][
        "volumeMounts"
    ]
    assert "/etc/warmhook/secrets" in {mount["mountPath"] for mount in mounts}


@both
def test_the_api_server_is_told_of_a_service_that_answers(objects: list[Object]) -> None:
    configuration = find(objects, "MutatingWebhookConfiguration", CONFIGURATION)
    (webhook,) = configuration["webhooks"]
    service = webhook["clientConfig"]["service"]
    found = find(objects, "Service", service["name"], group="v1")
    assert found["metadata"]["namespace"] == service["namespace"]
    assert service["port"] in {port["port"] for port in found["spec"]["ports"]}
    (template,) = selected(objects, service["namespace"], {"matchLabels": found["spec"]["selector"]})
    (container,) = template["spec"]["containers"]
    assert "admission" in read_web_settings(environ(container)).serve
    # `watch` writes both; if they were here, applying the manifests again would take them away.
    assert "path" not in service
    assert "caBundle" not in webhook["clientConfig"]


@both
def test_admission_never_stops_a_pod_and_never_sees_our_own(objects: list[Object]) -> None:
    (webhook,) = find(objects, "MutatingWebhookConfiguration", CONFIGURATION)["webhooks"]
    assert (webhook["failurePolicy"], webhook["timeoutSeconds"]) == ("Ignore", 1)
    (namespaces,) = webhook["namespaceSelector"]["matchExpressions"]
    assert namespaces["operator"] == "NotIn"
    assert set(namespaces["values"]) == {"kube-system"} | {name for _, name in names(objects, "Namespace")}
    for _, template in pod_templates(objects):
        assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "warmhook"


@both
def test_only_the_agent_is_privileged_and_that_as_little_as_it_can_be(objects: list[Object]) -> None:
    enforced = {
        obj["metadata"]["name"]: obj["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for obj in objects
        if obj["kind"] == "Namespace"
    }
    assert enforced == {"warmhook-system": "restricted", "warmhook-agents": "privileged"}
    for obj, template in pod_templates(objects):
        pod = template["spec"]
        is_agent = obj["metadata"]["namespace"] == "warmhook-agents"
        assert is_agent == (obj["kind"] == "DaemonSet")
        for container in pod["containers"]:
            context = {**pod.get("securityContext", {}), **container["securityContext"]}
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert not context.get("privileged")
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert is_agent or (context["runAsNonRoot"] and context["runAsUser"] == 65532)
        assert is_agent or not pod.get("hostNetwork")
        assert is_agent or not any("hostPath" in volume for volume in pod.get("volumes", []))


@both
def test_the_agent_finds_what_is_mounted_from_its_node(objects: list[Object]) -> None:
    template = find(objects, "DaemonSet", "warmhook-agent")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    settings = read_agent_settings(environ(container))
    volumes = template["spec"]["volumes"]
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume}
    mounts = {mount["mountPath"]: paths[mount["name"]] for mount in container["volumeMounts"] if mount["name"] in paths}
    assert all(inner == outer for inner, outer in mounts.items())
    assert mounts.keys() == {
        str(Path(settings.runtime_endpoint.removeprefix("unix://")).parent),
        str(settings.state_dir),
    }


@both
def test_the_token_for_other_agents_is_where_the_agent_reads_it(
    objects: list[Object],
) -> None:
    spec = find(objects, "DaemonSet", "warmhook-agent")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (volume,) = (volume for volume in spec["volumes"] if "projected" in volume)
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == volume["name"])
    (source,) = volume["projected"]["sources"]
    token = source["serviceAccountToken"]
    assert (token["audience"], mount["readOnly"]) == (AUDIENCE, True)
    settings = read_agent_settings(environ(container))
    assert settings.peers.token_file == Path(mount["mountPath"]) / token["path"]


@both
def test_accounts_that_a_policy_or_a_flow_schema_names_exist(objects: list[Object]) -> None:
    accounts = names(objects, "ServiceAccount")
    schemas = [obj for obj in objects if obj["kind"] == "FlowSchema"]
    assert len(schemas) == 2
    for schema in schemas:
        assert ("", schema["spec"]["priorityLevelConfiguration"]["name"]) in names(
            objects, "PriorityLevelConfiguration"
        )
        (subject,) = (each for rule in schema["spec"]["rules"] for each in rule["subjects"])
        if subject["kind"] == "Group":
            namespace = subject["group"]["name"].removeprefix("system:serviceaccounts:")
            assert ("", namespace) in names(objects, "Namespace")
        else:
            assert (subject["serviceAccount"]["namespace"], subject["serviceAccount"]["name"]) in accounts
    for policy in (obj for obj in objects if obj["kind"] == "ValidatingAdmissionPolicy"):
        (condition,) = policy["spec"]["matchConditions"]
        (namespace, name) = re.findall(r"system:serviceaccount:([^:']+):([^:']*)", condition["expression"])[0]
        assert ("", namespace) in names(objects, "Namespace")
        assert not name or (namespace, name) in accounts
        binding = find(objects, "ValidatingAdmissionPolicyBinding", policy["metadata"]["name"])
        assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
        assert policy["spec"]["failurePolicy"] == "Fail"


@both
def test_critical_pods_are_allowed_where_a_cluster_limits_them(objects: list[Object]) -> None:
    template = find(objects, "DaemonSet", "warmhook-agent")["spec"]["template"]
    (quota,) = (obj for obj in objects if obj["kind"] == "ResourceQuota")
    (scope,) = quota["spec"]["scopeSelector"]["matchExpressions"]
    assert scope["values"] == [template["spec"]["priorityClassName"]]
    assert quota["metadata"]["namespace"] == "warmhook-agents"


@both
def test_nothing_below_the_runtimes_folder_can_be_written(objects: list[Object]) -> None:
    (container,) = containers(find(objects, "DaemonSet", "warmhook-agent"))
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "runtime")
    assert mount["readOnly"]
    assert mount["recursiveReadOnly"] == "IfPossible"


def test_knative_refers_to_what_is_there() -> None:
    objects = BOTH["knative"]
    for obj in (one for one in objects if "knative.dev" in one["apiVersion"]):
        for reference in inside(obj["spec"]):
            if {"apiVersion", "kind", "name"} <= reference.keys():
                found = find(objects, reference["kind"], reference["name"], group=reference["apiVersion"])
                assert found["metadata"]["namespace"] == obj["metadata"]["namespace"]
        if obj["kind"] == "Trigger":
            assert find(objects, "Broker", obj["spec"]["broker"])


def test_each_event_that_a_broker_carries_has_one_trigger_to_the_handlers() -> None:
    triggers = [obj["spec"] for obj in BOTH["knative"] if obj["kind"] == "Trigger"]
    assert sorted(spec["filter"]["attributes"]["type"] for spec in triggers) == sorted(HANDLED - {PUSHED})
    ping = find(BOTH["knative"], "PingSource", "warmhook-sync")["metadata"]
    for spec in triggers:
        assert spec["subscriber"]["uri"] == "/events"
        attributes = spec["filter"]["attributes"]
        source = f"/apis/v1/namespaces/{ping['namespace']}/pingsources/{ping['name']}"
        assert attributes.get("source") == (source if attributes["type"] == PING else None)


def test_an_event_that_no_handler_takes_goes_to_the_dead_letters() -> None:
    objects = BOTH["knative"]
    service = find(objects, "Service", "warmhook-dead-letters", group="serving.knative.dev")
    (container,) = service["spec"]["template"]["spec"]["containers"]
    assert environ(container)["WARMHOOK_SERVE"] == "dead-letters,metrics"
    for spec in (obj["spec"] for obj in objects if obj["kind"] in ("Trigger", "Broker")):
        sink = spec["delivery"]["deadLetterSink"]
        assert (sink["ref"]["name"], sink["uri"]) == ("warmhook-dead-letters", "/dead-letters")
    bound = [each["name"] for obj in objects if "subjects" in obj for each in obj["subjects"]]
    assert "warmhook-dead-letters" not in bound


def test_registries_never_wait_for_a_cold_start_and_handlers_cost_nothing_at_rest() -> None:
    def annotation(name: str, key: str) -> str:
        service = find(BOTH["knative"], "Service", name, group="serving.knative.dev")
        value: str = service["spec"]["template"]["metadata"]["annotations"][f"autoscaling.knative.dev/{key}"]
        return value

    # Two, so that one can be evicted: a delivery that has to wait for a new Pod may take longer than its sender waits.
    assert annotation("warmhook-receiver", "min-scale") == "2"
    assert annotation("warmhook-handlers", "min-scale") == "0"


def test_pods_that_take_events_without_a_token_are_behind_a_policy_that_names_the_callers() -> None:
    objects = BOTH["knative"]
    for obj, template in pod_templates(objects):
        if any(read_flag(container) for container in template["spec"]["containers"]):
            labels = template["metadata"]["labels"]
            rules = [
                rule
                for policy in objects
                if policy["kind"] == "NetworkPolicy" and policy["spec"]["podSelector"]
                if template in selected(objects, obj["metadata"]["namespace"], policy["spec"]["podSelector"])
                for rule in policy["spec"]["ingress"]
            ]
            assert rules, labels
            assert all(rule.get("from") for rule in rules), labels
            assert obj["metadata"]["labels"]["networking.knative.dev/visibility"] == "cluster-local"


def read_flag(container: Object) -> bool:
    return environ(container).get("WARMHOOK_EVENTS_OPEN") == "true"


def test_a_broker_and_its_triggers_deliver_alike_and_end_before_their_sender_closes_the_connection() -> None:
    deliveries = [obj["spec"]["delivery"] for obj in BOTH["knative"] if obj["kind"] in ("Trigger", "Broker")]
    (first, *others) = deliveries
    assert all(other == first for other in others)
    delivery = read_delivery(first)
    # A handler that is there answers within the time of one attempt.
    assert delivery.timeout_seconds >= EVENTS_SECONDS
    # The answer comes when the last subscriber has answered or its dead letter is delivered.
    assert delivery.longest_seconds < SINK_SECONDS < Settings().sync_seconds
    # Long enough for an API server that restarts.
    assert sum(delivery.waits()) > 30
