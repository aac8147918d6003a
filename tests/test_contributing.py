"""The five recipes of CONTRIBUTING.md run as they stand, and mean what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from offon.behavior import metrics
from offon.behavior.metrics import registry as metric_registry
from offon.catalogue import registry
from offon.engines.api import Engine
from offon.measure.probe import run_probe
from offon.models.model import Model
from offon.parts.terms.factors import LOGP
from offon.recipe import resolve
from offon.recipe.fields import Probe
from offon.tasks import verifiers
from offon.tasks.jsonl import jsonl_task
from offon.testbed import TestbedTask, model_path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def block(name: str) -> str:
    return re.search(rf"```python\n(# {name}\n.*?)```", PAGE, re.DOTALL)[1]


def run(name: str) -> dict:
    values: dict = {"__name__": name}
    exec(compile(block(name), name, "exec"), values)
    return values


def test_the_map_names_every_room():
    rooms = {path.stem for path in (ROOT / "src" / "offon").iterdir() if path.suffix in ("", ".py")}
    plan = PAGE[PAGE.index("## The map") : PAGE.index("## The walk")]
    assert {room for room in rooms if not room.startswith("__") and not re.search(rf"\b{room}\b", plan)} == set()


def test_the_walk_names_files_that_exist():
    walk = PAGE[PAGE.index("## The walk") : PAGE.index("## The five")]
    named = re.findall(r"`([a-z_/]+(?:\.py|/))`", walk)
    assert len(named) > 8
    assert [name for name in named if not (ROOT / "src" / "offon" / name).exists()] == []


def test_a_row_is_a_method_of_a_recipe(tmp_path):
    (tmp_path / "row.py").write_text(block("row.py"))
    info = registry.get(f"{tmp_path}/row.py:wide_grpo")
    assert info.kind == "stage" and set(info.arguments) == {"group_size", "low", "high"}
    node = {"method": f"{tmp_path}/row.py:wide_grpo", "steps": 2, "high": 0.3}
    resolved = resolve({"model": "testbed:base", "task": "testbed:rare", "pipeline": {"rl": node}})
    assert resolved.nodes[0].arguments == {"group_size": 8, "low": 0.2, "high": 0.3}


def test_a_part_is_its_formula():
    """p = 1/4: the factor is 1/2, and nothing flows through it."""
    logp = torch.tensor([0.25, 1.0]).log().requires_grad_()
    factor = run("part.py")["RootOfP"]()({LOGP: logp})
    assert factor.tolist() == pytest.approx([0.5, 1.0]) and not factor.requires_grad
    assert run("part.py")["RootOfP"]().needs == (LOGP,)


def test_a_metric_is_a_file_and_a_name(tmp_path, monkeypatch):
    (tmp_path / "begins_with_a_digit.py").write_text(block("begins_with_a_digit.py"))
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    (metric,) = metric_registry.load(["begins_with_a_digit"])
    assert metric.key == "begins_with_a_digit" and metric.unit == "share"


def test_a_verifier_is_a_function_and_a_line(tmp_path):
    before = dict(verifiers.VERIFIERS)
    try:
        run("verifier.py")
        rows = [{"prompt": f"{n} + 1?", "answer": str(n + 1)} for n in range(8)]
        (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
        task = jsonl_task(str(tmp_path / "sums.jsonl"), verifier="ends_with")
        item = next(iter(task.items("train")))
        verdicts = task.verify([(item, f"so it is {item.columns['answer']}"), (item, "no idea")])
        assert [verdict.score for verdict in verdicts] == [1.0, 0.0]
        assert task.answer(item, "so it is 12") == "12"
    finally:
        verifiers.VERIFIERS.clear()
        verifiers.VERIFIERS.update(before)


def test_an_engine_is_whatever_generates():
    engine: Engine = run("engine.py")["Parrot"]()
    model = Model.load(model_path("base"), device="cpu")
    groups = run_probe(model, TestbedTask("rare"), Probe(prompts=2, samples=3, max_tokens=4), "ab", engine=engine)
    responses = [member for group in groups for member in group.members]
    assert len(responses) == 6 and {tuple(member.tokens.tolist()) for member in responses} == {(model.stop_ids[0],)}
    assert all(getattr(engine, name, None) is not None for name in ("max_slots", "generate", "sync"))
