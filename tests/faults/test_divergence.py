"""Training that comes apart is noticed within steps; a healthy stage never is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from offon.behavior.stage.divergence import streaks
from offon.errors import Interrupted, NumericsError
from offon.pipeline import run as pipeline
from offon.pipeline.run import run_recipe
from offon.recipe import resolve
from offon.train import state as training
from tests.faults.inject import project, status

RECIPE = """
model: ./base
probe: false
pipeline:
  s: {method: sft, data: ./demos.jsonl, steps: 16, prompts_per_step: 4, save_steps: 1, learning_rate: RATE}
"""
DEMO = json.loads((Path(__file__).parent / "demo_curves.json").read_text())


def recipe(folder, rate="1e-3", more=""):
    return resolve(project(folder, RECIPE.replace("RATE", rate + more)))


def losses_of(run):
    return [json.loads(line)["loss/total"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def comes_apart(monkeypatch):
    """From the sixth step on every update is one of learning rate 1."""
    original = training.learning_rate_at
    monkeypatch.setattr(
        training, "learning_rate_at", lambda rate, step, *a, **k: 1.0 if step >= 5 else original(rate, step, *a, **k)
    )


@pytest.mark.fault("F25")
def test_a_rate_of_one_ends_in_a_few_steps_with_exit_5(tmp_path):
    with pytest.raises(NumericsError, match="training diverges at step") as error:
        run_recipe(recipe(tmp_path, "1"), tmp_path / "run")
    now, steps = status(tmp_path / "run"), len(losses_of(tmp_path / "run"))
    assert error.value.exit_code == now["exit_code"] == 5 and now["state"] == "failed" and steps <= 6
    assert "learning_rate (now 1)" in error.value.fix and "no checkpoint is older" in error.value.kept
    assert not list((tmp_path / "run").rglob("final"))


@pytest.mark.fault("F25")
def test_the_last_checkpoint_from_before_is_kept_and_named_and_is_the_newest(tmp_path, comes_apart):
    with pytest.raises(NumericsError) as error:
        run_recipe(recipe(tmp_path), tmp_path / "run")
    saved = sorted(path.name for path in (tmp_path / "run" / "nodes" / "s").glob("checkpoint-*"))
    losses = losses_of(tmp_path / "run")
    first_bad = next(step for step, loss in enumerate(losses, 1) if loss > 2 * max(losses[:6]))
    assert len(losses) <= first_bad + 3
    (name,) = saved
    assert int(name.split("-")[1]) <= first_bad - 2 and error.value.kept.startswith(f"{name}, the last from before")


@pytest.mark.fault("F25")
def test_a_recipe_may_go_on_with_one_warning_that_stays(tmp_path, comes_apart):
    notes = []
    run_recipe(
        recipe(tmp_path, more=", on_divergence: warn"),
        tmp_path / "run",
        progress=lambda event: notes.append(event.get("note", "")),
    )
    warned = [note for note in notes if "training diverges at step" in note]
    assert warned and warned[0].startswith("s: ") and len(losses_of(tmp_path / "run")) == 16
    assert set(warned) <= set(status(tmp_path / "run")["warnings"]) and status(tmp_path / "run")["state"] == "done"


@pytest.mark.fault("F25", "F34")
@pytest.mark.parametrize("stop", [7, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (3, 6, 8))])
def test_a_stop_in_the_middle_of_it_changes_nothing(tmp_path, monkeypatch, comes_apart, stop):
    ends = []
    for name, at in (("whole", None), ("stopped", stop)):
        run = tmp_path / name
        with monkeypatch.context() as patched:
            if at:
                patched.setattr(pipeline, "stopping", asked_at(run, at))
                with pytest.raises((Interrupted, NumericsError)):
                    run_recipe(recipe(tmp_path), run)
        with pytest.raises(NumericsError) as error:
            run_recipe(recipe(tmp_path), run, resume=True)
        ends.append((error.value.what, losses_of(run)))
    assert ends[0] == ends[1]


def asked_at(run, step):
    class Asked:
        def __enter__(self):
            return lambda: (run / "metrics.jsonl").exists() and len(losses_of(run)) == step

        def __exit__(self, *_): ...

    return Asked


# ---- the rule


def fires(losses=(), norms=(), rewards=()):
    """The step at which it diverges, or None; judged after each, as a run does."""
    for n in range(1, max(map(len, (losses, norms, rewards))) + 1):
        if any(streak.diverges for streak in streaks(losses[:n], norms[:n], rewards[:n])):
            return n
    return None


@pytest.mark.parametrize("node", DEMO)
def test_the_demo_is_healthy(node):
    assert fires(*DEMO[node].values()) is None


def uniform(low, high, n, seed=0):
    return list(np.random.Generator(np.random.Philox(seed)).uniform(low, high, n))


HEALTHY = {
    "learning": list(np.geomspace(7.5, 0.1, 40)),
    "hard batches": [7.5, 0.1, 0.1, 4.0, 0.1, 0.1, 9.0, 0.1, 2.0] * 8,
    "rows one by one, an easy one first": [0.2, *uniform(0.1, 3.0, 300)],
    "at its minimum at first": [0.0, 1e-6, 1e-4, 1e-3, 1e-2, 0.3, 0.5, 0.9, 1.0, 1.0],
    "a policy gradient": [1e-8, -0.5, 3.0, -8.0, 6.0, 90.0, 120.0, 90.0],
    "other data from here on": [0.1] * 50 + [1.2] * 50,
    "not there in every step": [2.0, None, 1.5, None, None, 1.0],
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_loss_is_left_alone(name):
    assert fires(losses=HEALTHY[name]) is None


def test_a_loss_that_comes_apart_is_noticed_within_three_steps_wherever_it_does():
    assert fires(losses=[5.9, 18.0, 26.5, 21.0]) == 4
    assert fires(losses=[5.9, *[0.5] * 200, 12.0, 9.0, 11.0]) == 204
    assert fires(losses=[5.9, *[0.5] * 200, 12.0, 0.5, 9.0, 11.0, 8.0]) == 206


def test_a_gradient_that_explodes_is_noticed_whatever_the_loss_is():
    assert fires(norms=[*uniform(0.5, 2.0, 20), 400.0, 500.0, 900.0]) == 23
    assert fires(norms=[1e-6] * 20 + [0.5, 5.0, 50.0]) is None  # from nothing to what clipping allows
    assert fires(norms=[*[300.0, 900.0, 500.0] * 9, 9000.0, 2e4, 1e4]) is None  # a sum over tokens is large by itself
    assert fires(norms=[0.0] * 20 + [300.0, 400.0, 500.0]) is None  # nothing to compare with


def test_a_reward_that_is_gone_is_noticed_and_one_that_is_rare_is_not():
    assert fires(rewards=[0.45, *[0.0] * 12]) == 9
    assert fires(rewards=[*uniform(0.4, 0.6, 50), *[0.0] * 12]) == 58
    assert fires(rewards=[0.15, *[0.0] * 40]) is None and fires(rewards=[0.0] * 40) is None
    assert fires(rewards=[0.5, *[0.0, 0.0, 0.0, 0.1] * 20]) is None
    assert fires(rewards=[-1.0, *[0.5] * 9, *[0.0] * 20]) is None  # no scale on which a tenth is little
