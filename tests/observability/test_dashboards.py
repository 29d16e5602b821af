"""The dashboards are what Grafana 10 to 12 can load, and each panel says what it shows and where to read on."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any, Final

import pytest

from tests.observability.files import DASHBOARDS, ROOT, alerts, panels
from tests.support.docs import anchors

Dashboard = dict[str, Any]
of_each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
ANCHORS: Final = anchors((ROOT / "docs" / "operations.md").read_text())
# https://github.com/grafana/grafana/blob/main/packages/grafana-data/src/valueFormats/categories.ts
UNITS: Final = {"short", "percent", "percentunit", "s", "bytes", "Bps", "cps", "reqps"}
_COLUMNS: Final = 24


def test_there_are_two_dashboards_with_names_of_their_own() -> None:
    assert DASHBOARDS.keys() == {"warmhook.json", "warmhook-agents.json"}
    assert {each["uid"] for each in DASHBOARDS.values()} == {"warmhook-overview", "warmhook-agents"}
    assert len({each["title"] for each in DASHBOARDS.values()}) == 2


@of_each_dashboard
def test_a_dashboard_has_the_fields_of_the_schema_that_all_these_versions_read(dashboard: Dashboard) -> None:
    # 38 is that of Grafana 10.0, and newer ones migrate it; one of another database must not replace this.
    assert (dashboard["schemaVersion"], dashboard["id"], dashboard["tags"]) == (38, None, ["warmhook"])
    assert dashboard.keys() >= {"annotations", "links", "panels", "templating", "time", "title", "uid", "refresh"}
    assert "__inputs" not in dashboard
    assert dashboard["description"]


@of_each_dashboard
def test_panels_have_ids_of_their_own_and_do_not_overlap(dashboard: Dashboard) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 10
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place.keys() == {"h", "w", "x", "y"}
        assert place["x"] + place["w"] <= _COLUMNS
    for one, other in combinations([panel["gridPos"] for panel in dashboard["panels"]], 2):
        apart_in_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_in_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_in_x or apart_in_y, (one, other)


@of_each_dashboard
def test_every_panel_asks_the_chosen_data_source_and_has_a_unit_a_description_and_a_runbook(
    dashboard: Dashboard,
) -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels(dashboard):
        assert panel["datasource"] == chosen
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        references = [target["refId"] for target in panel["targets"]]
        assert references == sorted(set(references))
        assert references
        for target in panel["targets"]:
            assert target["datasource"] == chosen
            assert target["expr"]
            assert {"cluster", "namespace"} <= set(re.findall(r"(\w+)=~\"\$\1\"", target["expr"]))
        (link,) = panel["links"]
        page, _, anchor = link["url"].partition("#")
        assert page == alerts()["WarmhookDown"]["annotations"]["runbook_url"].partition("#")[0]
        assert anchor in ANCHORS, panel["title"]


@of_each_dashboard
def test_every_variable_is_used_and_every_one_that_is_used_is_there(dashboard: Dashboard) -> None:
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    used = set(re.findall(r"\$\{?(?!__)([a-z]+)", str(dashboard["panels"])))
    assert used == variables.keys()
    for name, variable in variables.items():
        if name != "datasource":
            # A Prometheus without this label has series without it, which only a pattern that takes nothing matches.
            assert (variable["includeAll"], variable["allValue"]) == (True, ".*")
            assert variable["query"]["query"] == variable["definition"]
