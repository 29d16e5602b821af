"""The lines of shell that the page about senders gives to CI systems make `web` accept a push, as they are written."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import Final

import pytest

from adapters.strictyaml import decode
from tests.e2e.stack import Options, Stack, events_of, open_stack
from tests.real.programs import real_time

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not (shutil.which("curl") and shutil.which("openssl")), reason="curl or openssl is missing"),
]

_PAGE: Final = (Path(__file__).parents[2] / "docs" / "senders.md").read_text()
_SECTION: Final = _PAGE.partition("\n## A job of your CI\n")[2].partition("\n## ")[0]
_SHELL: Final = re.findall(r"^```sh\n(.*?)^```", _SECTION, re.DOTALL | re.MULTILINE)
_WORKFLOW, _PIPELINE = re.findall(r"^```yaml\n# \..*?\n(.*?)^```", _SECTION, re.DOTALL | re.MULTILINE)
_SECRET: Final = "of the job / +&%"
_DIGEST: Final = "sha256:" + "a" * 64
_ENVIRON: Final = {
    "WARMHOOK_SECRET": _SECRET,
    "IMAGE": f"registry.example.com/shop/web:v1@{_DIGEST}",
    "CI_REGISTRY_IMAGE": "registry.gitlab.com/shop/web",
    "CI_COMMIT_TAG": "v2",
}


def _scripts() -> list[str]:
    step = decode(_WORKFLOW)["jobs"]["image"]["steps"][-1]
    return [*_SHELL, step["run"], *decode(_PIPELINE)["warm"]["script"]]


async def _run(script: str, stack: Stack, **more: str) -> int:
    """The exit status of a script that posts to the stack's `web`."""
    there = f"http://127.0.0.1:{stack.options.web_port}"
    environ = {"PATH": os.environ["PATH"]} | _ENVIRON | more
    shell = await asyncio.create_subprocess_exec(
        "sh", "-ec", script.replace("https://hooks.example.com", there), env=environ
    )
    return await asyncio.wait_for(shell.wait(), 60)


@real_time
async def test_a_job_posts_its_image_with_the_lines_of_the_page() -> None:
    source = {"name": "ci", "kind": "webhook", "secret": {"env": "CI_SECRET"}}
    hosts = {"allowedHosts": ["registry.example.com", "registry.gitlab.com"]}
    options = Options("registry.example.com", web={"CI_SECRET": _SECRET}, sources=(source | hosts,))
    async with open_stack(options, nodes=()) as stack:
        await stack.apply_policy({"push": [{"repository": "registry.*.com/shop/web"}]})
        scripts = _scripts()
        assert len(scripts) == 4
        for script in scripts:
            assert await _run(script, stack) == 0
        assert await _run(scripts[0], stack, WARMHOOK_SECRET="other") != 0
        lines = events_of(stack.web, "delivery")
        assert [(line["kind"], line["result"]) for line in lines] == [
            *[("webhook", "accepted")] * 4,
            ("webhook", "unauthorized"),
        ]
        images = [line["images"] for line in lines[:4]]
        assert images == [
            ["registry.example.com/shop/web:1.4"],
            ["registry.example.com/shop/web:1.5"],
            [_ENVIRON["IMAGE"]],
            ["registry.gitlab.com/shop/web:v2"],
        ]
