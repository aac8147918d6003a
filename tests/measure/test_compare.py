"""Two checkpoints on one task: nulls are exact, truths are within their bounds, what does not apply is named."""

import dataclasses
import shutil

import numpy as np
import pytest

from offon.behavior.change.success_decomposition import SIGNS
from offon.cli.comparison import comparison_page
from offon.errors import ConfigError, DataError
from offon.measure.compare import compare_models, equal
from offon.measure.enumerated_support import support_of
from offon.measure.paired_responses import pool
from offon.measure.probe import run_probe
from offon.measure.response_changes import by_trajectory
from offon.models.loading import LoraSpec
from offon.models.model import Model
from offon.recipe.fields import Probe
from offon.testbed import TestbedTask, model_path
from offon.testbed.oracle import exact
from tests.rounding import FLOAT32, FLOAT32_SUM, FLOAT64, FLOAT64_SUM
from tests.support import ParityTask
from tests.support import model as tiny

pytestmark = pytest.mark.slow

TASK = {"testbed": ["rare", "guard"]}
SMALL = {"prompts": 12, "samples": 48, "k": 8, "max_tokens": 8}
ZERO = {"estimate": 0, "low": 0, "high": 0}


def applied(entry):
    return {one["name"] for one in entry["instruments"] if one["applies"]}


@pytest.fixture(scope="module")
def same():
    return compare_models("testbed:base", "testbed:base", TASK, **SMALL, null=True)


@pytest.fixture(scope="module")
def better():
    return compare_models("testbed:student", "testbed:base", TASK, **SMALL)


def test_the_same_checkpoint_twice(same):
    d1 = same["trajectories"]["d1"]
    for term in ("expansion", "attrition"):
        assert d1[term] == ZERO
    assert same["role"]["name"] == "no change" and same["same_weights"]
    assert same["trajectories"]["bits"]["novelty"] == pytest.approx(0, abs=0.2)
    assert same["d1"]["total"]["low"] <= 0 <= same["d1"]["total"]["high"]
    edges = same["exact"]["edges"]
    assert edges["expansion"] == edges["attrition"] == 0 < edges["shared"]
    assert same["classes"]["surface"] == ZERO and "first_passage" not in same["trajectories"]
    assert "where" not in same and "success did not change" in str(same["instruments"])


def test_equal_models_are_not_sampled(tmp_path):
    """A copy of a folder under another name: nothing is generated, and it is said why. Another template is another
    model, whatever the weights."""
    copy = tmp_path / "copy"
    shutil.copytree(model_path("base"), copy)
    entry = compare_models("testbed:base", str(copy), TASK, **SMALL)
    assert not entry["sampled"] and entry["same_weights"] and entry["cost"]["tokens_generated"] == 0
    assert "the same model twice" in comparison_page(entry)
    models = [Model.load(model_path("base")), Model.load(copy)]
    assert equal(models)
    models[1].tokenizer.chat_template = "{{ messages[0].content }}"
    assert not equal(models) and not equal([models[0], Model.load(model_path("student"))])


def test_what_intervals_do_not_cover_is_said(better):
    notes = " ".join(better["notes"])
    assert "another seed" in notes and "of about 18 intervals" in notes
    assert all(note[:40] in comparison_page(better).replace("\n  ", " ") for note in better["notes"])


def test_a_better_model(better):
    assert better["d1"]["total"]["low"] > 0.05 and better["role"]["name"] in ("reshaping", "mixed")
    assert set(better["families"]) == {"rare", "guard"}
    assert "success" in better["sentence"] and "points" in better["sentence"]


def test_metrics_of_behaviour_are_compared_where_they_look_at_responses(better):
    tokens = better["response_tokens"]
    assert tokens["after"]["estimate"] - tokens["before"]["estimate"] == pytest.approx(tokens["change"]["estimate"])
    assert 1 <= tokens["before"]["estimate"] <= SMALL["max_tokens"] and better["families"]["rare"]["truncated"]


def test_every_grain_sums_to_the_same_change(better):
    change = better["d1"]["total"]["estimate"]
    d1 = better["trajectories"]["d1"]
    total = d1["expansion"]["estimate"] + d1["reshaping"]["estimate"] - d1["attrition"]["estimate"]
    assert total == pytest.approx(change, abs=FLOAT64_SUM)
    for part in ("certified", "soft"):
        terms = better["classes"]["d1"][part]
        assert sum(SIGNS[name] * est["estimate"] for name, est in terms.items()) == pytest.approx(
            change, abs=FLOAT64_SUM
        )
    where = better["where"]
    parts = where["prefix"]["estimate"] + where["suffix"]["estimate"]
    assert parts == pytest.approx(where["total"]["estimate"], abs=FLOAT64_SUM) and 1 <= where["prompts"] <= 12


def test_bounds_and_tree_hold_the_exact_truth(better):
    """Known responses bound success without error; 12 prompts x 2 statistical bounds at 2.5% may fail twice."""
    items = TestbedTask(["rare", "guard"]).items("heldout")[:12]
    shown = next(item for item in items if item.id == better["tree"]["prompt_id"])
    outside = 0
    for when, name in (("before", "student"), ("after", "base")):
        model = Model.load(model_path(name))
        for item, row, prompt in zip(items, exact(model.hf, model.tokenizer, items), better["prompts"], strict=True):
            assert prompt["id"] == item.id
            fewest, most = prompt["k_to_solve"][when]
            outside += not (1 / most - 1e-4 <= row.success <= 1 / fewest + 1e-4)
        [truth] = exact(model.hf, model.tokenizer, [shown])
        nodes = better["tree"]["nodes"]
        right = sum(node[when] for node in nodes if node["right"])
        assert right <= truth.success + FLOAT32_SUM
        for route, mass in truth.routes.items():
            openings = [n for n in nodes if n["parent"] < 0 and n["token"].split()[0] == route]
            assert all(0.98 * mass <= n[when] <= mass + FLOAT32_SUM for n in openings)
    assert outside <= 2


def test_known_responses_never_hold_more_than_the_truth():
    models = [Model.load(model_path(name)) for name in ("student", "base")]
    task, probe = TestbedTask("rare"), Probe(prompts=6, samples=64, k=8, max_tokens=8)
    groups = [run_probe(model, task, probe, f"{index:x}f") for index, model in enumerate(models)]
    items = task.items("heldout")[:6]
    for policy, model in enumerate(models):
        truths = exact(model.hf, model.tokenizer, items)
        for one, truth in zip(pool(models, *groups), truths, strict=True):
            known = np.exp(list(one.known(policy, True).values())).sum()
            assert 0.5 < known / truth.success <= 1 + FLOAT32
            assert one.gap < 1e-4


def test_what_was_enumerated_is_told_with_its_cost(better):
    told = better["exact"]
    assert told["prompts"] == 12 and 0 < told["evaluations"] <= told["most_evaluations"]
    assert told["evaluations"] <= 0.25 * better["cost"]["tokens_generated"]
    assert all(np.diff(told["coverage"][side]).max() <= FLOAT64 for side in ("before", "after"))
    assert better["cost"]["evaluations"] == told["evaluations"] and better["cost"]["tokens_scored"] > 0


def test_a_prompt_can_be_chosen_for_the_tree():
    small = {**SMALL, "prompts": 3, "samples": 16, "k": 2}
    items = TestbedTask(["rare", "guard"]).items("heldout")[:3]
    entry = compare_models("testbed:student", "testbed:base", TASK, **small, prompt=items[2].id)
    assert entry["tree"]["prompt_id"] == items[2].id and entry["tree"]["why"] == "asked for"
    with pytest.raises(DataError, match="no prompt 'nothing'"):
        compare_models("nowhere/at/all", "testbed:base", TASK, **small, prompt="nothing")


def test_another_vocabulary_leaves_prompts_classes_and_counts(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(model_path("student"), other)
    larger = Model.load(other)
    larger.tokenizer.add_tokens(["another"])
    larger.hf.resize_token_embeddings(len(larger.tokenizer))
    larger.save(other)
    entry = compare_models("testbed:base", str(other), TASK, **SMALL)
    assert applied(entry) == {"prompts", "classes", "k to solve"}
    assert "trajectories" not in entry and "tree" not in entry and entry["cost"]["tokens_scored"] == 0
    assert "48" in next(one["why"] for one in entry["instruments"] if one["name"] == "trajectories")
    assert all("k_to_solve" in prompt for prompt in entry["prompts"])


def test_greedy_responses_are_compared_as_certain():
    entry = compare_models("testbed:student", "testbed:base", TASK, **SMALL, temperature=0)
    assert all(row[when][0] in (0, 48) for row in entry["prompts"] for when in ("before", "after"))
    assert entry["cost"]["tokens_generated"] < 12 * 48 * 6 and not applied(entry) & {"trajectories", "exact support"}
    assert "not applicable" in comparison_page(entry)


def test_an_adapter_that_changes_nothing_is_no_change(tmp_path):
    model = Model.load(model_path("base"), lora=LoraSpec(r=2))
    model.save(tmp_path / "adapter")
    entry = compare_models("testbed:base", str(tmp_path / "adapter"), TASK, **{**SMALL, "prompts": 6})
    d1 = entry["trajectories"]["d1"]
    assert d1["expansion"] == d1["attrition"] == ZERO and not entry["same_weights"]
    assert entry["exact"]["edges"]["expansion"] == entry["exact"]["edges"]["attrition"] == 0


def test_the_padded_path_measures_the_same():
    """One side fails the packed mechanism's self-check: slower, the same numbers."""
    model, task = tiny(0), ParityTask()
    padded = dataclasses.replace(model, why="asked for")
    probe = Probe(prompts=2, samples=16, k=2, max_tokens=3)
    before, after = (run_probe(model, task, probe, key) for key in ("a1", "b2"))
    d1 = by_trajectory(pool([model, padded], before, after), 2)["d1"]
    assert d1["expansion"] == d1["attrition"] == ZERO
    sampling = before[0].members[0].producer.sampling
    told = [support_of(pair, task, before, sampling, 0.05, whole=True) for pair in ([model, model], [model, padded])]
    assert told[0]["edges"] == told[1]["edges"] and told[1]["edges"]["shared"] > 5
    assert told[1]["d2"]["total"] == pytest.approx(0, abs=FLOAT32)


def test_states_of_a_small_world_sum_to_the_exact_change():
    """Vocabulary 14, 2 tokens: the root and 13 tokens that go on are evaluated. D2's total is the change of success."""
    models, task = [tiny(0), tiny(5)], ParityTask()
    probe = Probe(prompts=2, samples=8, k=2, max_tokens=2)
    groups = run_probe(models[0], task, probe, "c3")
    sampling = groups[0].members[0].producer.sampling
    told = support_of(models, task, groups, sampling, 0.05, whole=True)
    assert told["evaluations"] == told["prompts"] * 2 * (1 + 13) and told["residual"] == {"before": 0, "after": 0}
    assert sum(value for name, value in told["d2"].items() if name != "total") == pytest.approx(told["d2"]["total"])
    success = []
    for model in models:
        drawn = run_probe(model, task, dataclasses.replace(probe, samples=2000), "d4")
        success.append(np.mean([member.signals["reward"] for group in drawn for member in group.members]))
    assert told["d2"]["total"] == pytest.approx(success[1] - success[0], abs=4 * np.sqrt(0.5 / 4000))


def test_what_cannot_be_compared_is_refused_before_anything_is_sampled():
    with pytest.raises(ConfigError, match="samples is 1"):
        compare_models("testbed:base", "testbed:base", TASK, samples=1)
    rows = [{"prompt": "1 + 1", "answer": "2"}]
    with pytest.raises(DataError, match="no items in split 'heldout'"):
        compare_models("testbed:base", "nowhere/at/all", {"jsonl": rows, "verifier": "numeric", "heldout": 0.0})
