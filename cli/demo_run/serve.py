"""Run `warmhook devcluster`: start a cluster, and show what changes on its nodes until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import yaml
from rich.console import Console

from cli.demo_run.display import Display
from cli.demo_run.progress import new_warm_lines, read_reports
from cli.demo_run.push import POLICY, curl_line, policy_object, push_image
from cli.demo_run.run import for_children, program_commands, run_in_folder
from cli.errors import Unusable
from devcluster.cluster import Cluster, Plan
from devcluster.demo import open_demo_cluster


def run_devcluster(port: int, nodes: int, kubeconfig: Path | None) -> int:
    """The exit status, 0 after Ctrl-C. Raises `Unusable` and `Failed`."""
    _check_port(port)
    if kubeconfig is not None:
        _check_file(kubeconfig)
    display = Display(Console(highlight=False), time.monotonic)
    try:
        run_in_folder(lambda folder: _serve(port, nodes, kubeconfig, folder, display), os.environ)
    finally:
        if kubeconfig is not None:
            kubeconfig.unlink(missing_ok=True)
    display.text("\nEverything is stopped and removed.")
    return 0


async def _serve(port: int, nodes: int, kubeconfig: Path | None, folder: Path, display: Display) -> int:
    display.say(f"starting a cluster in {folder}")
    plan = Plan(folder, (kubeconfig or folder / "kubeconfig").absolute(), commands=program_commands())
    opening = open_demo_cluster(plan, for_children(os.environ), nodes=nodes, api_port=port, say=display.say)
    async with opening as cluster:
        _show_what_to_try(cluster, display)
        await keep_serving(cluster, display)
    return 0


async def keep_serving(cluster: Cluster, display: Display) -> None:
    """Show each image that becomes warm on a node, until cancelled. Raises `ProgramFailed` if a program ends."""
    known = {(name, version) for name, report in (await read_reports(cluster)).items() for version in report.warm}
    async with aclosing(new_warm_lines(cluster, known, asyncio.sleep)) as lines:
        async for name, image in lines:
            display.say(f"{name} is warm: {image}")


def _show_what_to_try(cluster: Cluster, display: Display) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": POLICY.namespace}}
    policy = cluster.plan.folder / "policy.yaml"
    policy.write_text(yaml.safe_dump_all([namespace, policy_object(cluster)], sort_keys=False))
    pushed = push_image(cluster, "v1", datetime.now(UTC))
    curl, image, secret = curl_line(cluster, pushed), pushed.image, cluster.plan.folder / "secret"
    display.text(
        f"\nEverything keeps running until Ctrl-C. In another terminal:\n\n"
        f"  export KUBECONFIG={cluster.plan.kubeconfig}\n"
        f"  kubectl get nodes,warmpolicies,warmimages -A\n"
        f"  warmhook ui   # the same as a page, on http://127.0.0.1:8081/ui/\n\n"
        f"Apply a policy, then send the webhook that Harbor would send for an image of the registry:\n\n"
        f"  kubectl apply -f {policy}\n"
        f"  {curl}\n\n"
        f"Or announce the image as a job of a CI does, and wait until it is on the nodes:\n\n"
        f"  warmhook push {image} --to {cluster.web_url} --source ci --secret-file {secret}\n"
        f"  warmhook status --wait --namespace {POLICY.namespace} {image}\n"
    )


def _check_port(port: int) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise Unusable(f"--port {port}: {error.strerror}; choose another, or leave it out for a free one") from None


def _check_file(kubeconfig: Path) -> None:
    """Never write over a file: it may be the way to somebody's real cluster."""
    if kubeconfig.exists():
        raise Unusable(f"--kubeconfig {kubeconfig}: exists already; name a new file")
    if not os.access(kubeconfig.absolute().parent, os.W_OK):
        raise Unusable(f"--kubeconfig {kubeconfig}: its folder cannot be written; name another")
