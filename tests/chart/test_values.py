"""Values, their schema, the page about them and the templates agree; what is wrong is refused by its name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from handlers.configuration import _File as ConfigurationFile
from tests.chart.helm import CHART, defaults, refusal, template
from warmhook.ports import Object

SCHEMA: Final = json.loads((CHART / "values.schema.json").read_text())
PAGE: Final = (Path(__file__).parents[2] / "docs" / "helm.md").read_text()
PARTS: Final = ("web", "handlers", "agent", "ui", "knative.watch", "knative.admission")
# Values that are maps of the reader's own keys, and so have no keys here.
OPEN: Final = {"resources", "nodeSelector", "labels"}


def leaves(values: Object, path: str = "") -> Iterator[str]:
    """The path of each single value, such as `web.replicas`."""
    for key, value in values.items():
        here = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict) and value and key not in OPEN:
            yield from leaves(value, here)
        else:
            yield here


VALUES: Final = sorted(leaves(defaults()))


def nested(path: str, value: Any) -> Object:
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def merged(one: Object, other: Object) -> Object:
    both = dict(one)
    for key, value in other.items():
        known = both.get(key)
        both[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return both


def described(schema: Object, path: str = "") -> Iterator[str]:
    """The paths that the schema knows, as `leaves` has them."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    for key, value in schema["properties"].items():
        here = f"{path}.{key}".lstrip(".")
        target = SCHEMA["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else value
        if "properties" in target and here not in VALUES:
            yield from described(value, here)
        else:
            yield here


def test_the_schema_knows_exactly_the_values_of_the_chart() -> None:
    # Helm passes `global` to every chart of a larger one.
    assert sorted(described(SCHEMA)) == sorted([*VALUES, "global"])


def test_the_page_has_every_value_and_no_other() -> None:
    table = PAGE.split("| value | default | |")[1].split("\n\n")[0]
    named = {
        name
        for row in table.splitlines()
        for name in re.findall(r"`([\w<>.]+)`", row.split("|")[1] if "|" in row else "")
    }
    expanded = {name.replace("<part>", part) for name in named for part in PARTS}
    # Agents have one Pod per node.
    assert expanded - {"agent.replicas"} == set(VALUES)


def plain(schema: Any) -> Any:
    """A schema of pydantic without what that of the chart leaves out: titles, defaults, and null for "not given"."""
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: value
        for key, value in schema.items()
        if key not in ("default", "format") and not isinstance_text(key, value)
    }
    alternatives = [one for one in kept.pop("anyOf", []) if one != {"type": "null"}]
    if len(alternatives) == 1:
        kept |= alternatives[0]
    elif alternatives:
        kept["anyOf"] = alternatives
    return {key: plain(value) for key, value in kept.items()}


def isinstance_text(key: str, value: Any) -> bool:
    return key in ("title", "description") and isinstance(value, str)


def test_the_schema_takes_the_configuration_that_the_programs_take() -> None:
    file = plain(ConfigurationFile.model_json_schema())
    assert {name: SCHEMA["$defs"].get(name) for name in file["$defs"]} == file["$defs"]
    assert SCHEMA["properties"]["config"]["properties"] == file["properties"]


# Another value for each; a list of them where one is not enough to see it.
SENDER: Final = {"name": "harbor", "kind": "harbor", "secret": {"file": "/etc/warmhook/secrets/harbor"}}
OF_A_PART: Final[Object] = {
    "replicas": 5,
    "resources": {"requests": {"cpu": "7m"}},
    "env": {"WARMHOOK_LOG": "console"},
    "podAnnotations": {"a": "b"},
    "podLabels": {"a": "b"},
    "nodeSelector": {"a": "b"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
}
OTHERS: Final[Object] = {
    "image.repository": "registry.example.com/warmhook",
    "image.tag": "2",
    "image.digest": f"sha256:{'a' * 64}",
    "image.pullPolicy": "Always",
    "image.pullSecrets": ["pull"],
    "namespaces.create": False,
    "crds.install": False,
    "config.sources": [SENDER],
    "config.namespaces": [{"names": ["team-*"]}],
    "config.registries": [{"host": "harbor.example.com"}],
    "secrets.senders": "mine",
    "secrets.registries": "mine",
    "agent.runtimeEndpoint": "unix:///run/crio/crio.sock",
    "agent.stateDir": "/srv/warmhook",
    "agent.metricsPort": 9000,
    "agent.peerPort": 0,
    "agent.parallelPulls": 3,
    "agent.maxUnavailable": 1,
    "agent.seLinuxOptions": {"type": "spc_t"},
    "agent.volumes": [{"name": "more", "emptyDir": {}}],
    "agent.volumeMounts": [{"name": "more", "mountPath": "/more"}],
    "ui.enabled": True,
    "admission.enabled": False,
    "admission.excludedNamespaces": [],
    "admission.certManager.enabled": True,
    "admission.certManager.issuerRef": {"kind": "ClusterIssuer", "name": "mine"},
    "rbac.aggregate": False,
    "networkPolicy.enabled": False,
    "networkPolicy.webhooksFrom": [{"namespaceSelector": {}}],
    "flowControl.enabled": False,
    "ingress.enabled": True,
    "ingress.className": "nginx",
    "ingress.annotations": {"a": "b"},
    "ingress.host": "hooks.example.com",
    "ingress.tlsSecret": "mine",
    "httpRoute.enabled": True,
    "httpRoute.annotations": {"a": "b"},
    "httpRoute.parentRefs": [{"name": "mine"}],
    "httpRoute.hostnames": ["hooks.example.com"],
    "knative.enabled": True,
    "knative.gatewayNamespaces": ["mine"],
    "knative.receiver.minScale": 3,
    "knative.receiver.maxScale": 11,
    "knative.handlers.minScale": 1,
    "knative.handlers.maxScale": 4,
    "monitoring.labels": {"a": "b"},
    "monitoring.interval": "10s",
    "monitoring.podMonitor.enabled": True,
    "monitoring.serviceMonitor.enabled": True,
    "monitoring.prometheusRule.enabled": True,
    "monitoring.dashboards.enabled": True,
    "monitoring.dashboards.labels": {"a": "b"},
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}}],
} | {
    f"{part}.{name}": value
    for part in PARTS
    for name, value in OF_A_PART.items()
    if (part, name) != ("agent", "replicas")
}
# What has to be on for a value to count.
NEEDS: Final[dict[str, Object]] = {
    "ingress": {"ingress": {"enabled": True, "host": "example.com"}},
    "httpRoute": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "one"}]}},
    "knative": {"knative": {"enabled": True}},
    "ui": {"ui": {"enabled": True}},
    "monitoring.dashboards": {"monitoring": {"dashboards": {"enabled": True}}},
    "monitoring": {"monitoring": {"podMonitor": {"enabled": True}}},
    "admission.certManager": {"admission": {"certManager": {"enabled": True}}},
}


def needed(path: str) -> Object:
    """The other values with which a value counts."""
    found = (values for prefix, values in NEEDS.items() if path.startswith(f"{prefix}."))
    return {} if path.endswith(".enabled") and not path.startswith(("ingress", "httpRoute")) else next(found, {})


def test_the_list_of_other_values_is_complete() -> None:
    assert sorted(OTHERS) == VALUES


@pytest.mark.slow
@pytest.mark.parametrize("path", VALUES)
def test_each_value_changes_what_is_installed(path: str) -> None:
    before = needed(path)
    if path in ("ingress.enabled", "httpRoute.enabled"):
        before = merged(before, nested(path, False))
    elif path in ("ingress.host", "httpRoute.parentRefs"):
        assert before
    assert template(merged(before, nested(path, OTHERS[path]))) != template(before)


WRONG: Final = {
    "an unknown part": ({"webb": {}}, "'webb' not allowed"),
    "an unknown key": ({"web": {"replica": 1}}, "'replica' not allowed"),
    "a text for a number": ({"web": {"replicas": "two"}}, "at '/web/replicas': got string, want integer"),
    "a key that was taken away": ({"agent": {"stateDir": None}}, "missing property 'stateDir'"),
    "a digest that is none": ({"image": {"digest": "sha256:1"}}, "at '/image/digest'"),
    "a socket that is no URL": (
        {"agent": {"runtimeEndpoint": "/run/containerd/containerd.sock"}},
        "at '/agent/runtimeEndpoint'",
    ),
    "a socket beside everything else": (
        {"agent": {"runtimeEndpoint": "unix:///run/docker.sock"}},
        "at '/agent/runtimeEndpoint'",
    ),
    "a port that is none": ({"agent": {"metricsPort": 0}}, "at '/agent/metricsPort'"),
    "one port twice": ({"agent": {"peerPort": 9464}}, "agent.peerPort and agent.metricsPort are both 9464"),
    "a source without a kind": ({"config": {"sources": [{"name": "harbor"}]}}, "missing property 'kind'"),
    "a setting of the chart's own": (
        {"web": {"env": {"WARMHOOK_SERVE": "ui"}}},
        "web.env.WARMHOOK_SERVE: the chart sets this variable itself",
    ),
    "a label by which Pods are selected": (
        {"web": {"podLabels": {"app.kubernetes.io/name": "x"}}},
        "app.kubernetes.io/name",
    ),
    "a port that probes and Services do not know": (
        {"web": {"env": {"PORT": "9000"}}},
        "web.env.PORT: Services and probes know the port",
    ),
    "a label that no object may have": ({"web": {"podLabels": {"team": "a b"}}}, "at '/web/podLabels/team'"),
    "an Ingress for any host": ({"ingress": {"enabled": True}}, "at '/ingress/host'"),
    "a route of no Gateway": ({"httpRoute": {"enabled": True}}, "at '/httpRoute/parentRefs'"),
    "scheduling of a Knative Service": (
        {"knative": {"enabled": True}, "web": {"priorityClassName": "high"}},
        "priorityClassName of the Knative Service warmhook-receiver",
    ),
    "an Ingress for a Knative Service": (
        {"knative": {"enabled": True}, "ingress": {"enabled": True, "host": "a.example.com"}},
        "on Knative the Service warmhook-receiver has a URL",
    ),
    "metrics of a Knative Service": (
        {"knative": {"enabled": True}, "monitoring": {"serviceMonitor": {"enabled": True}}},
        "on Knative the receiver serves no metrics",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("values", "said"), WRONG.values(), ids=WRONG)
def test_wrong_values_are_refused_by_their_name(values: Object, said: str) -> None:
    assert said in refusal(values)


@pytest.mark.slow
@pytest.mark.parametrize(
    "entry",
    [
        {"sources": [{"name": "harbor", "kind": "harbor", "secret": "hunter2"}]},
        {"sources": [{"name": "harbor", "kind": "harbor", "secret": ["hunter2"]}]},
        {"registries": [{"host": "harbor.example.com", "username": "robot", "password": "hunter2"}]},
    ],
    ids=["of a sender", "in a list", "of a registry"],
)
def test_a_secret_among_the_values_is_refused_and_not_repeated(entry: Object) -> None:
    said = refusal({"config": entry})
    assert "got string, want" in said
    assert "hunter2" not in said
