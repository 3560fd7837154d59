"""The dashboard and the alerts that ship are what Grafana and Prometheus read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.server.observability.test_documentation import documented

from .prometheus import program

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "mllama.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text("utf-8"))


def panels() -> list[Any]:
    """All panels with queries."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """All queries of the dashboard."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def metrics_in(expression: str) -> set[str]:
    """The metrics that an expression names, as the document has them."""
    names = re.findall(r"\bmllama_\w+", expression)
    return {re.sub("_(bucket|sum|count)$", "", name) for name in names}


def test_grafana_knows_all_that_the_dashboard_has() -> None:
    """Grafana's own types have no place for what it doesn't know."""
    types = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    read = types.Dashboard.from_json(dashboard())
    assert lost(dashboard(), json.loads(JSONEncoder().encode(read))) == []


def lost(given: Any, kept: Any, path: str = "") -> list[str]:
    """Paths of what another value lacks, or has otherwise."""
    if isinstance(given, dict):
        return [
            each
            for key, value in given.items()
            for each in (
                lost(value, kept[key], f"{path}.{key}")
                if key in kept
                else [f"{path}.{key}"]
            )
        ]
    if isinstance(given, list) and len(given) == len(kept):
        pairs = zip(given, kept, strict=True)
        return [
            each
            for index, pair in enumerate(pairs)
            for each in lost(*pair, f"{path}[{index}]")
        ]
    return [] if given == kept else [path]


def test_panels_have_places_and_names_of_their_own() -> None:
    every = dashboard()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    cells = [
        (x, y)
        for panel in every
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]


def test_dashboard_and_alerts_name_metrics_that_exist() -> None:
    rules = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"][0]["rules"]
    queries = [*expressions(), *(rule["expr"] for rule in rules)]
    assert set().union(*map(metrics_in, queries)) <= documented().keys()


def test_the_dashboard_shows_all_that_is_measured() -> None:
    shown = set().union(*map(metrics_in, expressions()))
    assert documented().keys() - shown == {"mllama_gpu_images", "mllama_model_info"}


def test_alerts_say_what_happened_and_whom_to_wake() -> None:
    for rule in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    promtool = program("promtool")
    config = DEPLOY / "prometheus" / "prometheus.yml"
    subprocess.run([promtool, "check", "config", str(config)], check=True, timeout=60)
    shutil.copy(ALERTS, tmp_path)
    shutil.copy(Path(__file__).parent / "alerts_test.yml", tmp_path)
    tested = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    # Each alert has a case.
    cases = (tmp_path / "alerts_test.yml").read_text("utf-8")
    for rule in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"][0]["rules"]:
        assert f'alertname="{rule["alert"]}"' in cases


def test_provisioned_files_name_each_other() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load(
        (provisioning / "datasources" / "prometheus.yml").read_text("utf-8")
    )["datasources"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load(
        (provisioning / "dashboards" / "mllama.yml").read_text("utf-8")
    )["providers"]
    assert provider["options"]["path"]
