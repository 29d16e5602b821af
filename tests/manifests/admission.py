"""What a ValidatingAdmissionPolicy of the manifests says to a request, evaluated as the API server does.

https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, Final

import celpy
from celpy.adapter import json_to_cel
from celpy.celtypes import IntType, MapType
from celpy.evaluation import CELEvalError, CELFunction, Context

from tests.manifests.rendered import BASE, find, render
from warmhook.ports import Object

__all__ = ["PLURALS", "Request", "is_reviewed", "refusals", "request"]

Request = Object
"""`request`, `object` and `oldObject`, as expressions see them."""

PLURALS: Final = {
    "ConfigMap": ("", "configmaps"),
    "Event": ("", "events"),
    "WarmImage": ("warmhook.dev", "warmimages"),
    "MutatingWebhookConfiguration": ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
}
# A list's sum is the API server's own: https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-list-library
_FUNCTIONS: Final[dict[str, CELFunction]] = {"sum": lambda numbers: IntType(sum(numbers))}


def request(user: str, new: Object | None, old: Object | None = None, *, node: str = "") -> Request:
    """A request of `namespace:serviceaccount`: a creation without `old`, a deletion without `new`."""
    present = new or old or {}
    group, resource = PLURALS[present["kind"]]
    extra = {"authentication.kubernetes.io/node-name": [node]} if node else {}
    operation = "CREATE" if old is None else "DELETE" if new is None else "UPDATE"
    return {
        "request": {
            "operation": operation,
            "namespace": present["metadata"].get("namespace", ""),
            "name": present["metadata"].get("name", ""),
            "resource": {"group": group, "version": "v1", "resource": resource},
            "userInfo": {"username": f"system:serviceaccount:{user}", "extra": extra},
        },
        "object": copy.deepcopy(new),
        "oldObject": copy.deepcopy(old),
    }


@cache
def _policy(name: str) -> Object:
    spec: Object = find(render(BASE), "ValidatingAdmissionPolicy", name)["spec"]
    return spec


@cache
def _environment() -> celpy.Environment:
    return celpy.Environment()


@cache
def _program(expression: str) -> celpy.Runner:
    environment = _environment()
    return environment.program(environment.compile(expression), functions=_FUNCTIONS)


def refusals(policy: str, asked: Request) -> list[str]:
    """The messages of every validation that does not hold; an expression that fails does not hold."""
    spec = _policy(policy)
    values: dict[str, Any] = {name: json_to_cel(value) for name, value in asked.items()}
    if not _matches(spec, asked) or not all(
        _holds(condition["expression"], values) for condition in spec["matchConditions"]
    ):
        return []
    values["variables"] = variables = MapType()
    for variable in spec.get("variables", []):
        value = _evaluated(variable["expression"], values)
        # The API server evaluates a variable when it is used; so does its failure count.
        if value is not None:
            variables[json_to_cel(variable["name"])] = value
    return [rule["message"] for rule in spec["validations"] if not _holds(rule["expression"], values)]


def is_reviewed(pod: Object) -> bool:
    """Whether the `matchConditions` of the webhook for Pods let the creation of this Pod through to it."""
    (hook,) = find(render(BASE), "MutatingWebhookConfiguration", "warmhook")["webhooks"]
    values = {"object": json_to_cel(pod)}
    return all(_holds(condition["expression"], values) for condition in hook["matchConditions"])


def _matches(spec: Object, asked: Request) -> bool:
    resource, operation = asked["request"]["resource"], asked["request"]["operation"]
    return any(
        resource["group"] in rule["apiGroups"]
        and resource["resource"] in rule["resources"]
        and operation in rule["operations"]
        for rule in spec["matchConstraints"]["resourceRules"]
    )


def _holds(expression: str, values: Context) -> bool:
    return bool(_evaluated(expression, values) or False)


def _evaluated(expression: str, values: Context) -> Any:
    """The value; `None` where there is none."""
    try:
        return _program(expression).evaluate(values)
    except CELEvalError:
        return None
