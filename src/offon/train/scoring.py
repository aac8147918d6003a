"""From needs to scores: which model is run on which view, once each.

Axes: M response tokens of a (micro-)batch, R some of them, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from offon.maths.vocabulary import entropy, logp_at, token_logp
from offon.models.mixture import Routed
from offon.models.packed.layout import Layout, Place
from offon.parts.models import SELF, ModelRef, Need
from offon.train.frozen_scores import Remembered, of_fixed_rows
from offon.types import Group, Trajectory
from offon.types.batch import Batch


@dataclass(frozen=True)
class Distribution:
    """The next-token distributions at M positions, kept as hidden states [M, D] and the head that reads them."""

    model: Any
    hidden: Tensor

    def compare(
        self, other: Distribution, function: Callable[[Tensor, Tensor], Tensor], rows_R: Tensor, temperature_R: Tensor
    ) -> Tensor:
        """function(own log-probs, other's log-probs) at some rows, [R], chunk by chunk: [R, V] never exists.

        The other is a teacher: no gradient reaches it. Models of one family pad the same vocabulary to different sizes
        (Qwen2.5: 151936 and 152064); ids that only one of them has stand for no token and are left out.
        """
        rows, temperature = rows_R.to(self.hidden.device), temperature_R.to(self.hidden.device)

        def reduce(own_mV: Tensor, other_mD: Tensor, temperature_m: Tensor) -> Tensor:
            with torch.no_grad():
                other_mV = other.model.next_logits(other_mD) / temperature_m[:, None]
            shared = min(own_mV.shape[-1], other_mV.shape[-1])
            return function(own_mV[:, :shared].log_softmax(-1), other_mV[:, :shared].log_softmax(-1))

        return self.model.over_vocabulary(
            self.hidden[rows], reduce, other.hidden[rows], temperature, temperature=temperature
        )

    def measure(self, function: Callable[[Tensor], Tensor], rows_R: Tensor, temperature_R: Tensor) -> Tensor:
        """function(own logits) at some rows, [R], chunk by chunk."""
        rows, temperature = rows_R.to(self.hidden.device), temperature_R.to(self.hidden.device)
        return self.model.over_vocabulary(self.hidden[rows], function, temperature=temperature)


def score(
    models: Callable[[ModelRef], Any],
    batch: Batch,
    needs: Iterable[Need],
    when: str = "loss",
    remembered: Callable[[ModelRef], Remembered | None] = lambda ref: None,
) -> dict[Need, Tensor | Distribution]:
    """Everything a step's terms need on one micro-batch. Only SELF carries a gradient; each model and view runs once.

    Log-probs are those at the temperature each trajectory was sampled at, under every model. remembered: where those of
    a model that stays are looked up, for rows of data.
    """
    wanted: dict[tuple[ModelRef, str, Place], list[Need]] = defaultdict(list)
    for need in needs:
        if need.when == when and not need.of_weights:
            wanted[need.model, need.view, _place(need)].append(need)
    scores: dict[Need, Tensor | Distribution] = {}
    for (ref, view, place), group in wanted.items():
        model = models(ref)
        memory = remembered(ref) if of_fixed_rows(ref, group, batch) else None
        if memory is not None:
            logp = memory(view, place, batch, partial(_logp_alone, group[0], model, place=place))
            scores |= dict.fromkeys(group, logp)
            continue
        with nullcontext() if ref == SELF else torch.no_grad():
            hidden, layout = read(model, batch, view, place)
            for need in group:
                scores[need] = _measure(need, model, hidden, layout, batch)
    return scores


@torch.no_grad()
def _logp_alone(need: Need, model: Any, batch: Batch, *, place: Place) -> Any:
    return _measure(need, model, *read(model, batch, need.view, place), batch)


@torch.no_grad()
def prepare(models: Callable[[ModelRef], Any], terms: Sequence[Any], batch: Batch, max_tokens: int | None) -> Batch:
    """What terms read of the step batch as a whole, left in it as columns, constants or weights. Weights are fixed
    already; only then is the batch split."""
    needs = dict.fromkeys(need for term in terms for need in term.needs if need.when == "step")
    parts = [score(models, part, needs, when="step") for part in batch.split(max_tokens)] if needs else []
    scores = {need: torch.cat([part[need].to(batch.sequence.device) for part in parts]) for need in (parts or [{}])[0]}
    for term in terms:
        if term.name in batch.weights:
            batch = term.prepare(batch, scores)
    return batch


def read(model: Any, batch: Batch, view: str, place: Place) -> tuple[Tensor, Layout]:
    """Hidden states [M, D] of a batch under a model, and the layout they were computed in. Where the model depends on
    the item, each runs on its own trajectories."""
    layout = layout_of(batch.trajectories, view, place)
    if not isinstance(model, Routed):
        return model.hidden(layout), layout
    number_B = torch.tensor([model.number(item) for item in batch.items])
    states = {}
    for number in number_B.unique().tolist():
        routed = [t for t, mine in zip(batch.trajectories, (number_B == number).tolist(), strict=True) if mine]
        states[number] = model.parts[number].hidden(layout_of(routed, view, place))
    return model.side_by_side(number_B[layout.sequence], states), layout


def layout_of(trajectories: Sequence[Trajectory], view: str, place: Place = "before") -> Layout:
    return Layout.of([(t.prefix(view), t.tokens.tolist()) for t in trajectories], place=place)


def _place(need: Need) -> Place:
    """A score is read at the token it judges; everything else where that token is still to come."""
    return "at" if need.what == "score" else "before"


def _measure(need: Need, model: Any, hidden: Tensor, layout: Layout, batch: Batch) -> Tensor | Distribution:
    plain = bool((batch.temperature == 1).all())
    temperature = None if plain else batch.temperature[batch.sequence].to(hidden.device)
    match need.what:
        case "logp":
            return model.over_vocabulary(hidden, token_logp, layout.targets.to(hidden.device), temperature=temperature)
        case "distribution":
            return Distribution(model, hidden)
        case "entropy":
            return model.over_vocabulary(hidden.detach(), entropy, temperature=temperature).detach()
        case "logp_at":
            ids = batch.columns[need.at].to(hidden.device)
            return model.over_vocabulary(hidden, logp_at, ids, temperature=temperature)
        case "value" | "score":
            return model.numbers(hidden)
    raise ValueError(f"nothing scores {need.what}")


@torch.no_grad()
def score_buffer(model: Any, groups: Sequence[Group], need: Need, max_tokens: int) -> list[Group]:
    """One number per token of every member under a model and view, without gradient: the token signal need.column."""
    if need.what == "distribution":
        raise ValueError("distributions are not kept with a buffer")
    batch = Batch.of(groups)
    if not batch.n_sequences:
        return list(groups)
    scored: list[Trajectory] = []
    for part in batch.split(max_tokens):
        hidden, layout = read(model, part, need.view, _place(need))
        pieces = _measure(need, model, hidden, layout, part).float().cpu().split(layout.lengths)
        scored += [
            t.with_token_signals(**{need.column: piece.numpy()})
            for t, piece in zip(part.trajectories, pieces, strict=True)
        ]
    members = iter(scored)
    return [group.replace(members=tuple(next(members) for _ in group.members)) for group in groups]


def weigh(batch: Batch, terms: Sequence[Any]) -> Batch:
    """Fix every term's weight column on the whole step batch. Nothing after this divides. A term on parameters reads no
    data and has none."""
    data = [term for term in terms if term.unit != "parameters"]
    return batch.with_weights({t.name: t.weigh(batch) for t in data}, {t.name: t.unit for t in data})


def step_loss(
    terms: Sequence[Any], batch: Batch, scores: Mapping[Need, Any], coefficients: Mapping[str, float]
) -> tuple[Tensor, dict[str, tuple[float, float]]]:
    """sum over terms of coef * sum_units weight * loss: a scalar that adds up exactly over micro-batches.

    Returns it with metrics as (sum, count) pairs; "loss/<term>" counts as 1 in total over a step's micro-batches.
    """
    total, metrics = torch.zeros(()), {}
    for term in terms:
        if term.name not in batch.weights:
            continue
        units, seen = term.units(batch, scores)
        weight = batch.weights[term.name].to(device=units.device, dtype=units.dtype)
        loss = torch.where(weight != 0, units, torch.zeros_like(units)).mul(weight).sum()
        total = total.to(loss) + coefficients[term.name] * loss
        metrics[f"loss/{term.name}"] = (float(loss.detach()), 0.0)
        metrics.update(seen)
    return total, metrics
