"""Make values as bad as names and messages can get: HTML, quotes, other directions of writing, great lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Final

from tests.ui.synthetic import NOW, SyntheticCluster
from warmhook.checks import Check
from warmhook.delivery_records import DeliveryRecord
from warmhook.overview import CellKind, Dimension, Failing, ImagePage, Moment, NodePage, Overview
from warmhook.warmimages import ObjectKey

HTML: Final = "<img src=x onerror='window.broken=1'>\"'--><script>window.broken=1</script>{{ 7*7 }}"
RTL: Final = "\u202eabc\u2066\u200f\u05d0\u05d1\x1b[31m\0"
LONG: Final = "x" * 253


class HostileCluster(SyntheticCluster):
    """A cluster whose every name is meant to break the page."""

    name: ClassVar = HTML + RTL
    addresses: ClassVar = ("/ui/images/a/b-0", "/ui/nodes/a")

    def __init__(self) -> None:
        super().__init__(nodes=40, images=3)

    def overview(self, dimension: Dimension) -> Overview:
        found = super().overview(dimension)
        names = (HTML, RTL, LONG)
        groups = tuple(
            replace(group, name=names[index % 3] + str(index), within=HTML) for index, group in enumerate(found.groups)
        )
        rows = tuple(
            replace(
                row,
                warmimage=ObjectKey(LONG, name),
                image=f"registry.example.com/{name}/{LONG}:v1",
                policy=name,
                kinds=tuple(CellKind(kind.state, HTML if kind.state == "failed" else "") for kind in row.kinds),
                reason=HTML,
            )
            for row, name in zip(found.rows, names, strict=True)
        )
        checks = (Check(HTML, "wrong", HTML + LONG, HTML, HTML),)
        return replace(found, groups=groups, rows=rows, checks=checks, failing=tuple(self.failing()))

    def failing(self) -> list[Failing]:
        key = ObjectKey(HTML, RTL)
        return [
            Failing(key, HTML + RTL, "NotFound", (HTML, LONG), 2, HTML + "\n" + LONG * 40),
            Failing(key, HTML + RTL, HTML, (), 0, RTL),
        ]

    def image_page(self, number: int = 0) -> ImagePage:
        found = super().image_page(0)
        row = self.overview("pool").rows[0]
        cells = tuple(
            replace(cell, node=HTML + cell.node, group=LONG, reason=HTML, message=LONG * 9) for cell in found.cells
        )
        moments = (Moment(HTML, NOW, LONG), Moment(LONG, None), Moment(RTL, NOW, HTML))
        return replace(
            found, row=row, cells=cells, timeline=moments, failing=tuple(self.failing()), digest=HTML + LONG,
            deliveries=tuple(self.deliveries()),
        )  # fmt: skip

    def node_page(self, number: int = 0) -> NodePage:
        found = super().node_page(0)
        cells = [cell for _, cell in found.images.values()]
        images = {ObjectKey(HTML, str(index)): (HTML + LONG, cell) for index, cell in enumerate(cells)}
        return replace(found, name=HTML + LONG, group=RTL, images=images, reachable=False)

    @property
    def node_names(self) -> list[tuple[str, str, str]]:
        return [("a", "pool", "zone")] * self.nodes

    def deliveries(self) -> list[DeliveryRecord]:
        return [DeliveryRecord(NOW, HTML, RTL, "skipped", HTML, (LONG, HTML), 10**9, LONG * 3)]
