"""Display the progress: lines with the time since the start, and the nodes as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.demo_run.progress import NodeProgress

_STYLES: Final = {"warm": "green", "pulling": "cyan", "waiting": "dim", "failed": "bold red", "unreachable": "bold red"}


class Display:
    """Writes to a terminal, a file, or nowhere (a quiet console).

    As a context it shows the nodes: on a terminal a table that changes in place, else a line for each change.
    """

    def __init__(self, console: Console, monotonic: Callable[[], float]) -> None:
        self._console, self._monotonic, self._began = console, monotonic, monotonic()
        self._shown: dict[str, str] = {}
        self._live: Live | None = None
        self._table = _table([])

    def say(self, words: str) -> None:
        """One line, with the time since the start."""
        line = Text.assemble((f"{self._monotonic() - self._began:5.1f} s  ", "dim"), words)
        self._console.print(line, soft_wrap=True)

    def text(self, words: str = "") -> None:
        """Lines as they are, never broken: what is to be pasted must stay whole."""
        self._console.print(Text(words), soft_wrap=True)

    def table(self, table: Table) -> None:
        """A table of its own."""
        self._console.print(table)

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.quiet:
            self._live = Live(self._table, console=self._console, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
        elif kind is None:
            self._console.print(self._table)

    def show(self, nodes: Sequence[NodeProgress]) -> None:
        """The nodes as they are now."""
        self._table = _table(nodes)
        if self._live is not None:
            self._live.update(self._table)
            return
        for progress in nodes:
            if self._shown.get(progress.node) != progress.state:
                self._shown[progress.node] = progress.state
                self.say(f"{progress.node} is {progress.state}")


def _table(nodes: Sequence[NodeProgress]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("         NODE")
    table.add_column("STATE")
    table.add_column("SECONDS", justify="right")
    if any(progress.reason for progress in nodes):
        table.add_column("WHY")
    for progress in nodes:
        seconds = "" if progress.seconds is None else f"{progress.seconds:.1f}"
        state = Text(progress.state, _STYLES[progress.state])
        # As text: names and reasons come from outside, and a string would be read as markup.
        why = [Text(progress.reason)] if progress.reason else []
        table.add_row(Text(f"         {progress.node}"), state, seconds, *why)
    return table
