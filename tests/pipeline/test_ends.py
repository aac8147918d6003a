"""What ends a turn ends a response: after SFT on a base model whose own end is another token, all through a run."""

from __future__ import annotations

import json

import pytest
from transformers import GenerationConfig

from offon.models.model import Model
from offon.pipeline.run import run_recipe
from offon.recipe import parse, resolve
from offon.runs import ledger
from tests.models.test_tokens import EOS, tokenizer, wrapped

pytestmark = pytest.mark.slow

TURNS_END = 7  # <end>
RECIPE = """
model: ./base
task: {jsonl: ./task.jsonl, verifier: regex, pattern: "(?s).*", heldout: 0.5}
probe: {prompts: 2, samples: 8, k: 2, max_tokens: 24}
pipeline:
  sft: {method: sft, data: ./demos.jsonl, steps: 30, learning_rate: 1e-2, prompts_per_step: 8, lora: true}
  rl: {method: grpo, init: $sft, group_size: 4, steps: 1, max_tokens: 24, prompts_per_step: 2}
  best: {method: best_of_n, init: $rl, n: 2, prompts: 2, max_tokens: 24}
  again: {method: sft, init: $rl, data: $best, steps: 1, prompts_per_step: 2}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("ends")
    wrapped(tokenizer()).save(root / "base")
    asked = [[{"role": "user", "content": f"t{i} t{i + 1}"}] for i in range(20, 40)]
    demos = [{"messages": [*turns, {"role": "assistant", "content": "t9 t10"}]} for turns in asked]
    (root / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in demos))
    (root / "task.jsonl").write_text("".join(json.dumps({"prompt": turns}) + "\n" for turns in asked))
    notes: list[str] = []
    run = run_recipe(
        resolve(parse(RECIPE, folder=root)), root / "run", progress=lambda event: notes.append(event.get("note", ""))
    )
    return run, notes


def test_every_response_of_the_run_ends_with_its_turn(finished):
    run, _ = finished
    rows = ledger.query(run, "select tokens from trajectories where behavior_logp is not null").to_pylist()
    assert len(rows) > 40 and all(TURNS_END not in row["tokens"][:-1] for row in rows)
    assert any(row["tokens"][-1] == TURNS_END for row in rows)


def test_what_the_stages_export_names_it_and_the_run_says_so_once_for_each_stage_that_is_new_to_it(finished):
    run, notes = finished
    for node in ("sft", "rl", "again"):
        final = run / "nodes" / node / "final"
        assert GenerationConfig.from_pretrained(final).eos_token_id == [EOS, TURNS_END]
        assert Model.load(final, device="cpu", check=False).stop_ids == (EOS, TURNS_END)
    said = [note for note in notes if "ends turns with" in note]
    assert said == ["sft: the chat template ends turns with <end>, so responses do too, as generation_config.json says"]


def test_samples_are_trained_in_their_tokens(finished):
    run, _ = finished
    made = [json.loads(line) for line in (run / "nodes/best/final/data.jsonl").read_text().splitlines()]
    read = "select tokens from trajectories where node = 'again' and behavior_logp is null"
    rows = ledger.query(run, read).to_pylist()
    assert {tuple(row["tokens"]) for row in rows} <= {tuple(row["offon"]["tokens"]) for row in made} != set()
