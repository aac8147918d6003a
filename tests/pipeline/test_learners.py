"""From pairs to a reward model, from that to a policy and its critic: nodes of one recipe, stopped and resumed."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

from offon.errors import Interrupted, ModelError
from offon.pipeline.check import check_recipe
from offon.pipeline.run import run_recipe
from offon.runs import ledger
from offon.train import state
from tests.pipeline.test_run import folder, recipe  # noqa: F401  (folder is a fixture)

pytestmark = pytest.mark.slow

RECIPE = """
model: ./base
task: {jsonl: ./task.jsonl, verifier: exact}
probe: {prompts: 4, samples: 8, k: 4, max_tokens: 6}
pipeline:
  rm: {method: train_reward_model, data: ./pairs.jsonl, steps: 6, learning_rate: 1e-2, prompts_per_step: 8, lora: LORA}
  rl:
    {method: ppo, critic: $rm, critic_learning_rate: 1e-3, steps: 4, epochs: 2, max_tokens: 6, learning_rate: 1e-3,
     prompts_per_step: 8, with: [{reward_model: {model: $rm, weight: 0.5}}]}
"""


@pytest.fixture(scope="module")
def pairs(folder):  # noqa: F811
    rows = [{"prompt": f"w{i} w{j}", "chosen": "w3 w4", "rejected": f"w{i} w5"} for i in range(6) for j in range(4)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory):
    return run_recipe(recipe(pairs, RECIPE.replace("LORA", "null")), tmp_path_factory.mktemp("runs") / "run")


def test_every_model_of_the_run_loads_in_transformers_as_what_it_is(finished):
    nodes = finished / "nodes"
    assert AutoModelForSequenceClassification.from_pretrained(nodes / "rm" / "final").config.num_labels == 1
    assert AutoModelForCausalLM.from_pretrained(nodes / "rl" / "final")
    critic = AutoModelForTokenClassification.from_pretrained(nodes / "rl" / "final" / "critic")
    assert critic.config.num_labels == 1 and critic.score.weight.abs().sum() > 0


def test_the_reward_model_is_not_probed_and_the_policy_is(finished):
    handoffs = {name: json.loads((finished / "nodes" / name / "handoff.json").read_text()) for name in ("rm", "rl")}
    assert not handoffs["rm"]["tasks"] and len(handoffs["rl"]["tasks"]) == 1
    assert (finished / "report.html").is_file()


def test_rewards_stay_apart_on_record_and_add_up(finished):
    rows = ledger.query(finished, "select signals from trajectories where node = 'rl' and fate = 'trained'").to_pylist()
    assert rows
    for row in rows:
        signals = dict(row["signals"])
        expected = signals["reward:verifier"] + 0.5 * signals["reward:reward_model"]
        assert signals["reward"] == pytest.approx(expected)


def test_what_both_learners_trained_on_is_on_record(finished):
    counts = ledger.query(finished, "select learner, count(*) as n from consumption where node = 'rl' group by learner")
    assert {row["learner"]: row["n"] for row in counts.to_pylist()} == {"policy": 32, "critic": 32}


def test_check_says_what_both_learners_hold(pairs):
    _, line = check_recipe(recipe(pairs, RECIPE.replace("LORA", "null")))["nodes"]
    held = {entry["model"]: entry for entry in line["held"]}
    assert {"self", "critic", "start", "$rm"} <= held.keys()
    assert held["critic"]["size_bytes"] == pytest.approx(held["self"]["size_bytes"], rel=0.1)
    assert "value" in held["critic"]["role"] and "score" in held["$rm"]["role"]


@pytest.mark.parametrize(
    "text, words",
    [
        (RECIPE.replace("{model: $rm, weight: 0.5}", "{model: ./small}"), "small is a language model"),
        (RECIPE.replace("method: ppo,", "method: ppo, init: $rm,"), "rm is a reward model"),
    ],
)
def test_a_language_model_is_no_reward_model_and_the_other_way_round(pairs, text, words):
    with pytest.raises(ModelError, match=words):
        check_recipe(recipe(pairs, text.replace("LORA", "null")))


def test_stopped_in_the_middle_of_a_buffer_it_is_the_same_policy_and_critic(pairs, finished, tmp_path, monkeypatch):
    stopped = set()

    def stop(self):
        if self.state.step != 3 or self.node.name in stopped:
            return False
        stopped.add(self.node.name)
        return True

    monkeypatch.setattr(state.TrainState, "interrupted", property(stop))
    text = recipe(pairs, RECIPE.replace("LORA", "null"))
    for _ in ("rm", "rl"):
        with pytest.raises(Interrupted):
            run_recipe(text, tmp_path / "run", resume=True)
    run_recipe(text, tmp_path / "run", resume=True)
    assert stopped == {"rm", "rl"}
    for place in ("", "critic"):
        ours, theirs = (
            load_file(root / "nodes" / "rl" / "final" / place / "model.safetensors")
            for root in (tmp_path / "run", finished)
        )
        gaps = {name: float((ours[name] - theirs[name]).abs().max()) for name in theirs}
        assert not any(gaps.values()), (place, gaps)


def test_a_reward_model_of_an_adapter_scores_and_starts_a_critic(pairs, tmp_path):
    run = run_recipe(recipe(pairs, RECIPE.replace("LORA", "true"), **{"pipeline.rl.steps": 1}), tmp_path / "run")
    assert (run / "nodes" / "rm" / "final" / "adapter_config.json").is_file()
