"""From a recipe to a process reward model: labels made by continuing, a model trained on them, a policy it rewards."""

from __future__ import annotations

import json

import pytest
import torch

from offon.catalogue import registry
from offon.catalogue.toolbox import Plan
from offon.errors import OffonError
from offon.models.model import Model
from offon.parts import Artefact
from offon.pipeline.check import check_recipe
from offon.pipeline.run import run_recipe
from offon.recipe import parse, resolve
from offon.runs import ledger
from tests.support import ParityTask, model

pytestmark = pytest.mark.slow

RECIPE = """
task: {python: "FOLDER/odd.py:score", data: FOLDER/task.jsonl}
probe: false
model: ./base
pipeline:
  labels: {method: math_shepherd, labels: soft, solutions: 2, continuations: 3, separator: 1, max_tokens: 6}
  search: {method: omegaprm, labels: hard, solutions: 2, continuations: 2, separator: 1, max_tokens: 6}
  prm: {method: prm, data: $labels, steps: 3, learning_rate: 1e-2, prompts_per_step: 4}
  rl: {method: grpo_process, prm: $prm, separator: 1, group_size: 2, steps: 2, prompts_per_step: 3, max_tokens: 6}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("user")
    model(0).save(root / "base")
    rows = [{"prompt": f"w{i} w{j}", "answer": "w3"} for i in range(4) for j in range(3)]
    (root / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "odd.py").write_text(
        "def score(prompts, completions, **columns):\n"
        "    return [float(len(c.split()) % 2 == 1) for c in completions]\n"
    )
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    recipe = resolve(parse(RECIPE.replace("FOLDER", str(folder)), folder=folder))
    check_recipe(recipe)
    return run_recipe(recipe, tmp_path_factory.mktemp("runs") / "run")


def rows_of(run, node):
    return [json.loads(line) for line in (run / "nodes" / node / "final" / "data.jsonl").read_text().splitlines()]


def test_a_made_row_is_a_solution_in_steps_with_labels(run):
    rows = rows_of(run, "labels")
    assert len(rows) >= 4
    for row in rows:
        assert len(row["completions"]) == len(row["labels"]) and row["separator"] == ""
        assert all(round(3 * label) == pytest.approx(3 * label) for label in row["labels"][:-1])  # c / 3
        right = len("".join(row["completions"]).split()) % 2 == 1
        assert row["labels"][-1] == float(right)  # the last step's label is the verdict


def test_labels_of_a_search_fall_once_and_never_rise(run):
    for row in rows_of(run, "search"):
        assert row["labels"] == sorted(row["labels"], reverse=True) and set(row["labels"]) <= {0.0, 1.0}


def test_every_solution_has_a_fate(run):
    table = ledger.query(run, "select fate, count(*) as n from trajectories where node = 'labels' group by fate")
    fates = dict(zip(table.column("fate").to_pylist(), table.column("n").to_pylist(), strict=True))
    assert sum(fates.values()) == 2 * 10 and fates["kept"] == len(rows_of(run, "labels"))


def test_the_trained_model_is_a_classifier_that_others_load(run):
    prm = Model.load(run / "nodes" / "prm" / "final", device="cpu")
    assert torch.count_nonzero(prm.core.score.weight) > 0
    from transformers import AutoModelForTokenClassification

    assert AutoModelForTokenClassification.from_pretrained(run / "nodes" / "prm" / "final").config.num_labels == 1


def test_continuations_are_on_the_cost(run):
    node = json.loads((run / "nodes" / "labels" / "node.json").read_text())
    cost = node["cost"]
    assert cost["verifier_calls"] > 2 * 3 * 9 and cost["tokens_generated"] > cost["verifier_calls"]


def test_another_model_completes_where_one_is_named():
    info = registry.get("math_shepherd")
    plan = Plan.of(info.function, {}, "demonstrations", task=ParityTask(), completer="strong")
    assert Artefact("strong") in plan.models


def test_a_conversation_that_the_model_cannot_read_to_its_end_is_refused(folder):
    """Three turns of 24 tokens after 2 are more than 64 positions; two are not."""
    text = RECIPE.split("pipeline:")[0].replace("FOLDER", str(folder)) + "pipeline:\n  s: {method: critique_revise, "
    for asks, fits in (('[" w5"]', True), ('[" w5", " w6"]', False)):
        recipe = resolve(parse(text + f"asks: {asks}, max_tokens: 24, steps: 1}}\n", folder=folder))
        if fits:
            check_recipe(recipe)
        else:
            with pytest.raises(OffonError, match="for each of 3 turns"):
                check_recipe(recipe)
