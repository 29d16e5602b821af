"""A real Prometheus scrapes real programs, evaluates all rules, and answers every query of the dashboards."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from devcluster.nodes import architecture
from devcluster.registry.images import incompressible_image
from tests.e2e.stack import SECRET, Options, Stack, open_stack
from tests.observability.files import RULES, queries
from tests.observability.programs import OF_THE_SCRAPE, exposed
from tests.real.programs import eventually, free_port, need, real_time, running
from tests.real.registry import push_image, start_docker_registry
from tests.support.stack import source_of

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

NODES = ("node-1", "node-2")
PUSH_TO_WARM = "Push to warm, 95 %"


@dataclass(frozen=True, slots=True)
class Scraped(Options):
    """A stack with a receiver of its own, and agents whose metrics are at known ports."""

    receiver_port: int = field(default_factory=free_port)
    ports: Mapping[str, int] = field(default_factory=lambda: {f"agent-{node}": free_port() for node in NODES})

    async def environ(self, name: str) -> Mapping[str, str]:
        """Of the program."""
        given = await Options.environ(self, name)
        return {**given, "WARMHOOK_METRICS_PORT": str(self.ports[name])} if name in self.ports else given

    def configuration(self, folder: Path) -> dict[str, Any]:
        """Of a Prometheus that scrapes all of them often, and waits for agents for seconds instead of minutes."""
        rules = folder / "rules.yaml"
        rules.write_text(re.sub(r"(\[|offset )(?:5|10)m(?=\]\) == 0| == 0)", r"\g<1>2s", RULES.read_text()))
        jobs = {
            "warmhook-web": [_target(self.receiver_port, "warmhook-system")],
            "warmhook-handlers": [_target(self.web_port, "warmhook-system")],
            "warmhook-agent": [
                _target(port, "warmhook-agents", node=name.removeprefix("agent-")) for name, port in self.ports.items()
            ],
        }
        return {
            "global": {"scrape_interval": "300ms", "scrape_timeout": "300ms", "evaluation_interval": "300ms"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": job, "static_configs": targets} for job, targets in jobs.items()],
        }


def _target(port: int, namespace: str, **labels: str) -> dict[str, Any]:
    return {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": namespace, **labels}}


async def start_receiver(stack: Stack, options: Scraped) -> None:
    """A `web` that receives webhooks and does not watch, as the Deployment `warmhook-web` runs it."""
    await stack.cluster.start_web(
        [source_of(options.registry)],
        port=options.receiver_port,
        environ={"WARMHOOK_SERVE": "webhooks,metrics"},
        command=(sys.executable, "-m", "handlers"),
    )


class Prometheus:
    """The API of one that runs."""

    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient(base_url=url, timeout=10)

    async def get(self, path: str, **parameters: str) -> Any:
        """What it answers; it must have no complaint."""
        answer = (await self.client.get(f"/api/v1/{path}", params=parameters)).json()
        assert answer.keys() == {"status", "data"}, (parameters, answer)
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    async def values(self, query: str) -> list[float]:
        """The values of an instant query, without those that are no number."""
        found = (await self.get("query", query=query))["result"]
        return [float(each["value"][1]) for each in found if each["value"][1] != "NaN"]

    async def has(self, query: str, value: float) -> bool:
        """Whether the query has this one value now."""
        return await self.values(query) == [value]

    async def alerts(self) -> dict[str, dict[str, str]]:
        """The annotations of the alerts that are pending or firing."""
        return {alert["labels"]["alertname"]: alert["annotations"] for alert in (await self.get("alerts"))["alerts"]}

    async def ready(self) -> bool:
        """Whether it answers."""
        with contextlib.suppress(httpx.TransportError):
            return (await self.client.get("/-/ready")).status_code == 200
        return False


@contextlib.asynccontextmanager
async def prometheus(folder: Path, configuration: dict[str, Any]) -> AsyncIterator[Prometheus]:
    path, port = folder / "prometheus.yaml", free_port()
    path.write_text(yaml.safe_dump(configuration))
    command = (
        "prometheus",
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    async with running(*command, log=folder / "prometheus.log"):
        server = Prometheus(f"http://127.0.0.1:{port}")
        async with server.client:
            await eventually(server.ready, what="Prometheus answers")
            yield server


@contextlib.asynccontextmanager
async def scraped(folder: Path) -> AsyncIterator[tuple[Stack, Prometheus, Scraped]]:
    """A stack with nodes, all of whose programs Prometheus has scraped."""
    need("promtool", "prometheus")
    options = Scraped("127.0.0.1:0", agent={"WARMHOOK_CHECK_SECONDS": "1"})
    notify_url = f"http://127.0.0.1:{options.receiver_port}/webhooks/registry"
    async with start_docker_registry(notify_url=notify_url, headers={"Authorization": SECRET}) as registry:
        options = replace(options, registry=registry.host)
        async with (
            open_stack(options, nodes=NODES) as stack,
            prometheus(folder, options.configuration(folder)) as server,
        ):
            await start_receiver(stack, options)
            await stack.eventually(lambda: server.has("sum(up)", 4), what="Prometheus scrapes all programs")
            await stack.eventually(lambda: server.has("max(warmhook_leader)", 1), what="web leads")
            yield stack, server, options


@real_time
async def test_a_real_prometheus_answers_every_query_and_shows_a_push(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (stack, server, options):
        await stack.apply_policy({"push": [{"repository": f"{options.registry}/shop/**"}]})
        image = incompressible_image(1, "observed", platform=f"linux/{architecture()}")
        name = await push_image(options.registry, "shop/app", "1.0", image)
        await stack.becomes(name, "2/2")
        seen = "sum(increase(warmhook_push_to_warm_seconds_count[5m]) > bool 0)"
        await stack.eventually(lambda: server.has(seen, 1), what="Prometheus has seen the push")
        await stack.eventually(lambda: server.has('sum(warmhook_lines{state="warm"})', 2), what="both lines are warm")

        asked = queries()
        answers = {each: await server.get("query", query=query) for each, query in asked.items()}
        assert len(answers) > 80
        (shown,) = [query for each, query in asked.items() if PUSH_TO_WARM in each]
        (seconds,) = await server.values(shown)
        assert 0 < seconds < 60
        await rules_are_evaluated(server)
        await series_are_those_of_the_programs(server)
        # The receiver neither leads nor has a certificate, which must not look like a fault.
        assert await server.alerts() == {}


@real_time
async def test_faults_of_real_programs_begin_alerts_that_say_where(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (stack, server, options):
        url = f"http://127.0.0.1:{options.receiver_port}/webhooks/registry"

        async def alarms(name: str, words: str) -> bool:
            alert = (await server.alerts()).get(name, {})
            return words in f"{alert.get('summary')} {alert.get('description')}"

        async def is_rejected() -> bool:
            answer = await stack.http.post(url, json={"events": []}, headers={"authorization": "wrong"})
            assert answer.status_code == 401
            return await alarms("WarmhookDeliveriesRejected", "the source registry were unauthorized")

        await stack.eventually(is_rejected, what="deliveries with a wrong secret begin an alert")
        await stack.runtimes["node-2"].kill()
        await stack.eventually(
            lambda: alarms("WarmhookRuntimeDown", "The first of them: node-2"),
            what="a runtime that ended begins an alert",
        )
        await stack.agents["node-1"].kill()
        await stack.eventually(
            lambda: alarms("WarmhookAgentsSilent", "The first of them: node-1"),
            what="an agent that ended begins an alert",
        )
        await stack.cluster.webs[options.receiver_port].kill()
        await stack.eventually(
            lambda: alarms("WarmhookDown", "No Pod of warmhook-web answers"),
            what="a receiver that ended begins an alert",
        )


async def rules_are_evaluated(server: Prometheus) -> None:
    groups = (await server.get("rules"))["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert len(evaluated) == sum(len(group["rules"]) for group in yaml.safe_load(RULES.read_text())["groups"])
    assert [(rule["name"], rule.get("lastError")) for rule in evaluated if rule["health"] != "ok"] == []


async def series_are_those_of_the_programs(server: Prometheus) -> None:
    known = exposed()
    series = await server.get("series", **{"match[]": '{__name__=~"warmhook_.+|process_.+"}'})
    assert len(series) > 100
    for each in series:
        metric = each.pop("__name__")
        if not metric.endswith("_created"):
            assert each.keys() <= known[metric] | OF_THE_SCRAPE, metric
