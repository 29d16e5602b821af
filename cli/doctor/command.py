"""Check the installation: `warmhook doctor`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from cli.cluster import Access, agents_namespace_option, cluster_options, with_cluster
from cli.output import OutputFormat, output_option, print_checks, print_object
from warmhook.checks import Check


@click.command("doctor")
@agents_namespace_option
@output_option
@cluster_options
def doctor(agents_namespace: str, output: OutputFormat, **options: Any) -> int:
    """Check the installation: definitions, rights, clocks, programs, agents, certificate, deliveries, objects.

    Nothing is written. What cannot be read is `unknown`, with the reason.

    Exit status 0 if nothing is wrong, 1 if something is, 2 for wrong arguments.
    """
    # Imported here: it costs more than the other commands need to start.
    from cli.doctor.checks import run_checks

    checks = with_cluster(Access(**options), lambda cluster: run_checks(cluster, agents_namespace))
    if output in ("json", "yaml"):
        states = Counter(check.state for check in checks)
        print_object({"summary": dict(sorted(states.items())), "checks": [each.as_object() for each in checks]}, output)
    else:
        print_checks(checks)
        click.echo(summary(checks))
    return 1 if any(check.state == "wrong" for check in checks) else 0


def summary(checks: list[Check]) -> str:
    """How many checks have each state."""
    states = Counter(check.state for check in checks)
    parts = [f"{states[state]} {state}" for state in ("ok", "waiting", "wrong", "unknown", "skipped") if states[state]]
    return f"{len(checks)} checks: {', '.join(parts)}"
