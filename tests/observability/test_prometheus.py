"""A real Prometheus scrapes real programs, evaluates all rules, and answers every query of the dashboards."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from devcluster.nodes import architecture
from devcluster.registry.images import incompressible_image
from tests.e2e.stack import SECRET, Options, open_stack
from tests.observability.files import RULES, queries, with_variables
from tests.observability.programs import OF_THE_SCRAPE, exposed
from tests.real.programs import eventually, free_port, need, real_time, running
from tests.real.registry import push_image, start_docker_registry

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

NODES = ("node-1", "node-2")
PUSH_TO_WARM = "Push to warm, 95 %"


@dataclass(frozen=True, slots=True)
class Scraped(Options):
    """A stack whose agents have metrics at known ports."""

    ports: Mapping[str, int] = field(default_factory=lambda: {f"agent-{node}": free_port() for node in NODES})

    async def environ(self, name: str) -> Mapping[str, str]:
        """Of the program."""
        given = await Options.environ(self, name)
        return {**given, "WARMHOOK_METRICS_PORT": str(self.ports[name])} if name in self.ports else given

    def configuration(self) -> dict[str, Any]:
        """Of a Prometheus that scrapes all of them often."""
        agents = [
            {
                "targets": [f"127.0.0.1:{port}"],
                "labels": {"namespace": "warmhook-agents", "node": name.removeprefix("agent-")},
            }
            for name, port in self.ports.items()
        ]
        web = {"targets": [f"127.0.0.1:{self.web_port}"], "labels": {"namespace": "warmhook-system"}}
        return {
            "global": {"scrape_interval": "300ms", "scrape_timeout": "300ms", "evaluation_interval": "300ms"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "warmhook-handlers", "static_configs": [web]},
                {"job_name": "warmhook-agent", "static_configs": agents},
            ],
        }


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


@real_time
async def test_a_real_prometheus_answers_every_query_and_shows_a_push(tmp_path: Path) -> None:
    need("promtool", "prometheus")
    options = Scraped("127.0.0.1:0")
    async with start_docker_registry(notify_url=options.webhook_url, headers={"Authorization": SECRET}) as registry:
        options = Scraped(registry.host, web_port=options.web_port)
        async with (
            open_stack(options, nodes=NODES) as stack,
            prometheus(tmp_path, options.configuration()) as server,
        ):

            async def has(query: str, value: float) -> bool:
                return await server.values(query) == [value]

            await stack.eventually(lambda: has("sum(up)", 3), what="Prometheus scrapes all programs")
            await stack.eventually(lambda: has("max(warmhook_leader)", 1), what="web leads")
            await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
            image = incompressible_image(1, "observed", platform=f"linux/{architecture()}")
            name = await push_image(registry.host, "shop/app", "1.0", image)
            await stack.becomes(name, "2/2")
            await stack.eventually(
                lambda: has("sum(increase(warmhook_push_to_warm_seconds_count[5m]) > bool 0)", 1),
                what="Prometheus has seen the push",
            )
            await stack.eventually(lambda: has('sum(warmhook_lines{state="warm"})', 2), what="both lines are warm")

            asked = queries()
            answers = {each: await server.get("query", query=query) for each, query in asked.items()}
            assert len(answers) > 80
            shown = [query for each, query in asked.items() if PUSH_TO_WARM in each]
            (seconds,) = await server.values(with_variables(shown[0]))
            assert 0 < seconds < 60
            await rules_are_evaluated(server)
            await series_are_those_of_the_programs(server)
            await nothing_is_alarming(server)


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


async def nothing_is_alarming(server: Prometheus) -> None:
    alerts = {alert["labels"]["alertname"] for alert in (await server.get("alerts"))["alerts"]}
    assert alerts == set()
