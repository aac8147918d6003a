"""A stage stopped after any step and resumed is the same run: weights, optimizer, metrics and ledger, bit for bit. One
row for each mechanism with state; other rows are compositions of the same."""

from __future__ import annotations

import json

import pytest
import torch

from offon.errors import Interrupted
from offon.recipe.fields import Lora, NodeSettings, sampling_of
from offon.runs import RunDirectory, ledger, tensors
from offon.train.build import build_stage, prompts_of
from offon.train.loop import run_stage
from offon.train.models import ModelSet
from offon.train.state import TrainState
from tests.support import (
    ParityTask,
    demonstrations,
    labelled_responses,
    model,
    preference_pairs,
    prompt_group,
    tokenizer,
)

pytestmark = pytest.mark.slow

STEPS = 5
VARIANTS = [
    ("sft", {}, {}),
    ("sft", {}, {"lora": Lora(r=4, alpha=8.0)}),
    ("dpo", {}, {}),
    ("dpo", {"nll": 0.5}, {"lora": Lora(r=4, alpha=8.0)}),
    ("kto", {}, {}),
    ("grpo", {"group_size": 4}, {"prompts_per_buffer": 8, "prompts_per_step": 4, "epochs": 2}),
    ("raft", {"group_size": 4}, {"prompts_per_buffer": 8, "prompts_per_step": 4}),
    ("score", {"ask": " w5", "group_size": 2}, {"prompts_per_buffer": 8, "prompts_per_step": 4}),
    ("kd", {}, {}),
    ("on_policy_distill", {}, {}),
    ("minillm", {}, {}),
    ("sdpo", {"template": "{prompt} {sibling}", "top": 4}, {"prompts_per_buffer": 8, "prompts_per_step": 4}),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    paths = {}
    for name, seed in (("init", 0), ("teacher", 2)):
        paths[name] = tmp_path_factory.mktemp(name)
        model(seed).save(paths[name])
    return paths


def run(directory, models, method, arguments, changes, stops):
    """Run the stage, interrupted after each of `stops`; as far as state goes every stop is a new process."""
    settings = NodeSettings(**{
        "init": str(models["init"]), "steps": STEPS, "learning_rate": 1e-2, "prompts_per_step": 4, "max_tokens": 5,
        "save_steps": 100, "seed": 3, **changes,
    })  # fmt: skip
    inputs = {"task": ParityTask(), "teacher": "teacher"}
    if method == "sft":
        inputs["data"] = demonstrations()
    if method == "dpo":
        inputs["data"] = preference_pairs()
    if method == "kto":
        inputs["data"] = labelled_responses()
    stage = build_stage(method, inputs, arguments, [], sampling_of(settings), tokenizer())
    data, task = prompts_of(stage)
    prompts = data or [prompt_group(item) for item in task.items("train")]
    for stop in [*stops, None]:
        with RunDirectory.create(directory, recipe_text="", resume=True) as opened:
            node = opened.node("stage")
            found = node.latest_checkpoint()
            lora = None
            if settings.lora:
                from offon.models.model import LoraSpec

                lora = LoraSpec(r=settings.lora.r, alpha=settings.lora.alpha, seed=settings.seed)
            held = ModelSet(
                stage, models["init"], {"teacher": models["teacher"]}, lora, checkpoint=found and found.path
            )
            runtime = TrainState(node, held, prompts, settings, interrupted=lambda: runtime.state.step == stop)  # noqa: B023
            if stop is None:
                run_stage(stage, runtime)
            else:
                with pytest.raises(Interrupted):
                    run_stage(stage, runtime)
    return runtime


def everything(runtime, directory):
    weights = {name: p.detach().clone() for name, p in runtime.models.learner.train_parameters().items()}
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if not k.startswith("time")} for line in lines]
    rows = ledger.query(
        directory, "select id, fate, tokens, behavior_logp, signals from trajectories order by id"
    ).to_pylist()
    consumed = ledger.query(directory, "select id, step from consumption order by step, id").to_pylist()
    return weights, runtime.optimizers["policy"].state_dict(), metrics, rows, consumed


@pytest.mark.fault("F34")
@pytest.mark.parametrize("method, arguments, changes", VARIANTS, ids=lambda v: str(v))
def test_stopping_anywhere_changes_nothing(tmp_path, models, method, arguments, changes):
    straight = run(tmp_path / "straight", models, method, arguments, changes, stops=[])
    stopped = run(tmp_path / "stopped", models, method, arguments, changes, stops=[1, 2, 4])
    a, b = everything(straight, tmp_path / "straight"), everything(stopped, tmp_path / "stopped")
    assert all(torch.equal(a[0][name], b[0][name]) for name in a[0]), "weights"
    tensors.save(a[1], tmp_path / "a")
    tensors.save(b[1], tmp_path / "b")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes(), "optimizer"
    assert a[2] == b[2], "metrics"
    assert str(a[3]) == str(b[3]), "ledger"
    assert a[4] == b[4], "consumption"
    assert any(p.abs().sum() > 0 for p in a[0].values())


def test_answers_that_are_scored_and_never_trained_have_a_fate(tmp_path, models):
    run(tmp_path, models, "kto", {}, {}, stops=[])
    rows = ledger.query(tmp_path, "select fate, count(*) n, bool_and(list_contains(tags, 'mismatched')) mismatched "
                        "from trajectories group by fate").to_pylist()  # fmt: skip
    assert {row["fate"]: (row["n"], row["mismatched"]) for row in rows} == {
        "trained": (4 * STEPS, False), "read": (4 * STEPS, True),
    }  # fmt: skip


def test_a_step_lost_in_a_crash_is_consumed_once(tmp_path, models, monkeypatch):
    """Step 3 was recorded when the process died before its end; the checkpoint is of step 2, so step 3 is repeated."""
    finish, arguments = TrainState.finish_step, ("grpo", {"group_size": 4}, {"save_steps": 2}, [])

    def dies(runtime):
        if runtime.state.step == 2:
            raise RuntimeError("power cut")
        finish(runtime)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power cut"):
        patched.setattr(TrainState, "finish_step", dies)
        run(tmp_path / "crashed", models, *arguments)
    runs = [everything(run(tmp_path / name, models, *arguments), tmp_path / name) for name in ("crashed", "straight")]
    assert runs[0][4] == runs[1][4]
