"""What stages hand on: every key where it applies, a reason where it does not, and paths that sum."""

import json
from types import SimpleNamespace

import pytest

from offon.behavior.stage.retention import gain_retention
from offon.errors import ConfigError, OffonError
from offon.measure import model_distance, probe_cache
from offon.pipeline.check import check_recipe
from offon.pipeline.run import run_recipe
from offon.pipeline.stage_report import build
from offon.pipeline.stage_report.chain import counts_of
from offon.recipe.fields import Probe
from offon.reporting import summarise
from offon.reporting.terminal import handed_on
from offon.runs.artefacts import external
from tests.pipeline.brought import TWO_STAGES, bring, resolved
from tests.rounding import FLOAT64_SUM

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bring(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return run_recipe(resolved(folder), tmp_path_factory.mktemp("runs") / "run")


def handoff(run, node):
    return json.loads((run / "nodes" / node / "handoff.json").read_text())


def test_every_stage_tells_what_it_hands_on_or_why_not(run):
    for node in ("one", "two", "small"):
        found = handoff(run, node)
        notes = " ".join(found["notes"])
        assert found["protected"]["tasks"] == ["other"] if found["protected"] else "protected: no success" in notes
        assert list(found["scaffold"]) == ["task"], "only its items have the view"
        assert found["portability"]["again"]["of"] == "task"
        assert all(entry["kl_nats"]["estimate"] > 0 for entry in found["drift"].values())
        for task, entry in found["tasks"].items():
            assert entry["gain_retention"] or "gain_retention" in notes
            assert (found["per_gain"][task]["tokens"] is None) == (entry["d1"]["total"]["low"] <= 0)
    assert "the stage starts from no other stage" in " ".join(handoff(run, "one")["notes"])


def test_gain_retention_is_of_the_gain_of_the_stage_before(run):
    """From before the first stage, by its gain, to after the second; the first gained on most prompts."""
    first, second = (handoff(run, node)["tasks"]["task"] for node in ("one", "two"))
    assert sum(prompt["before"][0] == 0 and prompt["after"][0] >= 8 for prompt in first["prompts"]) >= 4
    sides = ((first, "before"), (first, "after"), (second, "after"))
    assert second["gain_retention"] == gain_retention(*(counts_of(entry, when) for entry, when in sides))._asdict()


def test_cost_per_point_is_the_stages_cost_over_its_gain(run):
    found = handoff(run, "one")
    tokens = sum(found["cost"].get(name, 0) for name in ("tokens_generated", "tokens_trained", "tokens_scored"))
    change, cost = found["tasks"]["task"]["d1"]["total"], found["per_gain"]["task"]["tokens"]
    assert cost["estimate"] == pytest.approx(tokens / (100 * change["estimate"]))
    assert cost["high"] == pytest.approx(tokens / (100 * change["low"]))


def test_transfer_follows_the_teacher_edge(run):
    assert handoff(run, "one")["transfer"] is None
    found = handoff(run, "small")["transfer"]
    assert found["teacher"] == "two" and set(found["tasks"]) == {"task", "other"}
    task = found["tasks"]["task"]
    assert task["kl_nats"]["low"] > 0 and task["agreement"]["high"] < 1
    assert task["answer"]["high"] < 0.5 and task["trace"]["low"] > 0.5, "two steps teach little"


def test_paths_sum_to_what_changed_from_the_root(run):
    chains = json.loads((run / "path.json").read_text())["chains"]
    assert [chain["nodes"] for chain in chains] == [["base", "one", "two"], ["small (start)", "small"]]
    for chain in chains:
        first, last = handoff(run, chain["nodes"][1])["tasks"], handoff(run, chain["nodes"][-1])["tasks"]
        for task, tables in chain["tasks"].items():
            total = sum(row["d1"]["total"]["estimate"] for row in tables["rows"])
            change = last[task]["after"]["success"]["estimate"] - first[task]["before"]["success"]["estimate"]
            assert total == pytest.approx(tables["total"]["estimate"], abs=FLOAT64_SUM)
            assert total == pytest.approx(change, abs=FLOAT64_SUM)
    spent = sum(handoff(run, node)["cost"]["tokens_trained"] for node in ("one", "two"))
    task = chains[0]["tasks"]["task"]
    cost = task["per_retained_gain"]["tokens"]["estimate"]
    assert cost == pytest.approx(spent / (100 * task["total"]["estimate"]))


def test_the_terminal_says_it(run):
    stage = next(stage for stage in summarise(run)["stages"] if stage["name"] == "small")
    lines = " | ".join(handed_on(stage))
    assert "from two on task: answers alike" in lines and "the scaffold adds" in lines and "again:" in lines


def test_what_has_no_distributions_to_compare_is_null_with_the_reason(folder, tmp_path):
    """Greedy sampling, and another vocabulary: the testbed's model beside the user's."""

    def stage(temperature, other):
        probe = Probe(temperature=temperature)
        here = SimpleNamespace(recipe=SimpleNamespace(probe=probe, seed=0), run=None, stop=lambda: False)
        return build.StageReport(here, None, (external(str(folder / "base")), external(other)), ({}, {}), {})

    for found, why in (
        (stage(0.0, str(folder / "base")), "greedy sampling"),
        (stage(1.0, "testbed:base"), "base and testbed:base have different vocabularies"),
    ):
        assert found.drift() == {} and why in found.sentences()[0] and found.sentences()[0].startswith("drift: ")


@pytest.mark.parametrize(
    ("task", "answers"),
    [
        (SimpleNamespace(), ["w3 w4", "w5"]),
        (SimpleNamespace(answer=None), ["w3 w4", "w5"]),
        (SimpleNamespace(answer=lambda item, text: text.split()[1] if "w4" in text else None), ["w4", ""]),
    ],
)
def test_an_answer_is_what_the_task_reads_or_all_of_the_text(task, answers):
    here = SimpleNamespace(recipe=SimpleNamespace(probe=Probe(), seed=0), run=None, stop=lambda: False)
    here.probe_tasks, here.task = {"task": "spec"}, lambda spec: task
    group = SimpleNamespace(item=None, members=[SimpleNamespace(text=" w3 w4"), SimpleNamespace(text="w5 ")])
    assert build.StageReport(here, None, (None, None), ({}, {}), {}).answers("task", [group]) == [answers]


def test_running_again_reads_and_samples_nothing(folder, run, monkeypatch):
    monkeypatch.setattr(probe_cache, "run_probe", lambda *_, **__: pytest.fail("a probe was sampled again"))
    monkeypatch.setattr(model_distance, "distances", lambda *_: pytest.fail("responses were read again"))
    before = handoff(run, "small")
    run_recipe(resolved(folder), run, resume=True)
    assert handoff(run, "small") == before


def test_without_a_probe_nothing_is_read(folder, tmp_path):
    run = run_recipe(resolved(folder, TWO_STAGES[: TWO_STAGES.index("  two:")], probe="false"), tmp_path / "run")
    assert handoff(run, "one")["tasks"] == {} and not (run / "scores").exists()
    assert json.loads((run / "path.json").read_text()) == {"chains": []}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("protected", "[othr]", "did you mean other"),
        ("shifted", "{tsk: {a: gym:lcm}}", "did you mean task"),
        ("shifted", "{task: {other: gym:lcm}}", "other names two probes"),
        ("shifted", "{task: gym:lcm}", "maps probe tasks to named versions"),
    ],
)
def test_names_of_probes_are_checked_before_anything_loads(folder, key, value, message):
    with pytest.raises(ConfigError, match=message):
        resolved(folder, **{f"probe.{key}": value})


def test_check_counts_the_items_with_the_scaffold(folder):
    probes = {probe["task"]: probe for probe in check_recipe(resolved(folder))["probes"]}
    assert probes["task"]["scaffolded"] == 8 and probes["other"]["scaffolded"] == 0 and "again" in probes
    with pytest.raises(OffonError, match="no probed item has a view 'hnt'") as error:
        check_recipe(resolved(folder, **{"probe.scaffold": "hnt"}))
    assert "hint" in error.value.fix
