"""Several learners in one stage: each has parameters, optimizer, columns and files of its own; averages follow."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from offon import parts
from offon.collect import rollouts, verify
from offon.engines.api import Request
from offon.engines.native import NativeEngine
from offon.errors import ConfigError, Interrupted
from offon.models.model import LoraSpec, Model
from offon.parts import (
    Artefact,
    Clip,
    Ema,
    Learner,
    Live,
    Need,
    Route,
    SquaredError,
    Stage,
    Start,
    credit,
    divergence,
    group_mean_std,
    policy,
    policy_gradient,
    proximal,
)
from offon.parts.credits.base import Credit
from offon.parts.models import SELF, SELF_START
from offon.recipe.fields import NodeSettings
from offon.runs import RunDirectory, ledger
from offon.train.loop import run_stage
from offon.train.models import ModelSet, plan
from offon.train.state import TrainState, swapped
from offon.types import Sampling
from tests.rounding import FLOAT32, FLOAT32_SUM, STORED, close
from tests.support import ParityTask, model, prompt_group

TASK = ParityTask()
AVERAGE = Ema(SELF, 0.25)


@dataclass(frozen=True)
class Returns(Credit):
    """What the critic is to predict: the reward, at every token."""

    provides = frozenset({"return"})

    def __call__(self, group):
        return group.map(lambda m: m.with_token_signals(**{"return": np.full(len(m), m.signals["reward"])}))


def two_learners(**changes) -> Stage:
    actor = policy(
        policy_gradient(advantage=credit, ratio=proximal, trust=Clip()),
        divergence(to=AVERAGE, kind="reverse", coef=0.1),
        credit=group_mean_std() >> Returns(),
    )
    critic = Learner("critic", (SquaredError(clip=0.2),), head="value", learning_rate=3e-2)
    sampled = dataclasses.replace(rollouts(TASK, 4), sampling=Sampling(max_tokens=5))
    return Stage(sampled | verify(TASK), (actor, critic)).replace(**changes)


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    path = tmp_path_factory.mktemp("init")
    model(0).save(path)
    return path


def run(directory, stage, init, *, stops=(), lora=None, prompts=None, checkpointing=False, **changes) -> TrainState:
    settings = NodeSettings(**{
        "init": str(init), "steps": 4, "learning_rate": 1e-2, "prompts_per_step": 4, "prompts_per_buffer": 8,
        "max_tokens": 5, "save_steps": 100, "seed": 3, **changes,
    })  # fmt: skip
    prompts = prompts or [prompt_group(item) for item in TASK.items("train")]
    for stop in [*stops, None]:
        with RunDirectory.create(directory, recipe_text="", resume=True) as opened:
            node = opened.node("stage")
            found = node.latest_checkpoint()
            models = ModelSet(
                stage.validate(),
                init,
                {"init": init},
                lora,
                checkpoint=found and found.path,
                checkpointing=checkpointing,
            )
            runtime = TrainState(node, models, prompts, settings, interrupted=lambda: runtime.state.step == stop)  # noqa: B023
            if stop is None:
                run_stage(stage, runtime)
            else:
                with pytest.raises(Interrupted):
                    run_stage(stage, runtime)
    return runtime


def weights(of: Model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in of.hf.named_parameters()}


@pytest.mark.parametrize("lora", [None, LoraSpec(r=2)], ids=["all weights", "lora"])
@pytest.mark.slow
def test_two_learners_stopped_anywhere_are_the_same_two(tmp_path, init, lora):
    straight = run(tmp_path / "a", two_learners(), init, lora=lora)
    stopped = run(tmp_path / "b", two_learners(), init, lora=lora, stops=[1, 3])
    for name in ("policy", "critic"):
        a, b = (weights(runtime.models.learners[name]) for runtime in (straight, stopped))
        assert all(torch.equal(a[key], b[key]) for key in a), name
        states = [runtime.optimizers[name].state_dict()["state"] for runtime in (straight, stopped)]
        for i, moments in states[0].items():
            assert torch.equal(moments["exp_avg_sq"], states[1][i]["exp_avg_sq"])
    (a,), (b,) = (runtime.models.averages.values() for runtime in (straight, stopped))
    assert all(torch.equal(x, y) for x, y in zip(weights(a).values(), weights(b).values(), strict=True)), "averages"
    lines = [[json.loads(t) for t in (tmp_path / x / "metrics.jsonl").read_text().splitlines()] for x in "ab"]
    assert [[{k: v for k, v in line.items() if "time" not in k} for line in run] for run in lines][0] == [
        {k: v for k, v in line.items() if "time" not in k} for line in lines[1]
    ]


@pytest.mark.fault("F27")
def test_recomputing_layers_in_the_backward_pass_changes_nothing(tmp_path, init):
    plain, recomputed = (run(tmp_path / str(on), two_learners(), init, checkpointing=on) for on in (False, True))
    for name in ("policy", "critic"):
        a, b = (weights(runtime.models.learners[name]) for runtime in (plain, recomputed))
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=FLOAT32_SUM, atol=FLOAT32)


def test_each_learner_moves_its_own_weights_at_its_own_rate(tmp_path, init):
    runtime = run(tmp_path, two_learners(), init)
    critic, actor = runtime.models.learners["critic"], runtime.models.learners["policy"]
    start = weights(Model.load(init, device="cpu"))
    assert not torch.equal(weights(actor)["model.embed_tokens.weight"], start["model.embed_tokens.weight"])
    assert not torch.equal(weights(critic)["model.embed_tokens.weight"], weights(actor)["model.embed_tokens.weight"])
    line = runtime.node.metrics()[-1]
    assert (line["learning_rate"], line["critic/learning_rate"]) == (1e-2, 3e-2)
    assert line["critic/value/target"] == pytest.approx(line["reward"], abs=0.5)
    consumed = ledger.query(tmp_path, "select distinct learner from consumption order by 1").to_pylist()
    assert consumed == [{"learner": "critic"}, {"learner": "policy"}]


def test_the_policy_is_what_the_stage_makes_and_the_critic_is_kept_beside_it(tmp_path, init):
    runtime = run(tmp_path / "run", two_learners(), init, steps=1)
    runtime.models.save_learners(tmp_path / "final")
    assert type(Model.load(tmp_path / "final", device="cpu").core).__name__ == "Qwen3ForCausalLM"
    assert type(Model.load(tmp_path / "final" / "critic", device="cpu").core).__name__ == "Qwen3ForTokenClassification"


def test_the_average_follows_its_formula(tmp_path, init):
    """After one step ema = start + rate * (learner - start)."""
    runtime = run(tmp_path, two_learners(), init, steps=1)
    start, now = weights(Model.load(init, device="cpu")), weights(runtime.models.learner)
    (average,) = runtime.models.averages.values()
    for name, mean in weights(average).items():
        assert close(mean, start[name] + 0.25 * (now[name] - start[name]), STORED)


@pytest.mark.parametrize("rate, same", [(0.0, "start"), (1.0, "learner")])
def test_an_average_at_its_limits_is_the_start_or_the_learner(tmp_path, init, rate, same):
    learner = policy(divergence(to=Ema(SELF, rate)), policy_gradient(advantage=credit), credit=group_mean_std())
    runtime = run(tmp_path, two_learners(learners=(learner,)), init)
    (average,) = runtime.models.averages.values()
    expected = Model.load(init, device="cpu") if same == "start" else runtime.models.learner
    for name, mean in weights(average).items():
        assert close(mean, weights(expected)[name], STORED)


def test_a_learner_s_parts_mean_itself_by_self():
    stage = two_learners()
    actor, critic = stage.learners
    assert stage.main is actor
    assert stage.seen_by(actor, SELF) == SELF == stage.seen_by(critic, Live("policy"))
    assert stage.seen_by(critic, SELF) == Live("critic") == stage.seen_by(actor, Live("critic"))
    assert stage.seen_by(critic, Ema(SELF, 0.1)) == Ema(Live("critic"), 0.1)
    assert stage.seen_by(critic, SELF_START) == Start("critic")


def test_a_learner_s_own_columns_are_kept_under_its_name(tmp_path, init):
    """The critic's value at the start of the buffer and the policy's proximal log-probs do not mix."""
    runtime = run(tmp_path, two_learners(), init)
    names = {name for group in runtime.buffer for m in group.members for name in m.token_signals}
    assert names == {"advantage", "return", "logp@self", "value@critic"}
    own = runtime.stage.columns_of(runtime.stage.learner("critic"))
    assert own == {"value@self": "value@critic"}
    (group, *_) = swapped(runtime.buffer, own)
    assert "value@self" in group.members[0].token_signals
    again = swapped(swapped(runtime.buffer, own), own)
    assert again[0].members[0].token_signals.keys() == runtime.buffer[0].members[0].token_signals.keys()


def test_another_learner_s_advantage_is_not_read():
    actor = policy(policy_gradient(advantage=credit), credit=group_mean_std())
    other = Learner("other", (policy_gradient(advantage=credit),))
    with pytest.raises(ConfigError, match="needs advantage"):
        two_learners(learners=(actor, other)).validate()


def test_a_critic_before_the_credit_that_tells_it_returns_is_refused():
    actor, critic = two_learners().learners
    with pytest.raises(ConfigError, match="needs return"):
        two_learners(learners=(critic, actor)).validate()


@pytest.mark.parametrize(
    "learners, words",
    [
        (
            (Learner("policy", (SquaredError(),), credit=Returns()),),
            "value of learner 'policy' is asked for, which is a",
        ),
        ((Learner("prm", (policy_gradient(advantage=credit),), group_mean_std(), head="score"),), "has a score head"),
        ((policy(divergence(to=Live("nobody"))),), "no learner is named 'nobody'"),
    ],
)
def test_what_a_learner_cannot_say_is_refused_before_anything_loads(learners, words):
    with pytest.raises(ConfigError, match=words):
        two_learners(learners=learners).validate()


def test_a_route_does_not_sample():
    by_family = rollouts(TASK, 2, model=Route("family", {"a": SELF, "b": SELF_START}))
    with pytest.raises(ConfigError, match="is to sample"):
        two_learners(collect=by_family | verify(TASK)).validate()


def test_two_learners_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="one name"):
        two_learners(learners=(policy(), policy()))


def test_the_plan_counts_every_learner_and_average_once():
    """1000 parameters with gradient and two moments: 16 bytes each; an average 4; a critic from elsewhere its own."""
    actor, critic = two_learners().learners
    stage = two_learners(learners=(actor, Learner("critic", critic.terms, init=Artefact("rm"), head="value")))
    held = {line.model: line.size_bytes for line in plan(stage, {"self": 1000, "rm": 10})}
    assert held == {"self": 16_000, "critic": 160, "ema(self, 0.25)": 4_000}


def test_a_need_of_another_learner_is_scored_once():
    stage = two_learners()
    assert [need.column for need in stage.needs if need.when == "buffer"] == ["logp@self", "value@critic"]
    assert Need("value", Live("critic"), when="buffer") in stage.needs


def test_a_fingerprint_is_taken_again_after_a_step_and_not_before(tmp_path, init, monkeypatch):
    taken = []
    monkeypatch.setattr(Model, "fingerprint", lambda self: taken.append(self) or str(len(taken)))
    models = ModelSet(two_learners().validate(), init, {"init": init})
    first, other = models.fingerprint(SELF), models.fingerprint(Artefact("init"))
    assert (models.fingerprint(SELF), len(taken)) == (first, 2)
    models.stepped(models.stage.main)
    assert models.fingerprint(SELF) != first and models.fingerprint(Artefact("init")) == other


def test_the_row_of_the_documentation_is_a_stage():
    page = (Path(__file__).parents[2] / "docs" / "learners.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(code, names)
    stage = names["small_ppo"](TASK).validate()
    assert [learner.name for learner in stage.learners] == ["policy", "critic"]
    for name in ("Live", "Start", "Artefact", "Ema", "Mix", "Route"):
        assert f"`{name}(" in page and hasattr(parts, name)


def test_a_learner_with_an_adapter_samples_as_it_began_with_the_adapter_off(init):
    stage = Stage(rollouts(TASK, 1, model=SELF_START) | verify(TASK), two_learners().main)
    models = ModelSet(stage, init, {}, LoraSpec(r=2))
    with torch.no_grad():
        for parameter in models.learner.train_parameters().values():
            parameter.add_(0.3)
    asked = [Request((2, 3), Sampling(max_tokens=6), (1, i)) for i in range(8)]
    start, now, base = (
        [c.tokens for c in NativeEngine().generate(asked, m)]
        for m in (models(SELF_START), models(SELF), Model.load(init, device="cpu"))
    )
    assert start == base != now
