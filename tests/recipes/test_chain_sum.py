"""recipes/chain_sum.yaml at a fraction of its steps: every node runs, and what the preparation claims is so."""

import json
import random
from pathlib import Path

import pytest

from offon.catalogue.user_function import function_at
from offon.pipeline.run import run_recipe
from offon.recipe import resolve
from offon.tasks import open_task

pytestmark = pytest.mark.slow

pytest.importorskip("reasoning_gym")

RECIPE = Path(__file__).parents[2] / "recipes" / "chain_sum.yaml"


def prepared(name):
    return function_at(f"{RECIPE.with_suffix('.py')}:{name}")


def test_every_node_runs_and_is_measured_on_held_out_questions(tmp_path):
    short = ["base.most_steps=2", "sft.steps=1", "grpo.steps=1", "grpo.prompts_per_step=2"]
    small = ["probe.prompts=4", "probe.samples=8"]
    run_recipe(resolve(RECIPE, overrides=short + small), tmp_path / "run")
    for node in ("sft", "grpo"):
        handoff = json.loads((tmp_path / "run" / "nodes" / node / "handoff.json").read_text())
        assert handoff["tasks"]["chain_sum"]["n_prompts"] == 4


def test_demonstrations_are_right_answers_to_training_questions(tmp_path):
    task = resolve(RECIPE).task
    prepared("demonstrations")(tmp_path, task=task, count=50)
    rows = [json.loads(line) for line in (tmp_path / "demonstrations.jsonl").read_text().splitlines()]
    train = {item.prompt: item for item in open_task(task).items("train")}
    pairs = [(train[row["prompt"]], row["completion"]) for row in rows]
    assert [verdict.score for verdict in open_task(task).verify(pairs)] == [1.0] * 50


def test_the_base_reads_nothing_of_the_tasks_form_and_learns_right_results_only():
    draw, tokenizer = random.Random(0), prepared("characters")()
    lines = [prepared("line")(draw, 24) for _ in range(400)]
    assert not any(word in text for text, _ in lines for word in ("State", "problem", "="))
    _, targets = prepared("batch")(lines, tokenizer)
    learned = [tokenizer.decode(row[row >= 0], skip_special_tokens=True) for row in targets]
    assert learned == [result for _, result in lines]
    for text, result in lines:
        a, sign, b, _ = text.split()[-4:]
        assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))


def test_the_tokenizer_writes_every_prompt_back():
    tokenizer = prepared("characters")()
    for item in open_task(resolve(RECIPE).task).items("heldout"):
        assert tokenizer.decode(tokenizer(item.prompt).input_ids) == item.prompt
