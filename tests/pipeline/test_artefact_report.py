"""What is measured of reward models and merges: on rows that were never trained on, and against every parent."""

from __future__ import annotations

import json

import pytest

from offon.data import load_preferences
from offon.data.holdout import hold_out
from offon.errors import DataError
from offon.pipeline.run import run_recipe
from offon.pipeline.stage_report import artefact_report
from offon.runs import ledger
from offon.types import Group, Item
from tests.pipeline.test_run import folder, recipe  # noqa: F401  (folder is a fixture)
from tests.rounding import FLOAT64_SUM
from tests.support import tokenizer

pytestmark = pytest.mark.slow

PROBE = "model: ./base\ntask: {jsonl: ./task.jsonl, verifier: exact}\n"
PROBE += "probe: {prompts: 4, samples: 8, k: 2, max_tokens: 6}\npipeline:\n"
REWARD = PROBE + (
    "  rm: {method: train_reward_model, data: ./pairs.jsonl, steps: 8, learning_rate: 1e-2, prompts_per_step: 8,"
    " heldout: 0.3}\n"
    "  good: {gate: $rm, limits: {accuracy: {min: 0.4}}}\n"
)


@pytest.fixture(scope="module")
def pairs(folder):  # noqa: F811
    """Two pairs of each prompt, one of w3 over w5."""
    prompts = [f"w{i} w{j}" for i in range(6) for j in range(6)]
    rows = [{"prompt": p, "chosen": chosen, "rejected": "w5"} for p in prompts for chosen in ("w3 w4", "w3")]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = [
        {"prompt": p, "completions": ["w1", "w2", "w3"], "labels": [True, i % 2, i % 2]} for i, p in enumerate(prompts)
    ]
    (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    return folder


def read(run, node, file):
    return json.loads((run / "nodes" / node / file).read_text())


def test_a_prompt_is_held_out_with_all_its_rows_whatever_their_order_and_number():
    groups = [Group(item=Item(id=Item.content_id(f"p{i % 50}"), prompt=f"p{i % 50}"), views={}) for i in range(100)]
    kept, held = hold_out(groups, 0.3)
    assert {g.item.id for g in kept}.isdisjoint(g.item.id for g in held) and len(kept) + len(held) == 100
    assert 5 <= len({g.item.id for g in held}) <= 25
    assert {g.item.id for g in hold_out(groups[::-1][:60], 0.3)[1]} <= {g.item.id for g in held}
    assert hold_out(groups, 0.0)[1] == []


def test_prompts_that_a_task_keeps_for_training_are_held_out_of_data_too():
    """A task holds out ids below a share: data made of the others has none there, so another hash decides."""
    train = [Item(id=Item.content_id(f"p{i}"), prompt=f"p{i}") for i in range(400)]
    train = [Group(item=item, views={}) for item in train if int(item.id, 16) >= 0.2 * 16**16]
    assert 0.06 < len(hold_out(train, 0.1)[1]) / len(train) < 0.15


def test_a_reward_model_is_measured_on_pairs_it_never_saw(pairs, tmp_path, monkeypatch):
    run = run_recipe(recipe(pairs, REWARD), tmp_path / "run")
    groups = load_preferences(pairs / "pairs.jsonl", tokenizer())
    held = {group.item.id for group in hold_out(groups, 0.3)[1]}
    trained = ledger.query(run, "select distinct item from trajectories where node = 'rm'").column("item").to_pylist()
    assert held and held.isdisjoint(trained)
    found = read(run, "rm", "artefact.json")
    assert found["artefact"] == "reward model" and found["heldout"]["prompts"] == len(held)
    assert found["heldout"]["pairs"] == 2 * len(held) and found["heldout"]["from"] == "30% of its data's prompts"
    assert found["accuracy"]["estimate"] == 1.0 > found["accuracy"]["low"] > 0.5  # w3 over w5 is easily learned
    assert found["brier"]["estimate"] < 0.25 and sum(b["n"] for b in found["bins"]) == found["heldout"]["pairs"]
    assert read(run, "good", "gate.json")["limits"][0]["value"] == found["accuracy"]
    assert "Nothing was measured" not in json.dumps(json.loads((run / "status.json").read_text()))

    monkeypatch.setattr(artefact_report, "reward_probe", lambda *_, **__: pytest.fail("measured again"))
    run_recipe(recipe(pairs, REWARD), run, resume=True)


def test_a_second_file_is_measured_on_without_the_prompts_trained_on(pairs, tmp_path):
    rows = [{"prompt": p, "chosen": "w3", "rejected": "w5"} for p in ("w0 w0", "w9 w9", "w9 w8")]
    (pairs / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = recipe(pairs, REWARD.split("  good")[0], **{"rm.heldout": str(pairs / "others.jsonl"), "rm.steps": 1})
    found = read(run_recipe(asked, tmp_path / "run"), "rm", "artefact.json")
    assert found["heldout"]["pairs"] == 2  # w0 w0 is trained on


def test_a_process_model_says_where_the_first_error_is(pairs, tmp_path):
    text = PROBE + "  prm: {method: prm, data: ./steps.jsonl, steps: 2, prompts_per_step: 8, heldout: 0.3}\n"
    found = read(run_recipe(recipe(pairs, text), tmp_path / "run"), "prm", "artefact.json")
    assert found["artefact"] == "process model"
    assert found["heldout"]["steps"] == 3 * found["heldout"]["solutions"]
    assert [row["step"] for row in found["by_position"]] == [1, 2, 3] and found["by_position"][0]["accuracy"]
    first = found["first_error"]
    assert first["n_found"] + first["n_clean"] == found["heldout"]["solutions"] and first["n_found"] > 0


def test_nothing_is_held_out_where_it_is_not_wanted_and_everything_cannot_be(pairs, tmp_path):
    text = REWARD.split("  good")[0]
    run = run_recipe(recipe(pairs, text, **{"rm.heldout": 0, "rm.steps": 1}), tmp_path / "none")
    assert not (run / "nodes" / "rm" / "artefact.json").exists()
    with pytest.raises(DataError, match="leaves none of 72 rows to train on"):
        run_recipe(recipe(pairs, text, **{"rm.heldout": 0.99999999}), tmp_path / "all")


def test_a_merge_is_compared_with_every_model_it_is_made_of(pairs, tmp_path):
    """Merging a model with itself changes no weight: against that parent nothing changed, prompt by prompt."""
    text = PROBE + (
        "  sft: {method: sft, data: ./demos.jsonl, steps: 2, learning_rate: 1e-2, prompts_per_step: 8}\n"
        "  soup: {method: merge_linear, models: [$sft, ./base]}\n"
        "  ok: {gate: $soup, init: $sft, limits: {change: {min: -1}}}\n"
    )
    run = run_recipe(recipe(pairs, text), tmp_path / "run")
    found = read(run, "soup", "artefact.json")
    assert found["artefact"] == "merge" and [p["parent"] for p in found["parents"]] == ["sft", "base"]
    for parent in found["parents"]:
        (entry,) = parent["tasks"].values()
        terms = {name: term["estimate"] for name, term in entry["d1"]["certified"].items()}
        assert sum(terms.values()) - 2 * terms["attrition"] == pytest.approx(
            entry["d1"]["total"]["estimate"], abs=FLOAT64_SUM
        )
    limits = read(run, "ok", "gate.json")["limits"]
    (entry,) = found["parents"][0]["tasks"].values()
    assert limits[0]["value"] == entry["d1"]["total"]
