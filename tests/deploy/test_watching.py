"""Alerts and dashboard: valid, and about metrics that the service has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.metrics import Metrics

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]


def existing() -> dict[str, set[str]]:
    """Every series name of the service -> its label names."""
    registry = Metrics().registry
    labels: dict[str, set[str]] = {sample.name: set() for family in registry.collect() for sample in family.samples}
    for collector, names in registry._collector_to_names.items():
        own = set(getattr(collector, "_labelnames", ()))
        labels.update({name: own | ({"le"} if name.endswith("_bucket") else set()) for name in names})
    # What is asked for when it is scraped is registered where it lives.
    for module in (REPOSITORY / "app").glob("*.py"):
        text = module.read_text()
        labels.update({f"naiseki_{name}": set() for name in re.findall(r"\.watch\(\s*\"(\w+)\"", text)})
        counted = re.findall(r"\.count\(\s*\"(\w+)\",\s*\"[^\"]*\",\s*\"(\w+)\"", text)
        labels.update({f"naiseki_{name}_total": {label} for name, label in counted})
    return labels


def panels(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text())["panels"]
    return found


def expressions() -> list[str]:
    drawn = [t["expr"] for file in DASHBOARDS for panel in panels(file) for t in panel.get("targets", ())]
    return drawn + [rule["expr"] for group in ALERTS for rule in group["rules"]]


def test_something_is_drawn_and_watched() -> None:
    assert len(DASHBOARDS) == 1
    assert len(expressions()) > 20


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_and_labels_that_exist(expression: str) -> None:
    series = existing()
    names = re.findall(r"\bnaiseki_\w+", expression)
    assert names or expression.startswith("up{")
    assert [name for name in names if name not in series] == []
    used = {label for listed in re.findall(r"by \(([^)]*)\)", expression) for label in listed.split(", ")}
    used |= set(re.findall(r"(\w+)=~?\"", expression))
    known = {"instance", "job"}.union(*(series[name] for name in names))
    assert used <= known


def test_legends_name_labels_that_exist() -> None:
    series = existing()
    for file in DASHBOARDS:
        for panel in panels(file):
            for target in panel.get("targets", ()):
                labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                known = {"instance"}.union(*(series[name] for name in re.findall(r"\bnaiseki_\w+", target["expr"])))
                assert labels <= known, panel["title"]


def test_panels_do_not_overlap() -> None:
    for file in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in panels(file):
            at = panel["gridPos"]
            cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
            assert not cells & taken, panel["title"]
            assert at["x"] + at["w"] <= 24
            taken |= cells


def test_dashboard_and_provisioning_agree() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "naiseki.yml").read_text())["providers"]
    used = {panel["datasource"]["uid"] for file in DASHBOARDS for panel in panels(file) if "datasource" in panel}
    assert used == {source["uid"]}
    mounts = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounts


def test_every_alert_says_what_to_do() -> None:
    rules = [rule for group in ALERTS for rule in group["rules"]]
    assert len(rules) >= 5
    assert all({"summary", "cure"} <= set(rule["annotations"]) for rule in rules)
    assert {rule["labels"]["severity"] for rule in rules} == {"page", "warn"}


def test_prometheus_accepts_its_files() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("NOT CHECKED: no promtool here (Debian: apt install prometheus)")
    file = DEPLOY / "prometheus" / "prometheus.yml"
    checked = subprocess.run(["promtool", "check", "config", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{sum(len(group['rules']) for group in ALERTS)} rules found" in checked.stdout


FULL_REDIS = {
    "naiseki_redis_breaker_open": "0x120",
    'naiseki_rejects_total{reason="histories"}': "0+5x120",
    'naiseki_requests_total{route="/v1/events", status="503"}': "0+5x120",
}
BATCH_CALLS = {  # each of a hundred users, of whom one is new
    'naiseki_requests_total{route="/v1/recommend/batch", status="200"}': "0+5x120",
    "naiseki_impressions_total": "0+500x120",
    'naiseki_fallbacks_total{reason="new_user"}': "0+5x120",
}

ASKED = {'naiseki_requests_total{route="/v1/recommend", status="200"}': "0+1000x120"}
FLAKY_REDIS = {**ASKED, 'naiseki_redis_errors_total{kind="timeout"}': "0+50x120", "naiseki_redis_breaker_open": "0x120"}
BREAKER_OPEN = {
    **ASKED,
    'naiseki_redis_errors_total{kind="breaker"}': "0+1000x120",
    "naiseki_redis_breaker_open": "1x120",
}
HASTY_KEY = {
    **ASKED,
    'naiseki_requests_total{route="/v1/recommend", status="429"}': "0+9000x120",
    'naiseki_rejects_total{reason="rate-limited"}': "0+9000x120",
}
SLOW_CLIENTS = {**ASKED, 'naiseki_rejects_total{reason="slow"}': "0+50x120"}
EVERY = [rule["alert"] for group in ALERTS for rule in group["rules"] if rule["alert"] != "NaisekiDown"]


@pytest.mark.parametrize(
    ("series", "fires", "silent"),
    [
        (FULL_REDIS, ["NaisekiHistoriesUnavailable"], ["NaisekiOverloaded"]),
        ({"naiseki_redis_breaker_open": "1x120"}, ["NaisekiHistoriesUnavailable"], []),
        (BATCH_CALLS, [], ["NaisekiMostlyFallbacks", "NaisekiOverloaded", "NaisekiHistoriesUnavailable"]),
        ({**BATCH_CALLS, "naiseki_impressions_total": "0+6x120"}, ["NaisekiMostlyFallbacks"], []),
        ({"naiseki_redis_evicting": "1x120"}, ["NaisekiRedisMayEvict"], ["NaisekiHistoriesUnavailable"]),
        (FLAKY_REDIS, ["NaisekiRedisErrors"], ["NaisekiHistoriesUnavailable", "NaisekiServerErrors"]),
        (BREAKER_OPEN, ["NaisekiHistoriesUnavailable"], ["NaisekiRedisErrors"]),
        ({'naiseki_feedback_dropped_total{reason="full"}': "0+5x120"}, ["NaisekiFeedbackDropped"], []),
        ({'naiseki_rejects_total{reason="connections"}': "0+1x120"}, ["NaisekiConnectionsRefused"], []),
        (HASTY_KEY, [], EVERY),
        (SLOW_CLIENTS, ["NaisekiSlowClients"], ["NaisekiOverloaded", "NaisekiServerErrors"]),
    ],
)
def test_the_alert_that_fires_is_the_one_whose_cure_helps(
    tmp_path: Path, series: dict[str, str], fires: list[str], silent: list[str]
) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("NOT CHECKED: no promtool here (Debian: apt install prometheus)")

    def expected(alert: str) -> dict[str, Any]:
        (rule,) = [rule for group in ALERTS for rule in group["rules"] if rule["alert"] == alert]
        said = {key: text.replace("{{ $labels.instance }}", "app:8000") for key, text in rule["annotations"].items()}
        firing = [{"exp_labels": {"instance": "app:8000", **rule["labels"]}, "exp_annotations": said}]
        return {"eval_time": "25m", "alertname": alert, "exp_alerts": firing if alert in fires else []}

    given = [
        {"series": re.sub(r"\{|$", '{instance="app:8000",', name, count=1).rstrip("}") + "}", "values": values}
        for name, values in series.items()
    ]
    test = {"interval": "15s", "input_series": given, "alert_rule_test": [expected(alert) for alert in fires + silent]}
    rules = str(DEPLOY / "prometheus" / "alerts.yml")
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [rules], "evaluation_interval": "15s", "tests": [test]}))
    tried = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_the_scrape_target_is_the_service() -> None:
    (scrape,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["app:8000"]}]
