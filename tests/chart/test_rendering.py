"""What the values make of the manifests fits the schemas of Kubernetes, and does what the values say."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from adapters.strictyaml import decode
from handlers.configuration import read_configuration
from handlers.settings import read_settings as read_web_settings
from nodeagent.settings import read_settings as read_agent_settings
from tests.chart.helm import template
from tests.manifests.openapi import problems
from tests.manifests.rendered import containers, find, identity, pod_templates
from tests.manifests.test_schemas import DELIVERY_TIMEOUT, SCHEMAS, kubernetes, schema_of
from tests.manifests.test_structure import environ, ports, selected
from tests.observability.files import DASHBOARDS, FOLDER
from warmhook.ports import Object

pytestmark = pytest.mark.slow

# Nobody here has their schemas.
FOREIGN: Final = (
    "flowcontrol.apiserver.k8s.io/",
    "cert-manager.io/",
    "gateway.networking.k8s.io/",
    "monitoring.coreos.com/",
)

SCHEDULING: Final = {
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
    "priorityClassName": "high",
    "replicas": 3,
}
PART: Final[dict[str, Any]] = {
    "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
    "env": {
        "WARMHOOK_LOG": "console",
        "WARMHOOK_WRITE_BYTES": 10_000_000,
        "WARMHOOK_FLAG": True,
        "WARMHOOK_SECRET": {"secretKeyRef": {"name": "senders", "key": "harbor"}},
    },
    "podAnnotations": {"a": "b"},
    "podLabels": {"a": "b"},
}
AGENT: Final = {
    "runtimeEndpoint": "unix:///run/k3s/containerd/containerd.sock",
    "stateDir": "/srv/warmhook",
    "metricsPort": 9000,
    "peerPort": 9001,
    "parallelPulls": 4,
    "maxUnavailable": "25%",
    "seLinuxOptions": {"type": "spc_t"},
    "volumes": [{"name": "providers", "hostPath": {"path": "/etc/providers", "type": "Directory"}}],
    "volumeMounts": [{"name": "providers", "mountPath": "/etc/providers", "readOnly": True}],
}
SHARED: Final[Object] = {
    "image": {
        "repository": "registry.example.com:5000/tools/warmhook",
        "tag": "1.0",
        "pullPolicy": "Always",
        "pullSecrets": ["regcred"],
    },
    "config": {
        "sources": [{"name": "harbor", "kind": "harbor", "insecure": True, "registryHost": "harbor.example.com"}],
        "namespaces": [{"names": ["team-*"], "linesPerNode": 64, "nodes": {"matchLabels": {"pool": "teams"}}}],
        "registries": [{"host": "harbor.example.com", "mirrors": ["mirror.example.com/hub"]}],
    },
    "admission": {"certManager": {"enabled": True}, "excludedNamespaces": ["kube-system", "gatekeeper-system"]},
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine", "namespace": "shop"}}],
    "agent": AGENT | PART,
}
MATRIX: Final[dict[str, Object]] = {
    "the defaults": {},
    "everything": SHARED
    | {
        "web": SCHEDULING | PART,
        "handlers": SCHEDULING | PART,
        "ui": {"enabled": True} | SCHEDULING | PART,
        "networkPolicy": {
            "webhooksFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]
        },
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "host": "hooks.example.com",
            "tlsSecret": "hooks",
            "annotations": {"a": "b"},
        },
        "httpRoute": {
            "enabled": True,
            "parentRefs": [{"name": "public", "namespace": "gateways"}],
            "hostnames": ["hooks.example.com"],
        },
        "monitoring": {
            "labels": {"release": "prometheus"},
            "interval": "30s",
            "podMonitor": {"enabled": True},
            "serviceMonitor": {"enabled": True},
            "prometheusRule": {"enabled": True},
            "dashboards": {"enabled": True},
        },
    },
    "nothing": {
        "namespaces": {"create": False},
        "crds": {"install": False},
        "admission": {"enabled": False},
        "rbac": {"aggregate": False},
        "networkPolicy": {"enabled": False},
        "flowControl": {"enabled": False},
        "agent": {"peerPort": 0, "priorityClassName": ""},
    },
    "Knative": {"knative": {"enabled": True}},
    "everything on Knative": SHARED
    | {
        "web": PART,
        "handlers": PART,
        "ui": {"enabled": True},
        "knative": {"enabled": True, "watch": SCHEDULING | PART, "admission": SCHEDULING | PART},
        "monitoring": {"podMonitor": {"enabled": True}},
    },
    "Knative without admission": {"knative": {"enabled": True}, "admission": {"enabled": False}},
}

matrix = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)


@pytest.mark.skipif(not SCHEMAS, reason="WARMHOOK_TEST_SCHEMAS names no folder")
@matrix
def test_every_object_fits_its_schema(values: Object) -> None:
    known = [obj for obj in template(values) if not obj["apiVersion"].startswith(FOREIGN)]
    assert len(known) > 20
    found = [problem for obj in known for problem in problems(schema_of(obj), obj, kubernetes())]
    assert [problem for problem in found if not problem.endswith(DELIVERY_TIMEOUT)] == []


@matrix
def test_every_program_understands_its_settings(values: Object) -> None:
    for _, pod in pod_templates(template(values)):
        for container in pod["spec"]["containers"]:
            given = {
                key: value for key, value in environ(without_references(container)).items() if key != "WARMHOOK_CONFIG"
            }
            read = read_agent_settings if "nodeagent" in container["command"] else read_web_settings
            assert read(given).log in ("json", "console")


def without_references(container: Object) -> Object:
    """A container without the variables from Secrets, which only a cluster has."""
    env = [each for each in container["env"] if "secretKeyRef" not in each.get("valueFrom", {})]
    return {**container, "env": env}


@matrix
def test_the_configuration_files_are_those_of_the_values(values: Object) -> None:
    objects = template(values)
    with tempfile.TemporaryDirectory(prefix="wh") as folder:
        for name in ("warmhook-config", "warmhook-handlers-config"):
            Path(folder, name).write_text(find(objects, "ConfigMap", name)["data"]["config.yaml"])
        web = read_configuration(f"{folder}/warmhook-config", {})
        handlers = read_configuration(f"{folder}/warmhook-handlers-config", {})
    given: Any = values.get("config", {})
    assert set(web.sources) == {source["name"] for source in given.get("sources", [])}
    assert set(handlers.registries) == {registry["host"] for registry in given.get("registries", [])}


@matrix
def test_selectors_and_ports_of_services_are_those_of_pods(values: Object) -> None:
    objects = template(values)
    for obj in objects:
        namespace, spec = obj["metadata"].get("namespace", ""), obj.get("spec") or {}
        if obj["kind"] == "Service" and obj["apiVersion"] == "v1":
            (pod,) = selected(objects, namespace, {"matchLabels": spec["selector"]})
            assert {port["targetPort"] for port in spec["ports"]} <= ports(pod).keys()


def test_texts_of_the_configuration_arrive_as_they_were_written() -> None:
    texts = [
        "yes",
        "on",
        "null",
        "~",
        "1e3",
        "0123",
        "0x1f",
        "12:30:00",
        "2026-01-01",
        "a: b",
        "x #y",
        "- a",
        "|",
        "é",
    ]
    texts += ["{{ .Values.image }}", "$(HOME)", "'\"", "*", "&a", "!!int", "two\nlines", " a ", "\t", "a" * 512]
    objects = template({"config": {"namespaces": [{"names": texts, "nodes": {"matchLabels": {"a": "yes"}}}]}})
    text = find(objects, "ConfigMap", "warmhook-handlers-config")["data"]["config.yaml"]
    (entry,) = decode(text)["namespaces"]
    assert entry == {"names": texts, "nodes": {"matchLabels": {"a": "yes"}}}


def test_names_that_look_like_other_values_stay_texts() -> None:
    ingress = {"enabled": True, "host": "1e3", "className": "123", "tlsSecret": "0x1"}
    spec = find(template({"ingress": ingress}), "Ingress", "warmhook-web")["spec"]
    assert (spec["ingressClassName"], spec["tls"][0]["secretName"], spec["rules"][0]["host"]) == ("123", "0x1", "1e3")


def test_numbers_of_variables_are_written_as_they_were_given() -> None:
    (container,) = containers(find(template(MATRIX["everything"]), "Deployment", "warmhook-web"))
    given = environ(without_references(container))
    assert (given["WARMHOOK_WRITE_BYTES"], given["WARMHOOK_FLAG"]) == ("10000000", "true")
    assert given["WARMHOOK_LOG"] == "console"
    assert [each["name"] for each in container["env"]].count("WARMHOOK_LOG") == 1
    assert {"name": "WARMHOOK_SECRET", "valueFrom": PART["env"]["WARMHOOK_SECRET"]} in container["env"]


def test_the_image_is_pinned_by_its_digest_with_and_without_a_tag() -> None:
    digest = f"sha256:{'a' * 64}"
    for given, expected in (
        ({"tag": "1.0", "digest": digest}, f"warmhook:1.0@{digest}"),
        ({"digest": digest}, f"warmhook@{digest}"),
        ({"tag": "1.0"}, "warmhook:1.0"),
    ):
        objects = template({"image": given})
        assert {container["image"] for obj in objects for container in containers(obj)} == {expected}


def test_an_agent_starts_while_the_registry_of_its_image_is_down() -> None:
    objects = template({"image": {"pullPolicy": "Always"}})
    policies = {obj["metadata"]["name"]: containers(obj)[0]["imagePullPolicy"] for obj, _ in pod_templates(objects)}
    assert policies == {"warmhook-web": "Always", "warmhook-handlers": "Always", "warmhook-agent": "IfNotPresent"}


def test_the_agent_finds_another_runtime_where_its_node_has_it() -> None:
    pod = find(template(MATRIX["everything"]), "DaemonSet", "warmhook-agent")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    settings = read_agent_settings(environ(without_references(container)))
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod["spec"]["volumes"] if "hostPath" in volume}
    assert mounts["runtime"]["mountPath"] == paths["runtime"] == "/run/k3s/containerd"
    assert settings.runtime_endpoint == "unix:///run/k3s/containerd/containerd.sock"
    assert mounts["state"]["mountPath"] == paths["state"] == str(settings.state_dir) == "/srv/warmhook"
    assert (settings.metrics_port, settings.peers.port) == (9000, 9001)
    assert ports(pod) == {"metrics": 9000, "peers": 9001}
    assert mounts["runtime"]["readOnly"]
    assert mounts["providers"]["readOnly"]


def test_an_agent_that_serves_no_images_opens_no_port_for_them() -> None:
    pod = find(template({"agent": {"peerPort": 0}}), "DaemonSet", "warmhook-agent")["spec"]["template"]
    assert ports(pod) == {"metrics": 9464}
    assert read_agent_settings(environ(pod["spec"]["containers"][0])).peers.port == 0


@pytest.mark.parametrize("knative", [False, True], ids=["plain", "Knative"])
def test_without_admission_nothing_waits_for_reviews(knative: bool) -> None:
    objects = template({"admission": {"enabled": False}, "knative": {"enabled": knative}})
    assert not [obj for obj in objects if obj["kind"] == "MutatingWebhookConfiguration"]
    names = {obj["metadata"]["name"] for obj in objects if obj["kind"] not in ("ClusterRole", "ClusterRoleBinding")}
    assert not {"warmhook-admission", "warmhook-admissions"} & names
    for _, pod in pod_templates(objects):
        assert "admission" not in ports(pod)
        if "nodeagent" not in (container := pod["spec"]["containers"][0])["command"]:
            settings = read_web_settings({**environ(container), "WARMHOOK_CONFIG": ""})
            assert settings.tls_port == 0


def test_pods_of_warmhook_are_never_reviewed_whatever_namespaces_are_excluded() -> None:
    (webhook,) = find(template({"admission": {"excludedNamespaces": []}}), "MutatingWebhookConfiguration", "warmhook")[
        "webhooks"
    ]
    (namespaces,) = webhook["namespaceSelector"]["matchExpressions"]
    assert namespaces == {
        "key": "kubernetes.io/metadata.name",
        "operator": "NotIn",
        "values": ["warmhook-system", "warmhook-agents"],
    }
    assert webhook["failurePolicy"] == "Ignore"


@pytest.mark.parametrize("issuer", [{}, {"kind": "ClusterIssuer", "name": "mine"}], ids=["of its own", "given"])
def test_cert_manager_writes_the_secret_and_the_authority_that_are_read(issuer: Object) -> None:
    objects = template({"admission": {"certManager": {"enabled": True, "issuerRef": issuer}}})
    certificate = find(objects, "Certificate", "warmhook-admission")
    configuration = find(objects, "MutatingWebhookConfiguration", "warmhook")
    metadata, service = certificate["metadata"], configuration["webhooks"][0]["clientConfig"]["service"]
    named = configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    assert named == f"{metadata['namespace']}/{metadata['name']}"
    assert certificate["spec"]["dnsNames"] == [f"{service['name']}.{service['namespace']}.svc"]
    assert find(objects, "Secret", certificate["spec"]["secretName"])
    reference = certificate["spec"]["issuerRef"]
    assert reference == issuer or find(objects, reference["kind"], reference["name"])["spec"] == {"selfSigned": {}}


def test_only_webhooks_are_routed_from_outside() -> None:
    objects = template(MATRIX["everything"])
    ((path,),) = (rule["http"]["paths"] for rule in find(objects, "Ingress", "warmhook-web")["spec"]["rules"])
    assert (path["path"], path["pathType"]) == ("/webhooks/", "Prefix")
    (rule,) = find(objects, "HTTPRoute", "warmhook-web")["spec"]["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/webhooks"}}]
    service = find(objects, "Service", "warmhook-web", group="v1")
    assert rule["backendRefs"] == [{"name": "warmhook-web", "port": service["spec"]["ports"][0]["port"]}]


def test_a_class_of_the_system_has_its_quota_and_another_class_none() -> None:
    (quota,) = (
        obj
        for obj in template({"agent": {"priorityClassName": "system-cluster-critical"}})
        if obj["kind"] == "ResourceQuota"
    )
    assert quota["spec"]["scopeSelector"]["matchExpressions"][0]["values"] == ["system-cluster-critical"]
    assert not [obj for obj in template({"agent": {"priorityClassName": "high"}}) if obj["kind"] == "ResourceQuota"]


def test_more_labels_and_annotations_replace_none_of_the_manifests() -> None:
    pod = find(template(MATRIX["everything on Knative"]), "Service", "warmhook-receiver", group="serving")["spec"][
        "template"
    ]
    assert pod["metadata"]["labels"] == {
        "a": "b",
        "app.kubernetes.io/name": "warmhook-receiver",
        "app.kubernetes.io/part-of": "warmhook",
    }
    assert pod["metadata"]["annotations"].keys() == {
        "a",
        "autoscaling.knative.dev/max-scale",
        "autoscaling.knative.dev/min-scale",
        "checksum/config",
    }


def test_every_annotation_of_a_configuration_changes_with_it_and_only_with_it() -> None:
    def sums(values: Object) -> dict[str, str]:
        return {
            obj["metadata"]["name"]: pod["metadata"]["annotations"]["checksum/config"]
            for obj, pod in pod_templates(template(values))
            if obj["metadata"]["name"] != "warmhook-agent"
        }

    before = sums({})
    after = sums({"config": {"sources": [{"name": "a", "kind": "harbor"}]}})
    assert {name for name in before if before[name] != after[name]} == {"warmhook-web"}
    after = sums({"config": {"namespaces": [{"names": ["a"]}]}})
    assert {name for name in before if before[name] != after[name]} == {"warmhook-handlers"}


def test_every_program_is_scraped_once_and_under_the_job_of_rules_and_dashboards() -> None:
    objects = template(MATRIX["everything"])
    scraped = []
    for monitor in (obj for obj in objects if obj["kind"] == "PodMonitor"):
        spec, namespace = monitor["spec"], monitor["metadata"]["namespace"]
        for _, pod in pod_templates(objects):
            if pod in selected(objects, namespace, spec["selector"]):
                assert all(endpoint["port"] in ports(pod) for endpoint in spec["podMetricsEndpoints"])
                scraped.append(pod["metadata"]["labels"][spec["jobLabel"]])
    (monitor,) = (obj for obj in objects if obj["kind"] == "ServiceMonitor")
    service = find(objects, "Service", "warmhook-web", group="v1")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    scraped.append(service["metadata"]["labels"][monitor["spec"]["jobLabel"]])
    assert sorted(scraped) == ["warmhook-agent", "warmhook-handlers", "warmhook-web"]


def test_rules_monitors_and_dashboards_are_those_of_the_component() -> None:
    enabled = {name: {"enabled": True} for name in ("podMonitor", "prometheusRule", "dashboards")}
    objects = template({"monitoring": enabled})
    files = (FOLDER / name for name in ("podmonitors.yaml", "prometheusrule.yaml"))
    theirs = [obj for file in files for obj in yaml.safe_load_all(file.read_text())]
    assert {obj["kind"] for obj in theirs} == {"PodMonitor", "PrometheusRule"}
    for obj in theirs:
        (ours,) = (one for one in objects if identity(one) == identity(obj))
        assert ours["spec"] == obj["spec"]
    dashboards = find(objects, "ConfigMap", "warmhook-dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text) for name, text in dashboards["data"].items()} == DASHBOARDS
