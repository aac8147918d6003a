"""The contract every row inherits by being registered: the same gradient for any split, packing, order and padding;
scores no more and no less than declared; nothing masked, extreme or detached reaches the gradient; and the row is what
its page says. Cases are made in tests/catalogue/cases.py."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from offon.catalogue import registry
from offon.pipeline.stage_report.metrics import provenance
from offon.train.loop import run_stage
from offon.train.scoring import score, step_loss
from tests.catalogue.cases import (  # noqa: F401  (context, gradient: used by other tests)
    CASES,
    Loss,
    Ready,
    context,
    difference,
    gradient,
    gradient_of,
    ready,
    runtime_of,
    settings_of,
)
from tests.catalogue.variants import SURROGATES, surrogate_loss
from tests.rounding import FLOAT32, FLOAT64, SLOPE, STORED, close

FIRST = {case.row: index for index, case in reversed(list(enumerate(CASES)))}  # the fast tier has one case of each row
every_case = pytest.mark.parametrize(
    "index",
    [
        pytest.param(index, id=str(case), marks=() if FIRST[case.row] == index else pytest.mark.slow)
        for index, case in enumerate(CASES)
    ],
)
every_row = pytest.mark.parametrize("name", registry.names())


@functools.cache
def whole(index) -> tuple[dict[str, torch.Tensor], ...]:
    """The gradients of a case's learners on a step that is not split."""
    return tuple(map(gradient_of, ready(index)))


# --- one gradient, however the step is cut --------------------------------------------------------------------------


@every_case
def test_gradient_is_finite_and_not_zero(index):
    for found in whole(index):
        assert all(g.isfinite().all() for g in found.values())
        assert sum(float(g.norm()) for g in found.values()) > 1e-5


@pytest.mark.fault("F27")
@every_case
def test_gradient_does_not_depend_on_micro_batches_and_order(index):
    """Every group a micro-batch (its members too, where their unit allows it), and groups turned round. How several
    share a micro-batch is asked of two processes below."""
    for learner, expected in zip(ready(index), whole(index), strict=True):
        assert difference(gradient_of(learner, learner.groups[::-1], max_tokens=1), expected) < FLOAT32


@pytest.mark.fault("F27")
@every_case
def test_gradient_does_not_depend_on_packing_prefix_sharing_or_padding(index):
    for learner, expected in zip(ready(index), whole(index), strict=True):

        def padded(ref, models=learner.models):
            model = models(ref)
            return dataclasses.replace(model, why="asked for") if hasattr(model, "why") else model

        found = gradient_of(dataclasses.replace(learner, models=padded))
        assert difference(found, expected) < FLOAT32


@every_case
def test_a_doubled_batch_has_the_same_gradient(index):
    """Every reduction is a mean over its population: seeing each group twice changes nothing."""
    for learner, expected in zip(ready(index), whole(index), strict=True):
        assert difference(gradient_of(learner, [*learner.groups, *learner.groups]), expected) < FLOAT32


@pytest.fixture(scope="module")
def by_two_processes(request, tmp_path_factory):
    """The gradients of the selected cases as two processes compute them together, by case: forked once for all."""
    chosen = [
        item.callspec.params["index"]
        for item in request.session.items
        if getattr(item, "originalname", "") == "test_gradient_does_not_depend_on_the_number_of_processes"
    ]
    for index in chosen:
        ready(index)  # made before the fork, so that the processes share it
    directory = tmp_path_factory.mktemp("ranks")
    multiprocessing.start_processes(one_of_two, args=(str(directory), chosen), nprocs=2, start_method="fork")
    return torch.load(directory / "0.pt", weights_only=False)


def a_third(learner: Ready) -> int:
    """Of a step's tokens, some of which no term trains: in few micro-batches, each of two processes has one."""
    return sum(len(m.prefix()) + len(m) for group in learner.groups for m in group.members) // 3


def one_of_two(rank: int, directory: str, chosen: list[int]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=2)
    found = {index: [gradient_of(learner, max_tokens=a_third(learner)) for learner in ready(index)] for index in chosen}
    if rank == 0:
        torch.save(found, f"{directory}/0.pt")
    distributed.destroy_process_group()


@pytest.mark.fault("F27")
@every_case
def test_gradient_does_not_depend_on_the_number_of_processes(index, by_two_processes):
    for expected, found in zip(whole(index), by_two_processes[index], strict=True):
        assert difference(found, expected) < FLOAT32


# --- scores ---------------------------------------------------------------------------------------------------------


@every_case
def test_scores_are_exactly_the_declared_needs(index):
    for learner in ready(index):
        row, batch = learner.learner, learner.batch()
        read = set()

        class Watched(dict):
            def __getitem__(self, need, read=read):
                read.add(need)
                return super().__getitem__(need)

            def items(self):
                return ((need, self[need]) for need in self)

        scores = {when: score(learner.models, batch, row.needs, when=when) for when in ("step", "loss")}
        for term in (term for term in row.terms if term.name in batch.weights):
            with torch.no_grad():
                term.prepare(batch, Watched(scores["step"]))
            term.units(batch, Watched(scores["loss"]))
        assert read == {*scores["step"], *scores["loss"]}
        buffered = {need.column for need in row.needs if need.when == "buffer"}
        assert buffered <= set(batch.columns)


@every_case
def test_only_the_learner_receives_a_gradient(index):
    for learner in ready(index):
        models = [learner.models(need.model) for need in learner.learner.needs]
        own = {id(p) for p in learner.parameters.values()}
        others = [p for m in models if hasattr(m, "hf") for p in m.hf.parameters() if id(p) not in own]
        for parameter in others:
            parameter.grad = None
        gradient_of(learner)
        assert all(parameter.grad is None for parameter in others)


# --- the gradient is the formula's ------------------------------------------------------------------------------------


@every_case
def test_gradient_equals_finite_differences_with_the_detached_held(index):
    """(L(s + e d) - L(s - e d)) / 2e along random directions of every score s, in float64; what the formula detaches
    keeps its value at s."""
    for learner in ready(index):
        loss = Loss(learner)
        loss()
        generator = torch.Generator().manual_seed(0)
        found = loss.gradient()
        values = [leaf.value for leaf in loss.leaves]
        for _ in range(3):
            direction = [torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in values]
            high, low = (
                float(loss([v + e * d for v, d in zip(values, direction, strict=True)]).detach()) for e in (1e-5, -1e-5)
            )
            slope = float(sum((g * d).sum() for g, d in zip(found, direction, strict=True)))
            size = float(sum((g * d).abs().sum() for g, d in zip(found, direction, strict=True)))
            assert (high - low) / 2e-5 == pytest.approx(slope, abs=SLOPE * max(size, 1e-3))


@every_case
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_columns_are_constants_of_the_gradient(index):
    """Columns (advantages, behaviour and buffer log-probs) that would carry the learner's graph change nothing."""
    for learner in ready(index):
        loss = Loss(learner)
        expected = loss.gradient()
        position = next((i for i, leaf in enumerate(loss.leaves) if leaf.per_token), None)
        if position is None:
            continue
        leaf = loss.leaves[position].value.clone().requires_grad_()
        attached = {
            name: column + (leaf - leaf.detach()).to(column.dtype) if column.is_floating_point() else column
            for name, column in loss.batch.columns.items()
        }
        grown = Loss(learner, dataclasses.replace(loss.batch, columns=attached))
        values = [leaf if i == position else other.value.clone() for i, other in enumerate(loss.leaves)]
        (found,) = torch.autograd.grad(grown(values, frozen=False), [leaf], allow_unused=True, materialize_grads=True)
        assert close(found, expected[position], FLOAT64)


@pytest.mark.parametrize(
    "index", [i for i, case in enumerate(CASES) if case.row in SURROGATES and not case.modifier],
    ids=lambda index: str(CASES[index]),
)  # fmt: skip
def test_gradient_is_that_of_the_papers_surrogate(index):
    """Autograd of the loss as the paper writes it (variants' SURROGATES), against the row's gradient, per log-prob. The
    row stores its advantages in float32, where a preference and its KL may nearly cancel (nash_md): an error is judged
    by the largest gradient of its score."""
    for learner in ready(index):
        loss = Loss(learner)
        found = loss.gradient()
        expected = surrogate_loss(learner.case, loss)
        for leaf, ours, theirs in zip(loss.leaves, found, expected, strict=True):
            assert close(ours, theirs, STORED), leaf.need


# --- what must not reach the gradient ---------------------------------------------------------------------------------


@pytest.mark.fault("F26")
@every_case
def test_an_all_masked_batch_gives_exactly_zero(index):
    """Without a trainable token nothing has a gradient; without weight the loss is 0 exactly."""
    for learner in ready(index):
        scaffold = [g.map(lambda m: m.replace(scaffold=m.scaffold | True)) for g in learner.groups]
        for batch in (learner.batch(scaffold), learner.batch()):
            if batch.total_weight():
                weights = {name: torch.zeros_like(weight) for name, weight in batch.weights.items()}
                if batch.columns["trainable"].any():
                    batch = batch.with_weights(weights, batch.units)
            scores = score(learner.models, batch, learner.learner.needs)
            loss, _ = step_loss(learner.learner.terms, batch, scores, learner.coefficients)
            assert batch.total_weight() or float(loss.detach()) == 0.0
            for parameter in learner.parameters.values():
                parameter.grad = None
            if loss.requires_grad:
                loss.backward()
            assert all(p.grad is None or not p.grad.any() for p in learner.parameters.values())


@every_case
def test_gradient_is_finite_at_extreme_scores(index):
    """Log-probs of -1e4, ratios of e^20 and e^-20, distributions on one token, -inf where nothing is trained."""
    for learner in ready(index):
        first_is_scaffold = [
            group.map(lambda m: m.replace(scaffold=m.scaffold | (np.arange(len(m)) < (len(m) > 1))))
            for group in learner.groups
        ]
        loss = Loss(learner, learner.batch(first_is_scaffold))
        half = torch.arange(loss.batch.n_tokens) % 2 == 0
        for change in (
            lambda lp, half=half: torch.where(half, torch.full_like(lp, -1e4), lp),
            lambda lp: lp + 20,
            lambda lp: lp - 20,
            lambda lp, kept=loss.batch.columns["trainable"]: lp.masked_fill(~kept, -torch.inf),
        ):
            values = [
                leaf.value * 1e3 if leaf.value.ndim > 1 else change(leaf.value) if leaf.per_token else leaf.value - 1e4
                for leaf in loss.leaves
            ]
            assert all(g.isfinite().all() for g in loss.gradient(values))


@every_case
def test_a_ratio_of_1_from_scoring_the_sampler_under_the_trained_prompt_would_show(index):
    """Sampled under one prompt and trained under another: with the behaviour scored under the trained prompt by the
    learner itself, every ratio would be 1. The gradient is another one."""
    for learner in ready(index):
        if not any("behavior_logp" in term.requires for term in learner.learner.terms):
            continue
        moved = [
            group.map(lambda m, g=group: m.replace(views={**m.views, "train": g.views["hint"]}))
            for group in learner.groups
        ]
        loss = Loss(learner, learner.batch(moved))
        own = next(leaf for leaf in loss.leaves if leaf.need.what == "logp")
        columns = {**loss.batch.columns, "behavior_logp": own.value.clone()}
        wrong = Loss(learner, dataclasses.replace(loss.batch, columns=columns))
        ours, theirs = loss.gradient(), wrong.gradient()
        assert max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True)) > 1e-2


# --- what its page says -----------------------------------------------------------------------------------------------


def test_every_modifier_has_a_case():
    """But a judge, who has to be able to write numbers: see test_reward_sources."""
    assert {case.modifier[0] for case in CASES if case.modifier} >= set(registry.modifiers()) - {"judge"}


@every_row
def test_the_page_of_the_row_states_formula_paper_and_what_to_watch(name):
    info = registry.get(name)
    assert "L = " in info.doc, "the docstring states its loss as a formula"
    assert "Watch:" in info.doc, "the docstring says what to watch"
    assert info.paper, "it cites its paper"
    words = {"name", "kind", "family", "usual_provenance", "interface", "usual_role", "paper", "parts"}
    assert set(info.describe()) >= words


@every_row
def test_the_ledger_of_a_default_run_agrees_with_the_usual_provenance(name):
    case = next(case for case in CASES if case.row == name and not case.modifier)
    stage, runtime = runtime_of(case, settings_of(steps=2))
    run_stage(stage, runtime)
    assert runtime.state.step == 2
    _, regime = provenance(runtime.state.off_policy)
    assert registry.get(name).usual_provenance in (regime, "any")
