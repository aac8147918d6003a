"""The contract every row inherits: the same gradient for any split, packing, order and padding; scores no more and no
less than declared; an all-masked batch is 0; what is detached is detached. A new row is covered by being registered."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from offon.collect.context import Context, Step
from offon.loops.scoring import score, score_buffer, step_loss, weigh
from offon.loops.stage import assign_credit
from offon.loops.update import accumulate
from offon.methods import registry
from offon.parts.models import SELF
from offon.types import Producer, Sampling, Source, Trajectory
from offon.types.batch import Batch
from tests.methods.variants import MODIFIED, VARIANTS
from tests.support import ParityTask, World, demonstrations, model, preference_pairs, prompt_group

OFF_SAMPLE = 7  # the seed of the model that samples: another one than the learner, so that every ratio differs from 1

CASES = [(name, arguments, None) for name in registry.names() for arguments in VARIANTS.get(name, [{}])] + MODIFIED
IDS = [f"{name}-{'-'.join(map(str, {**a, **dict([m] if m else [])}.values())) or 'default'}" for name, a, m in CASES]


@pytest.fixture(params=range(len(CASES)), ids=IDS)
def case(request):
    """(learner, groups as they stand before an optimizer step, world)."""
    return build(request.param)


@functools.cache
def build(index: int):
    torch.manual_seed(0)
    name, arguments, modifier = CASES[index]
    info = registry.get(name)
    needed = {"task": ParityTask(), "teacher": "teacher", "data": None}
    inputs = {k: needed[k] for k in info.inputs if needed[k] is not None}
    if name == "sft":
        inputs["data"] = demonstrations()
    if name == "dpo" and "group_size" not in arguments:  # else pairs are built from scored rollouts
        inputs["data"] = preference_pairs()
    stage = info.function(**inputs, **arguments)
    if modifier:
        stage = registry.get(modifier[0]).function(stage, **modifier[1])
    (learner,) = stage.validate().learners
    world = World(shared_model(0), {"start": shared_model(1), "teacher": shared_model(2)})
    prompts = inputs.get("data") or [prompt_group(item) for item in ParityTask().items("train")]
    prompts = [group.replace(draw=draw) for draw, group in enumerate(prompts)]
    groups = stage.collect(context(), prompts)
    for need in learner.needs:
        if need.when == "buffer":
            groups = score_buffer(world(need.model), groups, need, 64)
    return learner, assign_credit(learner, groups), world


shared_model = functools.cache(model)


def context() -> Context:
    sampler = shared_model(OFF_SAMPLE)

    def generate(prompts, ref):
        from offon.engines.api import Request
        from offon.engines.native import NativeEngine

        requests = [Request(p.prefix, Sampling(max_tokens=6), p.key) for p in prompts]
        source = Source.LEARNER if ref == SELF else Source.TEACHER
        return [
            Trajectory.of(
                c.tokens, p.prefix, source, behavior_logp=c.logp, producer=Producer(model="x", sampling=Sampling()),
                text=sampler.tokenizer.decode(c.tokens), id="/".join(map(str, p.key)),
            )
            for p, c in zip(prompts, NativeEngine().generate(requests, sampler), strict=True)
        ]  # fmt: skip

    return Context(generate, lambda groups, need: groups, lambda where: [], Step(0, 10, 0, "node"))


def gradient(learner, groups, world, *, max_tokens=None, batch=None) -> dict[str, torch.Tensor]:
    batch = weigh(Batch.of(groups), learner.terms) if batch is None else batch
    assert batch.total_weight() > 0
    parameters = world.learner.train_parameters()
    for parameter in parameters.values():
        parameter.grad = None
    accumulate(world, learner, batch, {term.name: 1.0 for term in learner.terms}, max_tokens)
    return {name: p.grad.clone() for name, p in parameters.items()}


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest error of a tensor over that tensor's norm (floor 1e-4 of the largest norm)."""
    floor = 1e-4 * max(float(t.norm()) for t in a.values())
    return max(float((a[name] - b[name]).abs().max() / max(float(b[name].norm()), floor)) for name in a)


def test_gradient_is_not_zero_and_finite(case):
    grads = gradient(*case)
    assert all(g.isfinite().all() for g in grads.values())
    assert sum(float(g.norm()) for g in grads.values()) > 1e-4


@pytest.mark.parametrize("max_tokens", [1, 17, 40])
def test_gradient_does_not_depend_on_the_micro_batch_split(case, max_tokens):
    assert difference(gradient(*case, max_tokens=max_tokens), gradient(*case)) < 1e-5


def test_gradient_does_not_depend_on_the_order(case):
    learner, groups, world = case
    turned = [group for group in reversed(groups)]
    assert difference(gradient(learner, turned, world, max_tokens=23), gradient(*case)) < 1e-5


def test_gradient_does_not_depend_on_packing_prefix_sharing_or_padding(case):
    learner, groups, world = case
    packed = gradient(*case)
    padded = World(
        dataclasses.replace(world.learner, why="asked for"),
        {name: dataclasses.replace(other, why="asked for") for name, other in world.others.items()},
    )
    assert difference(gradient(learner, groups, padded), packed) < 1e-5


def test_weights_are_what_decides_an_all_masked_batch_gives_exactly_zero(case):
    learner, groups, world = case
    batch = Batch.of(groups)
    world.learner.hf.zero_grad()
    silent = batch.with_weights({t.name: torch.zeros_like(t.weigh(batch)) for t in learner.terms})
    loss, _ = step_loss(
        learner.terms, silent, score(world, silent, learner.needs), {t.name: 1.0 for t in learner.terms}
    )
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in world.learner.train_parameters().values())


def test_scores_are_exactly_the_declared_needs(case):
    learner, groups, world = case
    batch = weigh(Batch.of(groups), learner.terms)
    declared = score(world, batch, learner.needs)
    read = set()

    class Watched(dict):
        def __getitem__(self, need):
            read.add(need)
            return super().__getitem__(need)

    for term in learner.terms:
        term.units(batch, Watched(declared))
    buffered = {need for need in learner.needs if need.when == "buffer"}
    assert read == set(declared)
    assert all(need.column in batch.columns for need in buffered)


def test_only_the_learner_receives_a_gradient(case):
    learner, groups, world = case
    gradient(*case)
    others = {f"{ref}: {name}": p for ref, other in world.others.items() for name, p in other.hf.named_parameters()}
    assert [name for name, p in others.items() if p.grad is not None] == []


def test_a_doubled_batch_has_the_same_gradient(case):
    """Every reduction is a mean over its population: seeing each group twice changes nothing."""
    learner, groups, world = case
    assert difference(gradient(learner, [*groups, *groups], world, max_tokens=31), gradient(*case)) < 1e-5


def test_the_page_of_the_method_states_formula_paper_and_what_to_watch():
    for name in registry.names():
        info = registry.get(name)
        assert "L = " in info.doc, f"{name}: the docstring states its loss as a formula"
        assert "Watch:" in info.doc, f"{name}: the docstring says what to watch"
        assert info.paper, f"{name} cites its paper"
        assert set(info.describe()) >= {
            "name",
            "kind",
            "family",
            "usual_provenance",
            "interface",
            "usual_role",
            "paper",
            "parts",
        }
