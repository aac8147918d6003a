"""Shares of stages: a study plans each node once, trains it once, and its shares sum to the change."""

import pytest

from offon.errors import ConfigError, DataError
from offon.pipeline import run as pipeline
from offon.pipeline.attribution import attribute, planned
from offon.pipeline.leave_out import without_gates
from tests.pipeline.brought import TWO_STAGES, bring, resolved
from tests.rounding import FLOAT64

pytestmark = pytest.mark.slow

CHAIN = TWO_STAGES[: TWO_STAGES.index("  one:")] + "".join(
    f"  {name}: {{method: sft, init: {init}, data: ./demos.jsonl, steps: 1}}\n"
    for name, init in (("a", "./base"), ("b", "$a"), ("c", "$b"))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bring(tmp_path_factory.mktemp("user"))


def test_a_node_is_planned_once_for_each_way_its_sources_turn_out(folder):
    """Three stages in a row: of a 1 training, of b 2, of c 4, where eight pipelines of their own would take 12."""
    study = planned(resolved(folder, CHAIN), None, None, 1)
    names = {node.name: node.settings.init for node in study.recipe.nodes}
    base = str(folder / "base")
    assert names == {
        "a": base, "b": "$a", "c": "$b", "b-first": base, "c-first": base, "c-after-a": "$a", "c-after-b": "$b-first",
    }  # fmt: skip
    assert (
        study.sources[("a", "c")] == ["$c-after-a"] and study.sources[("a",)] == ["$a"] and study.sources[()] == [base]
    )
    assert study.cost(None).startswith("8 subsets of 3 stages x 1 seeds: 7 stage trainings, 7 optimizer steps")


def test_only_chosen_stages_are_left_out(folder):
    study = planned(resolved(folder, CHAIN), ["b"], None, 1)
    assert list(study.sources) == [(), ("b",)]
    assert [node.name for node in study.recipe.nodes] == ["a", "b", "c", "c-first"]
    assert study.recipe.node("c-first").settings.init == "$a"
    with pytest.raises(ConfigError, match="did you mean b"):
        planned(resolved(folder, CHAIN), ["bb"], None, 1)


def test_gates_stand_open(folder):
    gate = "  ok: {gate: $a, limits: {success: {min: 0.99}}, on_fail: stop}\n"
    gated = CHAIN.replace("  b: {method: sft, init: $a", gate + "  b: {method: sft, init: $ok")
    plain, through = (planned(without_gates(resolved(folder, text)), None, None, 1) for text in (CHAIN, gated))
    assert through.sources == plain.sources and through.recipe.nodes == plain.recipe.nodes


def test_a_teacher_that_is_left_out_makes_a_subset_infeasible(folder):
    study = planned(resolved(folder), None, None, 2)
    assert study.result == "small" and study.infeasible[("small",)] == "small reads $two (teacher)"
    assert study.sources[()] == [str(folder / "small")] * 2
    assert study.sources[("two", "small")] == ["$small-after-two", "$small-after-two-seed1"]
    assert study.recipe.node("small-after-two-seed1").inputs[1].source == "$two-first-seed1"
    assert study.recipe.node("two-first-seed1").settings.seed == 1


def test_an_anchor_on_a_left_out_stage_is_on_what_that_would_have_started_from(folder):
    anchored = resolved(folder, TWO_STAGES, **{"two.with": "[{kl_anchor: {to: $one, coef: 0.1}}]"})
    study = planned(anchored, None, None, 1)
    assert study.recipe.node("two-first").modifiers[0].arguments["to"] == str(folder / "base")


def test_an_adapter_that_a_left_out_stage_would_have_begun_is_begun_by_the_next(folder):
    study = planned(resolved(folder, TWO_STAGES, **{"one.lora": "{r: 4}"}), None, None, 1)
    assert study.recipe.node("two-first").settings.lora.r == 4 and study.recipe.node("two").settings.lora is None


def test_what_cannot_be_shared_out_is_refused_before_anything_runs(folder):
    with pytest.raises(ConfigError, match="probe: false"):
        planned(resolved(folder, CHAIN, probe="false"), None, None, 1)
    inits = ["$c", *(f"$d{i}" for i in range(4))]
    long = CHAIN + "".join(
        f"  d{i}: {{method: sft, init: {init}, data: ./demos.jsonl, steps: 1}}\n" for i, init in enumerate(inits)
    )
    with pytest.raises(DataError, match="8 stages"):
        planned(resolved(folder, long), None, None, 1)


def test_shares_sum_to_the_change_and_each_stage_is_trained_once(folder, tmp_path, monkeypatch):
    trained, notes, original = [], [], pipeline.run_stage
    monkeypatch.setattr(pipeline, "run_stage", lambda s, r: (trained.append(r.node.name), original(s, r)))
    recipe = resolved(folder, TWO_STAGES)
    options = {"tasks": {"task": recipe.probe.tasks["task"]}, "progress": lambda event: notes.append(event.get("note"))}
    found = attribute(recipe, tmp_path / "study", **options)
    assert sorted(trained) == ["one", "two", "two-first"]
    assert notes[0].startswith("4 subsets of 2 stages x 1 seeds: 3 stage trainings, 40 optimizer steps")

    v = {tuple(one["stages"]): one["success"]["task"]["estimate"] for one in found["subsets"]}
    both, one, two, none = (v[subset] for subset in (("one", "two"), ("one",), ("two",), ()))
    shares = {stage: est["estimate"] for stage, est in found["shapley"]["task"].items()}
    assert shares["one"] == pytest.approx((one - none + both - two) / 2, abs=FLOAT64)
    assert sum(shares.values()) == pytest.approx(found["total"]["task"]["estimate"], abs=FLOAT64)
    assert found["total"]["task"]["estimate"] == pytest.approx(both - none, abs=FLOAT64)
    ((*pair, together),) = found["interaction"]["task"]
    assert pair == ["one", "two"] and together["estimate"] == pytest.approx(both - one - two + none, abs=FLOAT64)
    assert found["total"]["task"]["low"] > 0.3, "the task is learned"

    trained.clear(), notes.clear()
    assert attribute(recipe, tmp_path / "study", resume=True, **options) == found
    assert not trained and "3 of them there already" in notes[0]
