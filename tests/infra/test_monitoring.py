"""Dashboard and alerts: well-formed, and over metrics that a run and Ray really report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import yaml

REPO = Path(__file__).resolve().parents[2]
MONITORING = REPO / "infra" / "monitoring"
# Of Ray 2.60's own, as its endpoint showed them.
OF_RAY = {
    "ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_network_receive_speed", "ray_node_disk_free",
    "ray_node_disk_usage",
}  # fmt: skip
WORDS = {"sum", "max", "min", "avg", "by", "rate", "increase", "or", "and", "vector", "step", "NodeAddress"}


def of_a_run() -> set[str]:
    """The metrics that ray_watch reports, under the names Ray's endpoint gives them: counters end in _total."""
    text = (REPO / "pipeline" / "execution" / "ray_watch.py").read_text()
    named = set(re.findall(r"\bmanymodal_(\w+)", text.split('"""')[1]))
    gauges = {"items_left", "workers", "nodes"}
    assert gauges <= named and len(named) >= 8
    return {f"ray_manymodal_{name}" for name in gauges} | {f"ray_manymodal_{name}_total" for name in named - gauges}


def metrics(expression: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]\w*", re.sub(r"\[\w+\]", "", expression))) - WORDS


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def test_dashboard() -> None:
    schema = json.loads((Path(__file__).parent / "dashboard.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(dashboard(), schema)
    panels = dashboard()["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    cells = [
        (x, y)
        for p in panels
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24, "no panel lies over another"
    sources = yaml.safe_load((MONITORING / "grafana" / "datasource.yaml").read_text())["datasources"]
    assert {p["datasource"]["uid"] for p in panels} == {source["uid"] for source in sources}


def test_alerts() -> None:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    for rule in [rule for group in groups for rule in group["rules"]]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"] and rule["annotations"]["action"], "it says what to do"
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_every_metric_is_one_that_is_reported() -> None:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    expressions = [rule["expr"] for group in groups for rule in group["rules"]]
    expressions += [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    used = set().union(*map(metrics, expressions))
    assert used <= of_a_run() | OF_RAY, used - of_a_run() - OF_RAY
    assert of_a_run() <= used, "and none of ours is forgotten"


def test_prometheus_reads_the_rules() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    assert config["rule_files"] == ["/etc/prometheus/alerts.yaml"]
    assert {name for job in config["scrape_configs"] for name in job["dns_sd_configs"][0]["names"]} == {
        "ray-head",
        "ray-worker",
    }
