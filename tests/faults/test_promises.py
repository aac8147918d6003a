"""Promises that no other test provokes by their number: what is read, what is sampled, what is never said."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from offon.errors import ConfigError, DataError, EngineError, ModelError, OffonError
from offon.pipeline.check import check_recipe
from offon.pipeline.run import run_recipe
from offon.recipe import parse, resolve
from offon.runs import RunDirectory
from tests.faults.inject import project, shell
from tests.support import model

RL = """
model: ./base
task: {python: ./reward.py:reward, data: ./prompts.jsonl}
probe: false
pipeline:
  rl: {method: grpo, steps: 2, group_size: 2, max_tokens: 4, prompts_per_step: 2, learning_rate: 1e-3}
"""


@pytest.fixture
def folder(tmp_path):
    project(tmp_path)
    prompts = [{"prompt": f"w{i} w{i + 1}"} for i in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (tmp_path / "reward.py").write_text("def reward(completions, **columns):\n    return [1.0 for _ in completions]\n")
    return tmp_path


def ran(folder, text=None, name="run", **overrides):
    text = text or (folder / "r.yaml").read_text()
    recipe = resolve(parse(text, folder=folder), overrides=[f"{key}={value}" for key, value in overrides.items()])
    return run_recipe(recipe, folder / name)


def parameters(run, node):
    return AutoModelForCausalLM.from_pretrained(run / "nodes" / node / "final").state_dict()


@pytest.mark.fault("F03")
@pytest.mark.parametrize("spelled", ["1e-5", '"1e-5"', "1E-5", "0.00001", "1.0e-05"])
def test_every_spelling_of_a_rate_is_the_number(folder, spelled):
    text = (folder / "r.yaml").read_text().replace("1e-3", spelled)
    assert resolve(parse(text, folder=folder)).node("sft").settings.learning_rate == 1e-5


@pytest.mark.fault("F02")
@pytest.mark.parametrize("value", ["2.5", "-1", "0", "true", "nan", "inf", "'four'", "[4]", "null"])
def test_a_number_of_prompts_that_is_none_is_exit_2(folder, value):
    text = (folder / "r.yaml").read_text().replace("prompts_per_step: 4", f"prompts_per_step: {value}")
    with pytest.raises(ConfigError) as error:
        resolve(parse(text, folder=folder))
    assert error.value.exit_code == 2 and "r.yaml" in str(error.value) or "prompts_per_step" in str(error.value)


@pytest.mark.fault("F26")
def test_equal_rewards_leave_every_weight_as_it_was(folder):
    run = ran(folder, RL)
    trained, base = parameters(run, "rl"), model(0).hf.state_dict()
    assert all(torch.equal(trained[name], base[name]) for name in base)
    assert json.loads((run / "nodes/rl/node.json").read_text())["counters"]["skipped_steps"] == 2


@pytest.mark.fault("F28")
def test_a_generator_with_other_weights_stops_at_that_step(folder, monkeypatch):
    from offon.engines.native import NativeEngine

    original, stale = NativeEngine.generate, model(7)
    (folder / "reward.py").write_text(
        "def reward(completions, **columns):\n    return [float(len(text)) for text in completions]\n"
    )
    monkeypatch.setattr(
        NativeEngine, "generate", lambda self, requests, policy, *a, **k: original(self, requests, stale, *a, **k)
    )
    with pytest.raises(EngineError, match="nats") as error:
        ran(folder, RL)
    assert error.value.exit_code == 7


@pytest.mark.fault("F29")
@pytest.mark.parametrize(("key", "value"), [("top_p", 0.9), ("top_k", 3), ("temperature", 0.0)])
def test_a_sampler_that_leaves_tokens_out_is_refused_by_its_key(folder, key, value):
    with pytest.raises(OffonError) as error:
        check_recipe(resolve(parse(RL, folder=folder), overrides=[f"rl.{key}={value}"]))
    assert key in str(error.value)


@pytest.mark.fault("F29")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_ratio_of_the_first_step_is_1_at_any_temperature(folder, temperature):
    (folder / "reward.py").write_text(
        "def reward(completions, **columns):\n    return [float(len(set(text.split()))) for text in completions]\n"
    )
    run = ran(folder, RL, **{"rl.temperature": temperature})
    first = RunDirectory.open(run).metrics()[0]
    assert first["ratio/mean"] == pytest.approx(1.0, abs=1e-5)
    assert abs(first["off_policy/sampler_gap_nats"]) < 1e-6


@pytest.mark.fault("F30")
def test_preferences_on_an_adapter_start_at_ln_2_from_that_adapter(folder):
    pairs = [{"prompt": f"w{i}", "chosen": "w1 w2", "rejected": "w3 w4 w5"} for i in range(6)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    text = """
model: ./base
probe: false
pipeline:
  sft: {method: sft, data: ./demos.jsonl, steps: 4, prompts_per_step: 4, learning_rate: 1e-2, lora: {r: 2}}
  dpo: {method: dpo, init: $sft, data: ./pairs.jsonl, steps: 1, prompts_per_step: 4}
"""
    lines = RunDirectory.open(ran(folder, text)).metrics()
    (first,) = [line for line in lines if line["node"] == "dpo"]
    assert first["loss/total"] == pytest.approx(0.693147, abs=1e-5)


def with_code(folder, file, own):
    (folder / "base" / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    path = folder / "base" / file
    config = json.loads(path.read_text())
    config |= {own: "own", "auto_map": {"AutoConfig": "own.Config", "AutoTokenizer": ["own.T", None]}}
    path.write_text(json.dumps(config))


@pytest.mark.fault("F51")
def test_a_model_that_brings_code_is_refused_and_none_of_it_runs(folder):
    with_code(folder, "config.json", "model_type")
    with pytest.raises(ModelError) as error:
        check_recipe(resolve(folder / "r.yaml"))
    assert error.value.exit_code == 4 and not (folder / "ran").exists()


@pytest.mark.fault("F51")
def test_a_tokenizer_that_brings_code_is_read_from_its_data_or_not_at_all(folder):
    with_code(folder, "tokenizer_config.json", "tokenizer_class")
    check_recipe(resolve(folder / "r.yaml"))  # tokenizer.json says all there is to say
    (folder / "base" / "tokenizer.json").unlink()
    with pytest.raises(ModelError) as error:
        check_recipe(resolve(folder / "r.yaml"))
    assert error.value.exit_code == 4 and not (folder / "ran").exists()


@pytest.mark.fault("F53")
def test_a_password_in_an_address_is_neither_written_nor_printed(folder):
    text = (folder / "r.yaml").read_text().replace("./base", "https://me:canary-word@hub.example/model")
    (folder / "r.yaml").write_text(text)
    ended = shell("OFFON run r.yaml --output run", folder)
    assert ended.returncode != 0 and "canary-word" not in ended.stdout + ended.stderr
    assert not any(b"canary-word" in path.read_bytes() for path in folder.glob("run/**/*") if path.is_file())


@pytest.mark.fault("W08")
def test_prompts_that_are_all_one_cannot_be_held_out(folder):
    (folder / "prompts.jsonl").write_text('{"prompt": "w1", "answer": "w2"}\n' * 6)
    text = RL.replace("probe: false", "probe: {prompts: 2, samples: 2, k: 2, max_tokens: 4}")
    with pytest.raises(DataError) as error:
        check_recipe(resolve(parse(text, folder=folder)))
    assert error.value.exit_code == 3 and "6" in str(error.value)


@pytest.mark.fault("W09")
@pytest.mark.slow
def test_runs_beside_each_other_in_one_folder_do_not_meet(folder):
    alone = parameters(ran(folder, name="alone"), "sft")
    line = "OFFON run r.yaml --output run0 & one=$!; OFFON run r.yaml --output run1 && wait $one"
    assert shell(line, folder).returncode == 0
    for i in range(2):
        beside = parameters(folder / f"run{i}", "sft")
        assert all(torch.equal(alone[name], beside[name]) for name in alone)


@pytest.mark.fault("W03")
def test_a_clock_that_jumps_changes_nothing(folder, monkeypatch):
    import time

    alone = parameters(ran(folder, name="alone"), "sft")
    now, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: now() + (10**8 if next(jumps) % 2 else -(10**8)))
    moved = parameters(ran(folder, name="moved"), "sft")
    assert all(torch.equal(alone[name], moved[name]) for name in alone)
