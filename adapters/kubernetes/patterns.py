"""State in regular expressions what the programs can read, so that the API server refuses the rest.

Stored objects are read as far as possible, whatever these say. RE2 and Python read them alike.
"""

from __future__ import annotations

from typing import Final

from adapters.kubernetes.crd import Rule, matching
from warmhook.globs import NO_REPOSITORY_GLOB, REPOSITORY_GLOB

# --- images: the grammar of warmhook/images.py, without its bounds on ports and on the lengths of host and repository

_ELEMENT: Final = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_HOST_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_PORT: Final = r":[0-9]{1,5}"
# Without a dot or a port only localhost is a host.
_HOST: Final = rf"(({_HOST_LABEL}(\.{_HOST_LABEL})+|localhost|\[[a-fA-F0-9:]+\])({_PORT})?|{_HOST_LABEL}{_PORT})"
DIGEST: Final = r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$"
IMAGE_RULE: Final[Rule] = matching(
    rf"^({_HOST}/)?{_ELEMENT}(/{_ELEMENT})*"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?$",
    "must be an image such as registry.example.com/shop/web:1.4 or registry.example.com/shop/web@sha256:..., "
    "without https:// and with the repository in lower case",
)

REPOSITORY_RULE: Final[Rule] = matching(REPOSITORY_GLOB, NO_REPOSITORY_GLOB)

# --- names and labels: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/ and .../labels/

_DNS_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DNS_SUBDOMAIN: Final = rf"^{_DNS_LABEL}(\.{_DNS_LABEL})*$"
_KEY: Final = rf"({_DNS_LABEL}(\.{_DNS_LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
LABEL_KEY: Final = rf"^{_KEY}$"
OPTIONAL_LABEL_KEY: Final = rf"^({_KEY})?$"
LABEL_VALUE: Final = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
INTEGER: Final = r"^[+-]?[0-9]+$"
"""A value for Gt and Lt of a node affinity."""
DECIMAL: Final = r"^(0|-?[1-9][0-9]*)$"
"""A value for Gt and Lt of a toleration."""

# --- conditions: https://github.com/kubernetes/apimachinery/blob/master/pkg/apis/meta/v1/types.go, Condition

CONDITION_TYPE: Final = rf"^({_DNS_LABEL}(\.{_DNS_LABEL})*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
CONDITION_REASON: Final = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"

# --- ranges: the grammar of warmhook/semver.py

_NUMBER: Final = r"(0|[1-9][0-9]*)"
_PRERELEASE: Final = rf"({_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION: Final = (
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_PRERELEASE}(\.{_PRERELEASE})*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?"
)
_PARTIAL: Final = rf"({_NUMBER}(\.{_NUMBER})?(\.[xX*]){{0,2}}|[xX*](\.[xX*]){{0,2}})"
_COMPARATOR: Final = rf"([<>!]=|[=<>~^])?\s*v?({_VERSION}|{_PARTIAL})"
_COMPARATORS: Final = rf"{_COMPARATOR}((\s*,\s*|\s+){_COMPARATOR})*"
RANGE_RULE: Final[Rule] = matching(
    rf"^\s*{_COMPARATORS}(\s*\|\|\s*{_COMPARATORS})*\s*$",
    "must be a range of versions, such as '>=1.2 <3', '^1.4' or '1.x || ~2.1'",
)

# --- schedules: five fields of cron; that a range ends after it begins, and that the day exists, is not checked here


def _field(value: str) -> str:
    item = rf"([*?]|({value})(-({value}))?)(/(0?[1-9]|[1-9][0-9]))?"
    return rf"{item}(,{item})*"


_FIELDS: Final = (
    "[0-5]?[0-9]",
    "[01]?[0-9]|2[0-3]",
    "0?[1-9]|[12][0-9]|3[01]",
    "0?[1-9]|1[0-2]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec",
    "0?[0-7]|sun|mon|tue|wed|thu|fri|sat",
)
_FIVE_FIELDS: Final = r"\s+".join(map(_field, _FIELDS))
SCHEDULE_RULE: Final[Rule] = matching(
    rf"(?i)^\s*(@(hourly|daily|midnight|weekly|monthly|yearly|annually)|{_FIVE_FIELDS})\s*$",
    "must be five fields as in cron (minute, hour, day of the month, month, day of the week), such as '0 3 * * *', "
    "or a name such as '@daily'",
)
TIME_ZONE: Final = r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$"
