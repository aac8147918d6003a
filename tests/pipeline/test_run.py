"""A recipe from files to checkpoints: own model, own data, own task; stopped, resumed, changed; what it leaves."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from offon.errors import ConfigError, DataError, EngineError, Interrupted, ModelError, NumericsError, OffonError
from offon.measure import probe_cache
from offon.pipeline import run as pipeline
from offon.pipeline.check import check_recipe
from offon.pipeline.resume.changes import Wishes
from offon.pipeline.run import run_recipe
from offon.recipe import parse, resolve
from offon.runs import RunDirectory, ledger
from offon.tasks.jsonl import jsonl_task
from tests.rounding import FLOAT64_SUM
from tests.support import model, tokenizer

CHAT = "{% for m in messages %}{{ m.content + (eos_token if m.role == 'assistant' else ' ') }}{% endfor %}"

RECIPE = """
model: ./base
task: {jsonl: ./task.jsonl, verifier: exact}
probe: {prompts: 6, samples: 32, k: 8, max_tokens: 6}
pipeline:
  sft: {method: sft, data: ./demos.jsonl, steps: 6, learning_rate: 1e-2, prompts_per_step: 8, lora: true}
  rl:
    {method: grpo, init: $sft, group_size: 4, steps: 4, max_tokens: 6, learning_rate: 1e-3, prompts_per_step: 8,
     with: [{kl_anchor: {to: $sft, coef: 0.05}}]}
  out: {method: on_policy_distill, init: ./small, teacher: $rl, steps: 3, max_tokens: 6, learning_rate: 1e-2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Model directories, demonstrations in messages form, a task: what a user brings."""
    root = tmp_path_factory.mktemp("user")
    for name, seed, layers in (("base", 0, 2), ("small", 2, 1)):
        made = model(seed, layers=layers)
        made.tokenizer.chat_template = CHAT
        made.save(root / name)
    prompts = [f"w{i} w{j}" for i in range(6) for j in range(6)]
    apart = {item.prompt for item in jsonl_task([{"prompt": p, "answer": "w3 w4"} for p in prompts]).items("heldout")}
    asked = [p for p in prompts if p not in apart][:20]
    turns = [[{"role": "user", "content": p}, {"role": "assistant", "content": "w3 w4"}] for p in asked]
    (root / "demos.jsonl").write_text("".join(json.dumps({"messages": m}) + "\n" for m in turns))
    (root / "task.jsonl").write_text("".join(json.dumps({"prompt": p, "answer": "w3 w4"}) + "\n" for p in prompts))
    return root


def recipe(folder, text=RECIPE, **overrides):
    return resolve(parse(text, folder=folder), overrides=[f"{k}={v}" for k, v in overrides.items()])


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    return run_recipe(recipe(folder), tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.fault("F40")
@pytest.mark.slow
def test_the_lora_result_loads_in_transformers_and_peft_and_is_the_measured_model(folder, finished):
    final = finished / "nodes" / "rl" / "final"
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, final)
    ids = AutoTokenizer.from_pretrained(final)("w1 w2", return_tensors="pt").input_ids
    answer = loaded.generate(ids, max_new_tokens=4, do_sample=False)
    assert "w3" in tokenizer().decode(answer[0])


def test_the_full_result_loads_in_transformers(finished):
    final = finished / "nodes" / "out" / "final"
    assert AutoModelForCausalLM.from_pretrained(final).config.num_hidden_layers == 1
    assert AutoTokenizer.from_pretrained(final).chat_template == CHAT


def test_each_stage_is_measured_and_its_change_sums(finished):
    for node in ("sft", "rl", "out"):
        result = json.loads((finished / "nodes" / node / "handoff.json").read_text())
        for entry in result["tasks"].values():
            change = entry["after"]["success"]["estimate"] - entry["before"]["success"]["estimate"]
            d1 = entry["d1"]
            terms = {name: term["estimate"] for name, term in d1["certified"].items()}
            total = terms["expansion"] + terms["reshaping"] - terms["attrition"] + terms["diffuse"] + terms["ambiguous"]
            assert total == pytest.approx(d1["total"]["estimate"], abs=FLOAT64_SUM)
            assert d1["total"]["estimate"] == pytest.approx(change, abs=FLOAT64_SUM)


def test_regimes_are_read_from_the_tokens(finished):
    regimes = {
        n: json.loads((finished / "nodes" / n / "handoff.json").read_text())["regime"] for n in ("sft", "rl", "out")
    }
    assert regimes == {"sft": "off-policy", "rl": "on-policy", "out": "on-policy"}


def test_every_generated_trajectory_has_one_fate(finished):
    fates = ledger.query(
        finished, "select node, fate, count(*) n from trajectories where fate != 'probe' group by all"
    ).to_pylist()
    counted = {(row["node"], row["fate"]): row["n"] for row in fates}
    assert counted["rl", "trained"] == 4 * 8 * 4 and counted["out", "trained"] == 3 * 32
    twice = ledger.query(finished, "select id from trajectories group by id having count(*) > 1")
    assert twice.num_rows == 0


@pytest.mark.slow
def test_running_again_keeps_everything(folder, finished, monkeypatch):
    monkeypatch.setattr(pipeline, "run_stage", lambda *_: pytest.fail("a finished stage was trained again"))
    monkeypatch.setattr(probe_cache, "run_probe", lambda *_, **__: pytest.fail("a probe was sampled again"))
    run_recipe(recipe(folder), finished, resume=True)


@pytest.mark.fault("F39")
@pytest.mark.slow
def test_a_changed_stage_runs_again_and_what_does_not_depend_on_it_is_kept(folder, tmp_path, monkeypatch):
    run_recipe(recipe(folder), tmp_path / "run")
    trained = []
    original = pipeline.run_stage
    monkeypatch.setattr(pipeline, "run_stage", lambda s, r: (trained.append(r.node.name), original(s, r)))
    other = recipe(folder, **{"pipeline.rl.steps": 2})
    run_recipe(other, tmp_path / "run", resume=True, wishes=Wishes(restart=("rl",)))
    assert trained == ["rl", "out"]


@pytest.mark.slow
def test_interrupted_in_the_middle_it_ends_with_the_same_weights(folder, finished, tmp_path, monkeypatch):
    original = pipeline.stopping

    class AfterThreeSteps:
        def __enter__(self):
            self.run = tmp_path / "run"
            return lambda: self._steps() == ("rl", 3)

        def _steps(self):
            lines = (
                (self.run / "metrics.jsonl").read_text().splitlines() if (self.run / "metrics.jsonl").exists() else []
            )
            last = json.loads(lines[-1]) if lines else {}
            return last.get("node"), last.get("step")

        def __exit__(self, *_): ...

    monkeypatch.setattr(pipeline, "stopping", AfterThreeSteps)
    with pytest.raises(Interrupted):
        run_recipe(recipe(folder), tmp_path / "run")
    assert RunDirectory.open(tmp_path / "run").status()["state"] == "interrupted"
    monkeypatch.setattr(pipeline, "stopping", original)
    run_recipe(recipe(folder), tmp_path / "run", resume=True)
    for node, name in (("rl", "adapter_model.safetensors"), ("out", "model.safetensors")):
        one, two = (r / "nodes" / node / "final" / name for r in (finished, tmp_path / "run"))
        assert one.read_bytes() == two.read_bytes(), node


@pytest.mark.fault("F24")
def test_a_nan_weight_stops_the_run_before_anything_is_updated_or_saved(folder, tmp_path):
    hf = AutoModelForCausalLM.from_pretrained(folder / "base")
    with torch.no_grad():
        hf.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    hf.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(folder / "base").save_pretrained(tmp_path / "broken")
    text = RECIPE.split("  rl:")[0]
    broken = recipe(folder, text, **{"model": str(tmp_path / "broken"), "probe": "false"})
    with pytest.raises((NumericsError, ModelError)) as error:
        run_recipe(broken, tmp_path / "run")
    status = RunDirectory.open(tmp_path / "run").status()
    assert status["state"] == "failed" and status["exit_code"] == error.value.exit_code in (4, 5)
    assert not list((tmp_path / "run").rglob("final/*.safetensors"))


def test_an_overflowing_loss_stops_before_the_update(folder, tmp_path, monkeypatch):
    from offon.train import optimizer_step

    original = optimizer_step.step_loss
    monkeypatch.setattr(optimizer_step, "step_loss", lambda *a: (original(*a)[0] * float("inf"), original(*a)[1]))
    with pytest.raises(NumericsError, match="loss is") as error:
        run_recipe(recipe(folder, RECIPE.split("  rl:")[0], probe="false"), tmp_path / "run")
    assert error.value.exit_code == 5 and "sft, step 0" in str(error.value)
    assert list((tmp_path / "run" / "nodes" / "sft").glob("failed-step-0.parquet"))


def test_check_finds_bad_data_without_weights(folder, tmp_path):
    (folder / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": "w1"}]}\n')
    with pytest.raises(DataError) as error:
        check_recipe(recipe(folder, **{"pipeline.sft.data": str(folder / "bad.jsonl")}))
    assert error.value.exit_code == 3


@pytest.mark.fault("F22")
def test_a_row_longer_than_the_model_is_found_before_weights_load(folder, tmp_path):
    rows = [{"prompt": "w1 " * 5000, "completion": "w3 w4"}]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="every row is truncated"):
        check_recipe(recipe(folder, **{"pipeline.sft.data": str(tmp_path / "long.jsonl")}))


def test_pairs_of_a_file_are_read_not_sampled(folder):
    pairs = f"{{method: dpo, data: {folder}/demos.jsonl, steps: 2}}"
    assert "samples" not in recipe(folder, **{"pipeline.sft": pairs}).node("sft").batches
    assert " x 8 samples" in recipe(folder, **{"pipeline.sft": "{method: dpo, steps: 2}"}).node("sft").batches


@pytest.mark.fault("F04")
def test_check_finds_missing_weights_and_adapters_that_disagree(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no weights"):
        check_recipe(recipe(folder, **{"pipeline.out.init": str(tmp_path / "empty")}))
    with pytest.raises(ModelError, match=r"adapter of \$sft has r 16 .* asked for are 4"):
        check_recipe(recipe(folder, **{"pipeline.rl.lora": "{r: 4}"}))
    check_recipe(recipe(folder, **{"pipeline.rl.lora": "true"}))


def test_a_checker_that_scores_nothing_stops_the_run_and_says_why(folder, tmp_path):
    (tmp_path / "rewards.py").write_text("def broken(prompts, completions, **columns):\n    raise KeyError('oops')\n")
    task = f"{{python: '{tmp_path}/rewards.py:broken', data: {folder}/task.jsonl}}"
    with pytest.raises(ConfigError, match="the checker fails on a row of its data") as error:
        run_recipe(recipe(folder, task=task), tmp_path / "run")
    assert "oops" in str(error.value) and not list((tmp_path / "run").rglob("final"))


@pytest.mark.parametrize("probe", ["false", "{prompts: 2, samples: 2, k: 1, max_tokens: 4}"])
@pytest.mark.slow
def test_a_checker_that_is_down_when_it_matters_stops_the_stage_with_exit_code_7(folder, tmp_path, probe):
    """It survives the check, which calls it once; the first buffer, or the probe before it, is scored by nobody."""
    code = (
        "def down(prompts, completions, **columns):\n    if 'I do not' not in completions[0]: raise KeyError('oops')\n"
    )
    (tmp_path / "rewards.py").write_text(code + "    return [0.0] * len(completions)\n")
    task = f"{{python: '{tmp_path}/rewards.py:down', data: {folder}/task.jsonl}}"
    text = f"model: ./base\ntask: {task}\nprobe: {probe}\npipeline:\n  rl: {{method: grpo, group_size: 2, steps: 2,"
    with pytest.raises(EngineError, match="scored none of") as error:
        run_recipe(recipe(folder, text + " max_tokens: 4, prompts_per_step: 2}\n"), tmp_path / "run")
    assert error.value.exit_code == 7 and "KeyError: 'oops'" in str(error.value)
    assert not list((tmp_path / "run").rglob("final"))


def test_check_says_what_is_held_when_and_how_big(folder):
    nodes = {entry["node"]: entry for entry in check_recipe(recipe(folder))["nodes"]}
    held = {line["model"]: line for line in nodes["rl"]["held"]}
    assert set(held) == {"self", "$sft"}
    assert held["$sft"]["when"] == "loss" and held["$sft"]["size_bytes"] == 4 * held["$sft"]["parameters"]
    assert {line["model"] for line in nodes["out"]["held"]} == {"self", "teacher"}


@pytest.mark.parametrize("anchor", ["./small", "$sft"])
def test_an_anchor_of_any_kind_is_held_and_named(folder, anchor):
    text = RECIPE.replace("kl_anchor: {to: $sft", "kl_anchor: {to: " + anchor)
    nodes = {entry["node"]: entry for entry in check_recipe(recipe(folder, text))["nodes"]}
    assert {line["model"] for line in nodes["rl"]["held"]} == {"self", anchor.replace("./", f"{folder}/")}


@pytest.mark.fault("F21")
def test_an_anchor_of_another_vocabulary_is_refused_before_weights_load(folder):
    text = RECIPE.replace("kl_anchor: {to: $sft", "kl_anchor: {to: testbed:student")
    with pytest.raises(ModelError, match="testbed:student has another vocabulary"):
        check_recipe(recipe(folder, text))


def test_supervise_on_pairs_is_refused_not_ignored(folder):
    with pytest.raises(OffonError, match="supervise has no effect here") as error:
        recipe(folder, **{"pipeline.sft": f"{{method: dpo, data: {folder}/demos.jsonl, steps: 2, supervise: last}}"})
    assert "reads pairs" in str(error.value)


def test_hints_that_no_prompt_has_are_an_error_not_a_quiet_nothing(folder):
    text = RECIPE.replace("with: [{kl_anchor: {to: $sft, coef: 0.05}}]", "with: [hints: {view: nope}]")
    with pytest.raises(DataError, match="nope"):
        check_recipe(recipe(folder, text))


@pytest.mark.fault("F22")
def test_a_response_longer_than_the_model_reads_is_found_before_anything_runs(folder, tmp_path):
    with pytest.raises(OffonError, match="max_tokens 512 after a prompt of 2 tokens is more than the 64"):
        run_recipe(recipe(folder, **{"pipeline.rl.max_tokens": 512}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_continued_adapter_has_an_adapters_learning_rate_and_memory(folder):
    text = RECIPE.replace("learning_rate: 1e-3, ", "")
    resolved = recipe(folder, text)
    assert resolved.node("rl").settings.learning_rate == pytest.approx(1e-5)  # the row's 1e-6 x 10
    (held,) = [e["held"] for e in check_recipe(resolved)["nodes"] if e["node"] == "rl"]
    own = next(line for line in held if line["model"] == "self")
    assert own["size_bytes"] < 4 * own["parameters"] + 12 * own["parameters"]


@pytest.mark.slow
def test_changing_what_is_kept_on_the_way_keeps_what_is_done(folder, finished, monkeypatch):
    monkeypatch.setattr(pipeline, "run_stage", lambda *_: pytest.fail("a finished stage was trained again"))
    run_recipe(recipe(folder, **{"pipeline.sft.save_steps": 3}), finished, resume=True)
