"""The pages for operators name metrics, log lines, objects and limits that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, get_args

from prometheus_client import CollectorRegistry

from handlers.admission.queue import QUEUE_MAX
from handlers.event_sink import QUEUE_BYTES as PUBLISHED_BYTES
from handlers.event_sink import QUEUE_MAX as PUBLISHED_MAX
from handlers.event_sink import SINK_SECONDS
from handlers.metrics import Metrics as WebMetrics
from handlers.reconcile.refreshes import SCHEDULED_MAX
from handlers.watch.dispatcher import OVERDUE_MAX
from nodeagent.metrics import Metrics as AgentMetrics
from tests.manifests.rendered import BASE, KNATIVE, UI, render
from warmhook.events import CHANGES_MAX, SkipReason
from warmhook.node_lines import MAX_BYTES, MAX_LINES
from warmhook.placement import NODE_NAME_MAX
from warmhook.pull_failures import FailureReason

ROOT: Final = Path(__file__).parents[2]
INSTALL: Final = (ROOT / "docs" / "install.md").read_text()
OPERATIONS: Final = (ROOT / "docs" / "operations.md").read_text()


def metrics(registry: CollectorRegistry) -> set[str]:
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in registry.collect()}


def test_every_metric_is_explained_and_every_explained_metric_exists() -> None:
    exist = metrics(WebMetrics().registry) | metrics(AgentMetrics().registry)
    ours = {name for name in exist if not name.startswith("process_")}
    assert set(re.findall(r"`(warmhook_[a-z_]+)", OPERATIONS)) == ours


def test_every_log_line_that_is_explained_is_written() -> None:
    sources = "".join(
        path.read_text() for folder in ("handlers", "nodeagent", "adapters") for path in (ROOT / folder).rglob("*.py")
    )
    table = OPERATIONS.split("| event | what to do |")[1].split("\n\n")[0]
    explained = {
        name
        for row in table.splitlines()
        for name in re.findall(r"`([a-z]+(?:[_-][a-z]+)+)`", row.split("|")[1] if "|" in row else "")
    }
    assert len(explained) > 10
    assert {name for name in explained if f'"{name}"' not in sources} == set()


def test_every_log_line_that_somebody_should_read_is_explained() -> None:
    warns = re.compile(r"\.(?:warning|error|exception)\(\s*\"([a-z-]+)\"|OutageLog\([^)]*\"([a-z-]+)\"\)")
    sources = [
        path.read_text() for folder in ("handlers", "nodeagent", "adapters") for path in (ROOT / folder).rglob("*.py")
    ]
    written = {one or other for source in sources for one, other in warns.findall(source)}
    assert len(written) > 30
    assert {name for name in written if f"`{name}`" not in OPERATIONS} == set()


def test_every_reason_of_a_delivery_is_explained() -> None:
    files = [*(ROOT / "handlers/intake").glob("*.py"), ROOT / "handlers/serving/bodies.py", ROOT / "handlers/app.py"]
    receiving = "".join(path.read_text() for path in files)
    made = re.findall(r"(?:Ended\(\"\w+\", |BadBody\(\d+, |refuse\(source, )\"([a-z-]+)\"", receiving)
    assert len(made) > 8
    table = OPERATIONS.split("| reason of a delivery | meaning |")[1].split("\n\n")[0]
    explained = set(re.findall(r"`([a-z-]+)`", "".join(row.split("|")[1] for row in table.splitlines() if "|" in row)))
    assert {*made, *get_args(SkipReason), "bad-secret", "token-not-encoded"} <= explained
    assert explained - set(get_args(SkipReason)) - set(made) <= {"bad-secret", "token-not-encoded", "api-server-"}


def test_every_reason_of_a_condition_is_explained() -> None:
    table = OPERATIONS.split("| condition | reasons |")[1].split("\n\n")[0]
    explained = set(re.findall(r"`([A-Z]\w+)`", table))
    sources = "".join(
        (ROOT / name).read_text()
        for name in (
            "warmhook/status.py",
            "warmhook/completion.py",
            "handlers/reconcile/policy_statuses.py",
            "handlers/reconcile/observations.py",
            "handlers/reconcile/statuses.py",
        )
    )
    assert {name for name in explained if f'"{name}"' not in sources} == set()
    written = set(re.findall(r"\"([A-Z][a-z]+[A-Z][A-Za-z]+|Usable|Invalid)\"", sources))
    kinds = {
        "WarmImage",
        "WarmPolicy",
        "WarmPolicies",
        "ConfigMap",
        "ClusterState",
        "Observation",
        *get_args(FailureReason),
    }
    assert written - kinds <= explained


def test_every_reason_of_a_failure_is_explained() -> None:
    table = OPERATIONS.split("| reason | meaning |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([A-Z]\w+)`", table)) == set(get_args(FailureReason))


def test_every_test_that_the_page_of_threats_names_exists() -> None:
    page = (ROOT / "docs" / "threats.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("|")][2:]
    assert len(rows) > 8
    for row in rows:
        shown = row.rsplit("|", 2)[1]
        files = re.findall(r"`([a-z0-9_/]+\.py)`", shown)
        assert files, row
        text = "".join((ROOT / "tests" / name).read_text() for name in files)
        assert {name for name in re.findall(r"`(test_\w+)`", shown) if f"def {name}(" not in text} == set()


def test_the_limits_are_those_of_the_programs() -> None:
    assert f"{MAX_LINES}, and {MAX_BYTES // 1024} KiB" in OPERATIONS
    assert f"{QUEUE_MAX:,}; repeats" in OPERATIONS
    assert f"| objects in one event | {CHANGES_MAX} |" in OPERATIONS
    assert f"| events under way from `watch` | {OVERDUE_MAX};" in OPERATIONS
    assert f"| scheduled refreshes | {SCHEDULED_MAX} per sync |" in OPERATIONS
    assert f"at most {SCHEDULED_MAX} images in one" in OPERATIONS
    assert f"| {PUBLISHED_MAX:,} and {PUBLISHED_BYTES // 1024 // 1024} MiB;" in OPERATIONS
    assert f"for longer than {SINK_SECONDS:.0f} seconds" in INSTALL
    assert f"{NODE_NAME_MAX} characters" in OPERATIONS


def test_the_objects_that_the_pages_name_are_in_the_manifests() -> None:
    known = {obj["metadata"]["name"] for obj in render(BASE) + render(KNATIVE) + render(UI)}
    made = {
        "warmhook-tls",
        "warmhook-senders",
        "warmhook-registries",
        "warmhook-watch",
        "warmhook-agent-pods",
        "warmhook-desired-",
        "warmhook-report-",
    }
    named = set(re.findall(r"\b(warmhook-[a-z-]+)\b(?![./])", INSTALL + OPERATIONS))
    assert {name for name in named if name not in known | made and f"{name}-" not in made} == set()
