"""One optimizer step of one learner: accumulate the gradient over micro-batches, check it, apply it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from offon.errors import NumericsError
from offon.parts.models import SELF, ModelRef, Need
from offon.parts.stage import Learner
from offon.train.distributed import add, rank_and_size, share, sum_gradients, sum_metrics
from offon.train.frozen_scores import Remembered
from offon.train.scoring import prepare, score, step_loss
from offon.types import Source
from offon.types.batch import Batch


def accumulate(
    models: Callable[[ModelRef], Any],
    learner: Learner,
    batch: Batch,
    coefficients: Mapping[str, float],
    micro_batch_tokens: int | None,
    remembered: Callable[[ModelRef], Remembered | None] = lambda ref: None,
) -> dict[str, tuple[float, float]]:
    """Add the gradient of the weighted batch to the learner's parameters; metrics as (sum, count).

    The result does not depend on how the batch is split: weights were fixed on the whole of it, and what terms read of
    it as a whole is prepared before. Sequences without weight are not computed. Nor does it depend on the number of
    processes that share the work.
    """
    rank, _ = rank_and_size()
    metrics = _penalise(models, learner, coefficients) if rank == 0 else {}
    batch = prepare(models, learner.terms, batch, micro_batch_tokens)
    for micro in share(batch.take(batch.trained()), micro_batch_tokens):
        micro = micro.to(models(SELF).device)
        scores = score(models, micro, learner.needs, remembered=remembered)
        loss, seen = step_loss(learner.terms, micro, scores, coefficients)
        if not math.isfinite(float(loss.detach())):
            raise NumericsError(
                f"loss is {float(loss.detach())}",
                where=", ".join(sorted(t.id for t in micro.trajectories)[:4])
                + (" ..." if micro.n_sequences > 4 else ""),
                why="; ".join(f"{name} {value}" for name, (value, _) in seen.items() if name.startswith("loss/")),
                fix="a smaller learning rate, or look at the samples named",
            )
        if loss.requires_grad:
            loss.backward()
        seen["loss/total"] = (float(loss.detach()), 0.0)
        seen |= _sampler_gap(micro, scores)
        add(metrics, seen)
    sum_gradients(models(SELF).train_parameters().values())
    return sum_metrics(metrics)


def _penalise(models, learner: Learner, coefficients: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Add the gradient of the terms on parameters, once per optimizer step."""
    metrics: dict[str, tuple[float, float]] = {}
    for term in learner.terms:
        if term.unit == "parameters":
            loss = coefficients[term.name] * term.loss({need: models(need.model).weights() for need in term.needs})
            loss.backward()
            metrics[f"loss/{term.name}"] = (float(loss.detach()), 0.0)
    return metrics


def _sampler_gap(batch: Batch, scores: Mapping[Need, Any]) -> dict[str, tuple[float, float]]:
    """KL(behaviour || learner) in nats per token, from the learner's own tokens (a teacher's are meant to differ)
    trained under the view they were sampled under: mean of e^d - 1 - d with d = log pi - log pi_behaviour (never
    negative, low variance)."""
    logp = scores.get(Need("logp", SELF))
    if logp is None:
        return {}
    batch = batch.to(torch.device("cpu"))
    same_view = torch.tensor([not t.off_policy_by_conditioning for t in batch.trajectories])[batch.sequence]
    of_learner = batch.columns["source"] == Source.LEARNER
    sampled = batch.columns["behavior_logp"].isfinite() & of_learner & same_view & batch.columns["trainable"]
    difference = (logp.detach().cpu() - batch.columns["behavior_logp"])[sampled].clamp(-20, 20)
    return {"off_policy/sampler_gap_nats": (float((difference.exp() - 1 - difference).sum()), float(sampled.sum()))}


def apply(
    optimizer: torch.optim.Optimizer, named: Mapping[str, torch.nn.Parameter], learning_rate: float, max_norm: float
):
    """Refuse non-finite gradients before anything moves, clip to max_norm, step unless they are 0, clear; the norm
    before clipping."""
    gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
    norm = torch.nn.utils.get_total_norm(gradients.values())
    if not math.isfinite(float(norm)):
        bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        raise NumericsError(
            f"gradient norm is {float(norm)}",
            where=", ".join(bad[:4]),
            fix="a smaller learning rate; nothing was updated",
        )
    if norm > 0:  # without a gradient (all rewards of every group equal) momentum alone would move the weights
        torch.nn.utils.clip_grads_with_norm_(named.values(), max_norm, norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)


def make_optimizer(named: Mapping[str, torch.nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """AdamW on what moves; the learning rate is set at every step. Fused where the device allows."""
    parameters: Sequence[torch.nn.Parameter] = list(named.values())
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=weight_decay, fused=True)
