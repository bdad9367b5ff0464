"""The chart's alerts, as Helm renders them, fire on the series that they are about and on no other.

The tests are promtool's own format, in `alerts/`: who knows Prometheus can read and extend them.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import binaries
from tests.operator.test_chart import render

CASES = sorted((Path(__file__).parent / "alerts").glob("*.yaml"))


def promtool(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = str(binaries.ensure("promtool")["promtool"])
    return subprocess.run([program, *args], cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A folder with the rules, named as the tests name them."""
    chart = render("--set=monitoring.prometheusRule.enabled=true")
    spec = chart["PrometheusRule", "nat64-operator"]["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path


def test_prometheus_takes_the_rules(rules: Path) -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yaml", cwd=rules)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_alerts_fire_where_they_should(case: Path, rules: Path) -> None:
    shutil.copy(case, rules)
    done = promtool("test", "rules", case.name, cwd=rules)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_firing(rules: Path) -> None:
    [group] = yaml.safe_load((rules / "rules.yaml").read_text())["groups"]
    checks: list[Any] = [
        check
        for case in CASES
        for test in yaml.safe_load(case.read_text())["tests"]
        for check in test["alert_rule_test"]
    ]
    fired = {check["alertname"] for check in checks if check["exp_alerts"]}
    assert fired == {rule["alert"] for rule in group["rules"]}
