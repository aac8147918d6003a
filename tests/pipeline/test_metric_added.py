"""A new metric of behaviour is one file and one line: it is in handoff.json, terminal, page and documentation."""

import json
import re

import pytest
from rich.console import Console

from offon import reporting
from offon.behavior import metrics
from offon.behavior.metrics import page, registry
from offon.pipeline.run import run_recipe
from offon.reporting import terminal
from offon.runs import ledger
from tests.pipeline.brought import bring, resolved

pytestmark = pytest.mark.slow

FILE = """
from offon.behavior.metrics.metric import Metric
from offon.behavior.metrics.response_average import VALUE, response_average

METRIC = Metric(
    key="begins_with_w3",
    unit="share",
    compute=response_average(lambda response: float(response.text.split()[:1] == ["w3"])),
    title="Begins with w3",
    meaning="the share of responses whose first word is w3",
    value=VALUE,
    line=bool,
)
"""
LINE = "begins_with_w3"
RECIPE = """
model: ./base
probe: {prompts: 8, samples: 16, k: 4, max_tokens: 4, tasks: {task: {jsonl: ./task.jsonl}}}
pipeline:
  one: {method: sft, data: ./demos.jsonl, steps: 12, learning_rate: 1e-2, prompts_per_step: 8}
"""


def test_a_metric_is_one_file_and_one_line(tmp_path, monkeypatch):
    (tmp_path / "begins_with_w3.py").write_text(FILE)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "METRICS", registry.load((*registry.NAMES, LINE)))

    run = run_recipe(resolved(bring(tmp_path), RECIPE), tmp_path / "run")

    value = json.loads((run / "nodes" / "one" / "handoff.json").read_text())["tasks"]["task"]["begins_with_w3"]
    rows = ledger.query(run, "select text from trajectories where fate = 'probe' and node = 'one'").to_pylist()
    begun = sum(row["text"].split()[:1] == ["w3"] for row in rows)
    assert len(rows) == 8 * 16 and value["after"]["estimate"] == begun / len(rows) > 0.5

    console = Console(width=80, record=True)
    terminal.show(run, console)
    shown = f"{value['before']['estimate']:.1%} → {value['after']['estimate']:.1%}"
    assert f"task: begins with w3 {shown}, +" in console.export_text()

    html = re.sub(r"<(style|script)\b.*?</\1>", "", reporting.write(run).read_text(encoding="utf-8"), flags=re.S)
    assert ">Begins with w3</th>" in html and f"<td>{shown}<small>+" in html
    assert "<b>Begins with w3</b>: the share of responses whose first word is w3." in html

    assert "| `tasks.T.begins_with_w3` | Begins with w3 | share |" in page.table()
