"""Gates from a recipe to what goes on: a stage that ruins `guard` is stopped, let through with a warning, or undone."""

from __future__ import annotations

import json
import shutil

import pytest

from offon import reporting
from offon.errors import ConfigError, DataError, GateClosed, ModelError
from offon.measure import probe_cache
from offon.pipeline import run as pipeline
from offon.pipeline.check import check_recipe
from offon.pipeline.resume.changes import Wishes
from offon.pipeline.run import run_recipe
from offon.recipe import parse, resolve
from offon.runs import RunDirectory
from tests.pipeline.test_run import folder as user  # noqa: F401  (a fixture)
from tests.pipeline.test_run import recipe as users_recipe

pytestmark = pytest.mark.slow

RECIPE = """
model: testbed:base
probe: {prompts: 8, samples: 16, k: 4, max_tokens: 8, tasks: {guard: testbed:guard}}
pipeline:
  demos: {make: ./data.py:demonstrations, family: absent, n: 48}
  sft: {method: sft, data: $demos, steps: 12, learning_rate: 1e-3, prompts_per_step: 16}
  kept: {gate: $sft, limits: {retention: {min: 0.8}}, on_fail: ON_FAIL}
  rl: {method: grpo, init: $kept, task: testbed:guard, group_size: 4, steps: 1, prompts_per_step: 4, max_tokens: 8}
"""
FUNCTIONS = """
import json
from offon.testbed import TestbedTask

def demonstrations(directory, *, family: str, n: int, split: str = "train"):
    rows = TestbedTask(family).demonstrations(split, n)
    (directory / "demos.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))

def nothing_known(directory):
    (directory / "table.jsonl").write_text('{"a": 1}\\n')
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("user")
    (root / "data.py").write_text(FUNCTIONS)
    return root


def recipe(folder, on_fail="stop", text=RECIPE, **overrides):
    document = parse(text.replace("ON_FAIL", on_fail), folder=folder)
    return resolve(document, overrides=[f"{k}={v}" for k, v in overrides.items()])


@pytest.fixture(scope="module")
def stopped(folder, tmp_path_factory):
    """A run that its gate ended, and the error."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(GateClosed) as error:
        run_recipe(recipe(folder), path)
    return path, error.value


@pytest.fixture
def copy(stopped, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "run")
    return tmp_path / "run"


def read(run, node, file):
    return json.loads((run / "nodes" / node / file).read_text())


def nodes_of(run):
    return {node["name"]: node for node in json.loads((run / "pipeline.json").read_text())["nodes"]}


def test_a_closed_gate_ends_the_run_with_its_own_state_and_the_numbers(stopped):
    path, error = stopped
    status = RunDirectory.open(path).status()
    assert (status["state"], status["exit_code"], status["node"]) == ("stopped", 8, "kept") and error.exit_code == 8
    assert error.why.startswith("retention on guard") and "below 0.8" in error.why and "--resume" in error.fix
    states = {name: node["state"] for name, node in nodes_of(path).items() if node["kind"] != "model"}
    assert states == {"demos": "done", "sft": "done", "kept": "stopped", "rl": "pending"}
    summary = reporting.summarise(path)
    assert summary["warnings"][0]["text"].startswith("The run was stopped in kept")
    assert (path / "report.html").is_file()
    result = read(path, "kept", "gate.json")
    (limit,) = result["limits"]
    assert (result["candidate"], result["against"], result["passed"], result["took"]) == (
        "sft", "testbed:base", False, None,
    )  # fmt: skip
    assert limit["judged"] == limit["value"]["low"] < limit["limit"] == 0.8 and not limit["met"]


def test_with_other_limits_a_resumed_run_goes_on_and_computes_nothing_again(folder, copy, monkeypatch):
    trained, original = [], pipeline.run_stage
    monkeypatch.setattr(pipeline, "run_stage", lambda s, r: (trained.append(r.node.name), original(s, r)))
    probed, sample = [], probe_cache.run_probe
    monkeypatch.setattr(probe_cache, "run_probe", lambda *a, **k: (probed.append(a), sample(*a, **k))[1])
    run_recipe(recipe(folder, **{"kept.limits.retention": "{max: 0.8}"}), copy, resume=True)
    assert trained == ["rl"] and len(probed) == 1  # rl's own result
    assert read(copy, "kept", "gate.json")["passed"] and read(copy, "rl", "handoff.json")["before"] == "sft"
    assert nodes_of(copy)["kept"]["took"] == "sft" and RunDirectory.open(copy).status()["warnings"] == []


def test_unchanged_it_stays_closed_without_being_judged_again(folder, copy, monkeypatch):
    monkeypatch.setattr(pipeline.Pipeline, "judge", lambda *_: pytest.fail("judged again"))
    with pytest.raises(GateClosed):
        run_recipe(recipe(folder), copy, resume=True)


def test_warn_lets_it_through_and_rollback_hands_on_what_was_before_and_hashes_follow(folder, copy):
    """rl after a warning and rl after an open gate read the same model under one hash; after a rollback another."""
    hashes = {}
    run_recipe(recipe(folder, "warn"), copy, resume=True)
    result = read(copy, "kept", "gate.json")
    assert (result["passed"], result["took"]) == (False, "sft") and read(copy, "rl", "handoff.json")["before"] == "sft"
    hashes["warn"] = read(copy, "rl", "node.json")["hash"]
    (warning,) = RunDirectory.open(copy).status()["warnings"]
    assert warning.startswith("kept: sft does not pass") and warning.endswith("sft goes on nevertheless")
    assert any(told["node"] == "kept" for told in reporting.summarise(copy)["warnings"])

    notes = []
    passing = recipe(folder, **{"kept.limits.retention": "{max: 0.8}"})
    run_recipe(passing, copy, resume=True, progress=lambda event: notes.append(event.get("note")))
    assert read(copy, "rl", "node.json")["hash"] == hashes["warn"] and "rl: already done, kept" in notes

    with pytest.raises(ConfigError, match="rl +init +sft [0-9a-f]{6} +testbed:base"):
        run_recipe(recipe(folder, "rollback"), copy, resume=True)
    run_recipe(recipe(folder, "rollback"), copy, resume=True, wishes=Wishes(restart=("rl",)))
    assert read(copy, "rl", "node.json")["hash"] != hashes["warn"]
    handed = read(copy, "rl", "handoff.json")
    assert handed["before"] == "testbed:base" and handed["tasks"]["guard"]["before"]["success"]["estimate"] == 1
    assert nodes_of(copy)["kept"]["took"] == "testbed:base"
    diagnosed = {entry["model"] for entry in RunDirectory.open(copy).diagnosis()}
    assert diagnosed == {"testbed:base", "sft", "rl"}  # what a gate lets through is no model of its own

    gates = reporting.summarise(copy)["gates"]
    assert [(gate["name"], gate["took"]) for gate in gates] == [("kept", "testbed:base")]


def test_the_graph_has_the_gate_in_the_chain_and_check_prints_it(folder, stopped):
    edges = nodes_of(stopped[0])["kept"]["inputs"]
    assert edges == [{"kind": "init", "from": "sft"}, {"kind": "reference", "from": "testbed:base"}]
    lines = {line["node"]: line for line in check_recipe(recipe(folder))["nodes"]}
    assert lines["kept"]["gate"] == "$sft against testbed:base" and lines["kept"]["if_not"] == "the run stops"
    assert lines["kept"]["limits"] == "retention at least 0.8 on guard"
    assert lines["rl"]["held"]  # the root of the chain was seen through the gate


def test_an_adapter_is_continued_through_a_gate(user, tmp_path):  # noqa: F811
    text = """
model: ./base
task: {jsonl: ./task.jsonl, verifier: exact}
probe: {prompts: 4, samples: 8, k: 2, max_tokens: 6}
pipeline:
  sft: {method: sft, data: ./demos.jsonl, steps: 2, prompts_per_step: 8, lora: {r: 4}}
  ok: {gate: $sft, limits: {success: {min: 0}}}
  rl: {method: grpo, init: $ok, group_size: 4, steps: 1, max_tokens: 6, prompts_per_step: 4}
"""
    asked = users_recipe(user, text)
    assert asked.node("rl").origins["learning_rate"].endswith("x 10 for LoRA")
    assert [node.name for node in asked.adapted("$ok")] == ["sft"]
    with pytest.raises(ModelError, match=r"adapter of \$sft has r 4"):
        check_recipe(users_recipe(user, text, **{"rl.lora": "{r: 8}"}))
    run = run_recipe(asked, tmp_path / "run")
    adapter = json.loads((run / "nodes" / "rl" / "final" / "adapter_config.json").read_text())
    assert adapter["r"] == 4 and read(run, "rl", "handoff.json")["before"] == "sft"


def test_data_that_ask_held_out_prompts_are_told_and_do_not_pass(folder, tmp_path):
    text = """
probe: {prompts: 4, samples: 2, k: 1, max_tokens: 8, tasks: {absent: testbed:absent, guard: testbed:guard}}
pipeline:
  demos: {make: ./data.py:demonstrations, family: absent, n: 20, split: heldout}
  clean: {gate: $demos, limits: {rows: {min: 20}, contamination: {max: 0}}, on_fail: warn}
"""
    run = run_recipe(recipe(folder, text=text), tmp_path / "run")
    found, result = read(run, "demos", "artefact.json"), read(run, "clean", "gate.json")
    assert (found["artefact"], found["rows"], found["prompts"], found["duplicates"]["rows"]) == ("data", 20, 20, 0)
    assert found["contamination"]["absent"]["rows"] == 20 and found["contamination"]["guard"]["rows"] == 0
    met = {(limit["metric"], limit["task"]): limit["met"] for limit in result["limits"]}
    assert met == {("rows", None): True, ("contamination", "absent"): False, ("contamination", "guard"): True}
    told = [warning["text"] for warning in reporting.summarise(run)["warnings"] if warning["node"] == "demos"]
    assert told and "20 of the 90 held-out prompts of absent" in told[0]


def test_a_gate_cannot_judge_what_it_turns_out_not_to_be(folder, tmp_path):
    text = """
probe: false
pipeline:
  made: {make: "./data.py:nothing_known"}
  ok: {gate: $made, limits: {rows: {min: 1}}}
"""
    with pytest.raises(DataError, match="nothing is known of made"):
        run_recipe(recipe(folder, text=text), tmp_path / "run")
    assert not (tmp_path / "run" / "nodes" / "made" / "artefact.json").exists()


def test_data_from_outside_can_be_judged_without_a_node(user, tmp_path):  # noqa: F811
    text = "probe: false\npipeline:\n  ok: {gate: ./demos.jsonl, limits: {rows: {min: 30}}}\n"
    with pytest.raises(GateClosed, match="demos.jsonl does not pass") as error:
        run_recipe(users_recipe(user, text), tmp_path / "run")
    assert error.value.why == "rows 20 (below 30)"
