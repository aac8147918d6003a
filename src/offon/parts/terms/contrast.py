"""Terms of sequence scores: a link of a margin between two members of a group, between a labelled response and a point
of reference, or the likelihood of a ranking.

Axes: P pairs, B sequences, M tokens, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from offon.lazy import Tensor, torch
from offon.maths import links
from offon.maths.weights import equal_weights, weights_within
from offon.parts.models import Need
from offon.parts.schedules import Schedule
from offon.parts.select import select
from offon.parts.terms.links import Link, Logistic, Prospect
from offon.parts.terms.protocol import Metrics, Reading, Scores, Term
from offon.parts.terms.scores import LogRatio, SequenceScore
from offon.types.batch import Batch
from offon.types.trajectory import Source

MISMATCHED = "mismatched"  # the tag of a response put after another prompt, to be scored and never trained


@dataclass(frozen=True, kw_only=True)
class Contrast(Term):
    """link(h) for each (winner, loser) pair, with h = beta * (score(winner) - score(loser)) - margin.

    DPO is the score LogRatio and the link Logistic. The unit is the pair: both members are always in one micro-batch.

    margin  a number, or "data": each comparison's own (0 where it has none)
    of      "sum" adds the two scores instead (a reward model's centring: Square(0) of r_w + r_l)
    reduce  per_pair: 1/P; per_prompt: the mean over prompts of the mean over a prompt's pairs (InstructGPT's 1/C(K,2))
    """

    score: SequenceScore = LogRatio()
    link: Link = Logistic()
    beta: float = 0.1
    margin: float | Literal["data"] = 0.0
    of: Literal["difference", "sum"] = "difference"
    on: str = "trainable"
    reduce: Literal["per_pair", "per_prompt"] = "per_pair"
    coef: Schedule = 1.0
    name: str = "contrast"

    unit = "pair"
    requires = frozenset({"comparisons"})

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.score.needs

    def weigh(self, batch: Batch) -> Tensor:
        group = batch.group[batch.pairs[:, 0]]
        return equal_weights(group >= 0) if self.reduce == "per_pair" else weights_within(group, batch.n_groups)

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        score_B = self.beta * self.score(Reading(batch, scores, select(batch, self.on)))
        winner, loser = score_B[batch.pairs[:, 0]], score_B[batch.pairs[:, 1]]
        h = winner - loser if self.of == "difference" else winner + loser
        better = (winner - loser).detach()
        count = float(len(h))
        metrics: Metrics = {
            "rewards/chosen": (float(winner.detach().sum()), count),
            "rewards/rejected": (float(loser.detach().sum()), count),
            "rewards/margins": (float(better.sum()), count),
            "rewards/accuracies": (float((better > 0).sum() + 0.5 * (better == 0).sum()), count),
        }
        return self.link(h - (batch.margins.to(h) if self.margin == "data" else self.margin)), metrics


@dataclass(frozen=True, kw_only=True)
class Unpaired(Term):
    """weight * link(h) for each labelled response: h = beta * (score - z) if it is good, beta * (z - score) if bad.

    KTO is the link Prospect and z "mismatched"; BCO the link Logistic and z "mean". The unit is the sequence.

    z   "mismatched": max(0, mean score of responses put after other prompts), which estimates KL(pi || reference);
        "mean": the mean score over good and bad; "zero". One number for the whole step batch, by the learner as it is
        before the step, without gradient.
    good, bad         selectors of the labelled responses
    gain_weight, loss_weight   lambda_D and lambda_U, the factors on good and on bad ones
    """

    score: SequenceScore = LogRatio()
    link: Link = Prospect()
    z: Literal["mismatched", "mean", "zero"] = "mismatched"
    beta: float = 0.1
    good: str = "tag:desirable"
    bad: str = "tag:undesirable"
    gain_weight: float = 1.0
    loss_weight: float = 1.0
    coef: Schedule = 1.0
    name: str = "unpaired"

    unit = "sequence"

    @property
    def needs(self) -> tuple[Need, ...]:
        early = () if self.z == "zero" else tuple(replace(need, when="step") for need in self.score.needs)
        return (*self.score.needs, *early)

    @property
    def requires(self) -> frozenset[str]:
        labels = "labels" if self.good.startswith("tag:") else "reward"
        return frozenset({labels} | ({MISMATCHED} if self.z == "mismatched" else set()))

    def weigh(self, batch: Batch) -> Tensor:
        return equal_weights(_any(batch, self.good) | _any(batch, self.bad))

    def prepare(self, batch: Batch, scores: Scores) -> Batch:
        if self.z == "zero":
            return batch
        early = {need: scores[replace(need, when="step")] for need in self.score.needs}
        if self.z == "mean":
            read, counted = select(batch, "trainable"), batch.weights[self.name] != 0
        else:
            counted = torch.tensor([MISMATCHED in t.tags for t in batch.trajectories], dtype=torch.bool)
            read = counted[batch.sequence] & (batch.columns["source"] != Source.ENVIRONMENT)
        value = self.score(Reading(batch, early, read)).detach()[counted]
        mean = float(value.mean()) if len(value) else 0.0
        return batch.with_constants({f"{self.name}/z": max(mean, 0.0) if self.z == "mismatched" else mean})

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        good, bad = _any(batch, self.good), _any(batch, self.bad)
        z = batch.constants.get(f"{self.name}/z", 0.0)
        score = self.score(Reading(batch, scores, select(batch, "trainable")))
        h = self.beta * (score - z)
        loss = torch.where(good, self.gain_weight * self.link(h), self.loss_weight * self.link(-h))
        reward = self.beta * score.detach()
        return loss, {
            "rewards/chosen": (float(reward[good].sum()), float(good.sum())),
            "rewards/rejected": (float(reward[bad].sum()), float(bad.sum())),
            f"{self.name}/z": (z * batch.n_sequences, float(batch.n_sequences)),
        }


def _any(batch: Batch, on: str) -> Tensor:
    """[B] bool: sequences of which a token is selected."""
    chosen = torch.zeros(batch.n_sequences, dtype=torch.bool, device=batch.sequence.device)
    return chosen.index_fill(0, batch.sequence[select(batch, on)], True)


@dataclass(frozen=True, kw_only=True)
class Listwise(Term):
    """-log of the Plackett-Luce probability of each group's ranking, by beta * score. The unit is the group.

    reduce  per_group: the sum over a ranking's K - 1 choices, averaged over groups; per_choice: their mean first
    """

    score: SequenceScore = LogRatio()
    beta: float = 0.1
    reduce: Literal["per_group", "per_choice"] = "per_group"
    coef: Schedule = 1.0
    name: str = "listwise"

    unit = "group"
    requires = frozenset({"rankings"})

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.score.needs

    def weigh(self, batch: Batch) -> Tensor:
        choices = batch.group.bincount(minlength=batch.n_groups) - 1
        weight = equal_weights(choices > 0)
        return weight if self.reduce == "per_group" else weight / choices.clamp(min=1)

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        score = self.beta * self.score(Reading(batch, scores, select(batch, "trainable")))
        wins = torch.bincount(batch.pairs[:, 0], minlength=batch.n_sequences)
        losses, best_first = [], []
        for group in range(batch.n_groups):
            members = (batch.group == group).nonzero()[:, 0]
            ranked = score[members[wins[members].argsort(descending=True)]]
            losses.append(links.plackett_luce(ranked))
            best_first.append(float(ranked.argmax() == 0))
        loss = torch.stack(losses) if losses else score.new_zeros(0)
        return loss, {"rewards/accuracies": (sum(best_first), float(len(best_first)))}
