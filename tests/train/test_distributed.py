"""Two processes compute the gradient and the metrics that one computes, whatever the weights and denominators."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, multiprocessing

from offon.parts import (
    Clip,
    LogRatio,
    Need,
    constant,
    contrast,
    divergence,
    one,
    per_sequence,
    policy,
    policy_gradient,
    proximal,
)
from offon.parts.models import SELF, SELF_START
from offon.train.optimizer_step import accumulate
from offon.train.scoring import score_buffer, weigh
from offon.types.batch import Batch
from tests.rounding import FLOAT32, FLOAT32_SUM, close
from tests.support import World, demonstrations, model, preference_pairs

pytestmark = pytest.mark.slow

LEARNERS = {
    "three denominators": policy(
        policy_gradient(advantage=one),
        policy_gradient(advantage=one, ratio=proximal, trust=Clip(), reduce=per_sequence),
        policy_gradient(advantage=one, reduce=constant(7), on="tag:chosen"),
        divergence(to=SELF_START),
    ),
    "pairs": policy(contrast(score=LogRatio(SELF_START))),
}


def computed(name: str, max_tokens: int | None):
    learner, world = LEARNERS[name], World(model(0), {"start": model(1)})
    groups = [*demonstrations(), *preference_pairs()]
    groups = score_buffer(model(2), groups, Need("logp", SELF, when="buffer"), 100)
    batch = weigh(Batch.of(groups), learner.terms)
    metrics = accumulate(world, learner, batch, {term.name: 0.7 for term in learner.terms}, max_tokens)
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in world.learner.train_parameters().items()}
    return gradients, metrics


def one_of_two(rank: int, directory: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=2)
    cases = [(name, tokens) for name in LEARNERS for tokens in (None, 20)]
    torch.save([computed(*case) for case in cases], f"{directory}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    multiprocessing.start_processes(one_of_two, args=(str(tmp_path),), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    cases = [(name, tokens) for name in LEARNERS for tokens in (None, 20)]
    for case, (gradients, metrics), (other, _) in zip(cases, *ranks, strict=True):
        expected, expected_metrics = computed(*case)
        for name, gradient in expected.items():
            assert (gradient is None) == (gradients[name] is None)
            assert close(gradients[name], gradient, FLOAT32)
            assert torch.equal(gradients[name], other[name]), "both hold the same sum"
        assert metrics.keys() == expected_metrics.keys()
        for name, value in expected_metrics.items():
            assert metrics[name] == pytest.approx(value, rel=FLOAT32, abs=FLOAT32_SUM), name
