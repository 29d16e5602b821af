"""Define the command `warmhook`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from cli.completion import completion
from cli.crds import crds
from cli.diff.command import diff
from cli.doctor.command import doctor
from cli.explain.command import explain_command
from cli.local import demo, devcluster
from cli.parse import parse
from cli.plan.command import plan
from cli.push import push
from cli.status.command import status
from cli.ui import ui
from cli.unpin import unpin
from warmhook import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="warmhook", message="%(prog)s %(version)s")
def warmhook() -> None:
    """Have a container image on the Kubernetes node before the Pod that needs it."""


_COMMANDS = (
    status,
    explain_command,
    doctor,
    diff,
    plan,
    push,
    completion,
    demo,
    devcluster,
    crds,
    parse,
    unpin,
    ui,
)
for _command in _COMMANDS:
    warmhook.add_command(_command)


def main(arguments: Sequence[str] | None = None, prog_name: str = "warmhook") -> int:
    """Run the command and return its exit status: 2 where it was called wrongly, with one line on stderr."""
    try:
        result = warmhook.main(arguments, prog_name=prog_name, standalone_mode=False, color=_colours())
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else prog_name
        hint = f" (see {where} --help)" if isinstance(error, click.UsageError) else ""
        message = error.format_message()
        # click lists choices on lines of their own.
        message = " ".join(message.split()) if hint else message
        click.echo(f"{where}: {message}{hint}", err=True)
        return error.exit_code
    except click.Abort:
        return 130
    return result if isinstance(result, int) else 0


def _colours() -> bool | None:
    """`None`: on terminals only. https://no-color.org"""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def kubectl_warm() -> int:
    """Run the command as a plugin of kubectl: `kubectl warm`."""
    return main(prog_name="kubectl warm")


if __name__ == "__main__":
    sys.exit(main())
