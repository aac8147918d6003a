"""A row at its optimizer step as plain transformers sees it: responses, their log-probs under any weights, and pieces
of the papers' formulas. Nothing of offon's maths, parts or scoring is used."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from offon.parts.models import SELF
from offon.train.loop import run_stage
from offon.types import Group, Trajectory
from tests.catalogue.cases import MODELS, Case, Filled, Ready, move, runtime_of, saved, scorer, settings_of


def eager(hf: torch.nn.Module) -> torch.nn.Module:
    """A copy that computes as transformers does."""
    hf = copy.deepcopy(hf)
    hf.set_attn_implementation("eager")
    return hf


def on_disk(path, auto=AutoModelForCausalLM) -> torch.nn.Module:
    return auto.from_pretrained(path, attn_implementation="eager").eval()


@dataclass
class Seen:
    """A response as the reference sees it: log-probs of its trained tokens, by whom and after which prompt one asks."""

    world: World
    group: Group
    member: Trajectory
    dist: Tensor = field(init=False)  # [T, V] log-probs under the learner, with gradient

    def __post_init__(self):
        self.keep = torch.from_numpy(self.member.trainable.copy())
        self.ids = torch.tensor(self.member.tokens.tolist())
        self.dist = self.under(self.world.learner)

    def under(self, model: torch.nn.Module, prefix=None) -> Tensor:
        prefix = self.member.prefix() if prefix is None else prefix
        ids = torch.tensor([[*prefix, *self.ids.tolist()]])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prefix) - 1 : -1]
        return (logits / self.world.temperature).log_softmax(-1)

    def logp(self, dist: Tensor) -> Tensor:
        return dist.gather(-1, self.ids[:, None])[:, 0]

    @property
    def lp(self) -> Tensor:
        return self.logp(self.dist)

    @torch.no_grad()
    def by(self, model: torch.nn.Module, prefix=None) -> Tensor:
        return self.logp(self.under(model, prefix))

    @property
    def old(self) -> Tensor:
        """By whoever sampled it, after the prompt it was sampled after; checked against what was stored."""
        if "replay" in self.member.tags or self.world.shifted:
            return torch.tensor(self.member.behavior_logp)
        found = self.by(self.world.sampler, self.member.prefix("sample"))
        known = torch.tensor(self.member.behavior_logp)
        assert (found - known)[self.keep & ~self.external].abs().max() < 1e-5
        return found

    @property
    def proximal(self) -> Tensor:
        return self.by(self.world.sampler)

    @property
    def ratio(self) -> Tensor:
        return (self.lp - self.old).exp()

    @property
    def reward(self) -> float:
        return self.member.signals["reward"]

    @property
    def tags(self) -> frozenset[str]:
        return self.member.tags

    @property
    def external(self) -> Tensor:
        return torch.from_numpy(self.member.source == 0)

    def ends(self, name: str = "step") -> list[tuple[int, int]]:
        return [(span.start, span.end) for span in self.member.spans if span.name == name]

    def spread(self, numbers) -> Tensor:
        """Every token of step k gets the k-th number."""
        pairs = zip(self.ends(), numbers, strict=True)
        return torch.cat([torch.full((end - start,), float(n)) for (start, end), n in pairs])

    def scores(self) -> Tensor:
        """What the reward model says at the last token of every step."""
        model, ids = self.world.scorer, torch.tensor([[*self.member.prefix(), *self.ids.tolist()]])
        with torch.no_grad():
            hidden = model.model(input_ids=ids).last_hidden_state[0]
            numbers = model.score(hidden)[:, 0]
        return torch.stack([numbers[len(self.member.prefix()) + end - 1] for _, end in self.ends()])


class World:
    """A row run up to its optimizer step; start, sampler and learner are three sets of weights."""

    def __init__(self, case: Case, learner: str = "policy", *, shifted: bool = False, **settings: Any):
        torch.manual_seed(0)
        self.stage, runtime = runtime_of(case, settings_of(**settings), Filled)
        move(runtime, seed=1)
        self.shifted, self.temperature = shifted, settings.get("temperature", 1.0)
        weights = {name: {n: p.detach().clone() for n, p in own.items()} for name, own in runtime.parameters.items()}
        run_stage(self.stage, runtime)
        move(runtime, seed=2)
        self.runtime, self.name = runtime, learner
        self.case = case
        of = next(found for found, _ in runtime.given if found.name == learner)
        self.of, model = of, runtime.models.of(of)(SELF)
        self.start = on_disk(saved(0))
        self.learner = eager(model.core)
        self.sampler = eager(model.core)
        with torch.no_grad():
            for name, parameter in self.sampler.named_parameters():
                parameter.copy_(weights[learner][name])
        self.teachers = {name: on_disk(saved(seed)) for name, seed in MODELS.items()}

    @property
    def scorer(self):
        return on_disk(scorer(4), AutoModelForSequenceClassification)

    def ready(self, which: int = 0) -> Ready:
        given = [groups for found, groups in self.runtime.given if found is self.of][which]
        if self.shifted:
            given = [group.map(off) for group in given]
        parameters = self.runtime.parameters[self.name]
        return Ready(self.case, self.stage, self.of, given, self.runtime.models.of(self.of), parameters)

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        named = dict(self.learner.named_parameters())
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


def off(member: Trajectory) -> Trajectory:
    """As if another engine had sampled: its log-probs are off by up to 1.5 nats, by a hash of the token's place."""
    noise = [zlib.crc32(f"{member.id}:{t}".encode()) / 2**32 * 3 - 1.5 for t in range(len(member))]
    return member.replace(behavior_logp=(np.array(member.behavior_logp) + noise).astype(np.float32))


# ---- pieces of the papers


def mean_std(group: list[Seen], std: bool = True) -> list[float]:
    """grpo's advantage: 0 where all rewards are equal."""
    rewards = torch.tensor([r.reward for r in group])
    if not std:
        return (rewards - rewards.mean()).tolist()
    if rewards.max() == rewards.min():
        return [0.0] * len(group)
    return ((rewards - rewards.mean()) / (rewards.std() + 1e-4)).tolist()


def clipped(ratio: Tensor, advantage, low: float = 0.2, high: float = 0.2) -> Tensor:
    return -torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def leave_one_out(numbers: list[float]) -> list[float]:
    return [n - (sum(numbers) - n) / (len(numbers) - 1) for n in numbers]


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum(-1)


def jsd(p: Tensor, q: Tensor, beta: float) -> Tensor:
    if beta in (0.0, 1.0):
        return kl(q, p) if beta == 0 else kl(p, q)
    middle = torch.log(beta * q.exp() + (1 - beta) * p.exp())
    return beta * kl(q, middle) + (1 - beta) * kl(p, middle)


def coarse(dist: Tensor, ids: Tensor) -> Tensor:
    """The tokens named, and all others as one."""
    kept = dist.gather(-1, ids)
    return torch.cat([kept, torch.log1p(-kept.exp().sum(-1, keepdim=True))], -1)


def every(groups: list[list[Seen]]) -> list[Seen]:
    return [r for group in groups for r in group]


def per_token(groups, loss: Callable[[Seen], Tensor]) -> Tensor:
    """The mean over all tokens."""
    parts = [loss(r) for r in every(groups)]
    return sum(part.sum() for part in parts) / sum(len(part) for part in parts)


def per_response(groups, loss: Callable[[Seen, float], Tensor], credit=mean_std) -> Tensor:
    """The mean over responses of the mean over their tokens."""
    parts = [loss(r, a).mean() for group in groups for r, a in zip(group, credit(group), strict=True)]
    return sum(parts) / len(parts)
