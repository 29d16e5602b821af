"""No secret shows in what the programs print, write, count or answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from adapters.kubernetes.paths import configmaps, warmpolicies
from devcluster.nodes import architecture
from devcluster.registry.folder import Answer, Folder
from devcluster.registry.images import incompressible_image
from devcluster.registry.serve import serve_registry
from tests.e2e.stack import SECRET, SYSTEM, Options, Stack, open_stack
from tests.real.programs import free_port, real_time, running

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

APP = incompressible_image(0.1, "secrets", platform=f"linux/{architecture()}")
PLANTED = "planted"
"""Part of every secret of these tests, and of nothing else."""
PASSWORD = f"{PLANTED}-password"
TOKEN = f"{PLANTED}-token"


def with_token(port: int) -> str:
    """A kubeconfig with a token."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
    )


async def hostile_deliveries(stack: Stack) -> None:
    """Wrong secrets, secrets in the wrong place, and payloads that hold some."""
    url, host = stack.options.webhook_url, stack.options.registry
    for headers in ({"authorization": f"{SECRET}x"}, {"authorization": f"Basic {PLANTED}"}, {"x-token": TOKEN}):
        assert (await stack.http.post(url, content=b"{}", headers=headers)).status_code == 401
    assert (await stack.http.post(f"{url}?token={TOKEN}", content=b"{}")).status_code == 401
    assert (await stack.http.post(f"{url}/{TOKEN}", content=b"{}")).status_code == 404
    right = {"authorization": SECRET}
    for body in (f"{PLANTED} is no JSON", json.dumps({PLANTED: PLANTED})):
        assert (await stack.http.post(f"{url}?token={TOKEN}", content=body, headers=right)).status_code == 202
    resource = {"resource_url": f"robot:{PASSWORD}@{host}/shop/url:1", "tag": "1", "digest": APP.digest}
    body = json.dumps(
        {
            "type": "PUSH_ARTIFACT",
            "operator": PLANTED,
            "event_data": {"resources": [resource], "repository": {"repo_full_name": "shop/url"}},
        }
    )
    answer = await stack.http.post(url.replace("/registry", "/harbor"), content=body, headers=right)
    assert answer.status_code == 202
    events = url.replace("/webhooks/registry", "/events")
    wrong = {"authorization": f"Bearer {TOKEN}x"}
    refused = await stack.http.post(events, content=b"{}", headers=wrong)
    assert refused.status_code == 401
    assert PLANTED not in refused.text


async def everything_written(stack: Stack) -> str:
    """All objects of the cluster but the policies' specs, which are what people wrote."""
    kubernetes = stack.kubernetes
    objects = [
        *(await kubernetes.list("/api/v1/events")).items,
        *(await kubernetes.list(configmaps(SYSTEM))).items,
        *(await kubernetes.list("/apis/coordination.k8s.io/v1/leases")).items,
        *await stack.warmimages(),
        *(policy.get("status") for policy in (await kubernetes.list(warmpolicies())).items),
    ]
    return json.dumps(objects, indent=1)


@real_time
async def test_no_secret_shows_anywhere(folder: Path) -> None:
    token_file, port, metrics_port = folder / "token", free_port(), free_port()
    token_file.write_text(TOKEN)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(with_token(port))
    (folder / "registry").mkdir()
    async with serve_registry(folder / "registry") as registry:
        harbor = {
            "name": "harbor",
            "kind": "harbor",
            "allowedHosts": [registry.host],
            "secret": [{"env": "WARMHOOK_SECRET"}, {"file": str(token_file)}],
        }
        options = Options(
            registry.host,
            api_port=port,
            agent={"KUBECONFIG": str(kubeconfig), "WARMHOOK_METRICS_PORT": str(metrics_port)},
            web={"KUBECONFIG": str(kubeconfig), "WARMHOOK_EVENTS_TOKEN_FILE": str(token_file)},
            sources=(harbor,),
        )
        async with open_stack(options, nodes=("node-1",)) as stack:
            # The node's own way to a mirror, with a password in its URL.
            mirror = stack.folder / "node-1" / "certs.d" / registry.host
            mirror.mkdir(parents=True)
            hosts = f'server = "http://robot:{PASSWORD}@{registry.host}"\n'
            (mirror / "hosts.toml").write_text(hosts)
            content = Folder(registry.root)
            content.write_answer("shop/broken", Answer(status=503))
            content.write_answer("shop/private", Answer(username="robot", password=PASSWORD))

            rule = {"repository": f"{registry.host}/shop/**"}
            await stack.apply_policy({"push": [rule], "template": {"pull": {"backoffLimit": 0}}})
            named = [f"robot:{PASSWORD}@{registry.host}/shop/named:1"]
            # The API server refuses it, in an answer to its author, unless its CRD is of an older version.
            await stack.drop_patterns()
            await stack.apply_policy({"images": named}, name="password")
            await hostile_deliveries(stack)
            good = await stack.push(registry, "shop/app", "1", APP)
            broken = await stack.push(registry, "shop/broken", "1", APP)
            private = await stack.push(registry, "shop/private", "1", APP)
            await stack.becomes(good, "1/1")
            for image in (broken, private):

                async def failed(image: str = image) -> bool:
                    return (await stack.status(image)).get("failed") == 1

                await stack.eventually(failed, what=f"{image} fails")

            metrics = [
                await stack.http.get(f"http://127.0.0.1:{options.web_port}/metrics"),
                await stack.http.get(f"http://127.0.0.1:{metrics_port}/metrics"),
            ]
            assert [answer.status_code for answer in metrics] == [200, 200]

            # A watch whose handlers hang up, at an address with a password; and no API server for anybody.
            log = stack.folder / "logs" / "watch.log"
            environ = {
                "KUBECONFIG": str(kubeconfig),
                "WARMHOOK_EVENTS_TOKEN_FILE": str(token_file),
                "WARMHOOK_EVENTS_URL": f"http://robot:{PASSWORD}@127.0.0.1:{free_port()}/events",
            }
            written = await everything_written(stack)
            assert await stack.stop(stack.web) == 0
            async with running(sys.executable, "-m", "handlers.watch", log=log, env=environ):
                await stack.eventually(lambda: "event-delayed" in log.read_text(), what="watch cannot tell")
                await stack.start_web()
                await stack.api.kill()
                agent = stack.agents["node-1"]
                await stack.cluster.programs.prints(agent, "api-server-trouble")
                await stack.eventually(lambda: "watch-interrupted" in log.read_text(), what="watch says so too")
                assert (await stack.notify("shop/late", "1", APP.digest)).status_code == 503

            shown = {path.name: path.read_text() for path in stack.logs()}
            shown |= {"objects": written}
            shown |= {f"metrics {i}": answer.text for i, answer in enumerate(metrics)}
            found = [
                f"{where}: {line}" for where, text in shown.items() for line in text.splitlines() if PLANTED in line
            ]
            assert found == []
            # There was something to be found in.
            assert shown.keys() >= {"web.log", "agent-node-1.log", "watch.log"}
            assert "unauthorized" in shown["web.log"]
