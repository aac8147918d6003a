"""Groups made by hand for tests of rows on rewards: lengths, rewards, and behaviour log-probs a little off the
learner's, so that no ratio is 1 unless a test says so."""

from __future__ import annotations

import functools

import numpy as np
import torch

from offon.catalogue import registry
from offon.parts.models import SELF, SELF_START, Need
from offon.train.loop import assign_credit
from offon.train.scoring import score_buffer, weigh
from offon.types import Producer, Sampling, Source, Trajectory
from offon.types.batch import Batch
from tests.catalogue.cases import difference, gradient
from tests.rounding import FLOAT32
from tests.support import ParityTask, World, model, prompt_group

REWARDS = (1.0, 0.0, 0.0, 1.0)


@functools.cache
def world() -> World:
    return World(model(0), {"start": model(1)})


@functools.cache
def groups(rewards=REWARDS, gap=0.0, prompts=4, equal_lengths=False):
    """`gap`: how far behaviour log-probs are from the learner's, in nats (alternating signs); 0 makes every ratio 1."""
    made = []
    for draw, item in enumerate(ParityTask().items("train")[:prompts]):
        group = prompt_group(item)
        for i, reward in enumerate(rewards):
            length = 3 if equal_lengths else 1 + (draw + i) % 4
            tokens = [2 + (draw + 2 * i + t) % 10 for t in range(length)] + [1]
            member = Trajectory.of(
                tokens, group.prompt, Source.LEARNER, signals={"reward": reward, "content": 1 - reward / 2},
                producer=Producer(model="m", sampling=Sampling(max_tokens=6)), id=f"{draw}/{i}",
            )  # fmt: skip
            group = group.add(member)
        made.append(group.replace(draw=draw))
    for need in (Need("logp", SELF, when="buffer"), Need("logp", SELF_START, when="buffer")):
        made = score_buffer(world()(need.model), made, need, 10_000)

    def sampled(m):
        return m.replace(behavior_logp=m.token_signals["logp@self"] + gap * (-1.0) ** np.arange(len(m)))

    return [g.map(sampled) for g in made]


def learner(row, *modifiers, **arguments):
    """The learner of a row with modifiers (name, arguments)."""
    stage = registry.get(row).function(task=ParityTask(), **arguments)
    for name, changes in modifiers:
        stage = registry.get(name).function(stage, **changes)
    (made,) = stage.validate().learners
    return made


def gradient_with(made, given):
    return gradient(made, assign_credit(made, given), world())


def gradient_of(row, given=None, *, times=1.0, **arguments):
    found = gradient_with(learner(row, **arguments), given or groups(gap=0.3))
    return {name: times * g for name, g in found.items()}


def advantages_of(made, given):
    """The advantage of each member's first token."""
    return [float(m.token_signals["advantage"][0]) for g in assign_credit(made, given) for m in g.members]


def advantages(row, given, **arguments):
    return advantages_of(learner(row, **arguments), given)


def same(a, b, tolerance=FLOAT32):
    assert difference(a, b) < tolerance


def pushes(made, members, logp, *, old=None, proximal=None):
    """d(-loss)/d logp of a learner's terms for one group of hand-made members [(advantage, reward)], lp and behaviour
    given per token; the denominators undone, so that each number is a token's own coefficient."""
    group = prompt_group(ParityTask().items("train")[0])
    old = old or logp
    for (advantage, reward), lp, bp, prox in zip(members, logp, old, proximal or old, strict=True):
        member = Trajectory.of(
            [2] * len(lp), group.prompt, Source.LEARNER, behavior_logp=bp, signals={"reward": reward}
        )
        advantage = np.broadcast_to(advantage, len(lp))
        group = group.add(member.with_token_signals(advantage=advantage, **{"logp@self": prox}))
    batch = weigh(Batch.of([group]), made.terms)
    own = torch.tensor(np.concatenate(logp), dtype=torch.float64, requires_grad=True)
    step = {need: own.detach() for need in made.needs if need.when == "step"}
    for term in made.terms:
        batch = term.prepare(batch, step)
    weight = batch.weights[made.terms[0].name]
    units = [term.coef * term.units(batch, {Need("logp", SELF): own})[0] for term in made.terms]
    loss = sum((loss * weight).sum() for loss in units)
    (found,) = torch.autograd.grad(-loss, own)
    return (found / weight).tolist()
