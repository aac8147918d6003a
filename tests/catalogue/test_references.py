"""Gradients of rows as they run in a stage, against formulas written by hand over plain transformers logits.

The reference runs one sequence at a time through transformers' own eager forward, and shares no maths with offon:
log-probs of learner, sampler, start and teachers come from their weights, advantages from rewards, losses from the
papers. Taken as collected are tokens, rewards, prompts, step ends and the values of Monte Carlo continuations.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tests.catalogue.cases import Case, difference, gradient_of
from tests.catalogue.references import (
    Seen,
    World,
    clipped,
    coarse,
    every,
    jsd,
    kl,
    leave_one_out,
    mean_std,
    per_response,
    per_token,
)

pytestmark = pytest.mark.slow

EQUAL = 2e-5  # largest error of a tensor over its norm; float32

# ---- rows


def clip_cov(world, groups):
    """Cui et al. 2025, 2505.22617, eq. 12 and 13: a share of tokens with 0 < cov < 0.5, not clipped, is kept out."""
    responses = every(groups)
    advantage = torch.cat([torch.full((len(r.ids),), a) for g in groups for r, a in zip(g, mean_std(g), strict=True)])
    lp, old = torch.cat([r.lp for r in responses]), torch.cat([r.old for r in responses])
    ratio = (lp - old).exp()
    cov = ((advantage - advantage.mean()) * (lp - lp.mean())).detach()
    stopped = ((advantage > 0) & (ratio > 1.2)) | ((advantage < 0) & (ratio < 0.8))
    lots = torch.tensor([zlib.crc32(f"{r.member.id}/{t}".encode()) for r in responses for t in range(len(r.ids))])
    chosen = (cov > 0) & (cov < 0.5) & ~stopped
    n = max(1, round(0.1 * len(lp)))
    drawn = torch.where(chosen, lots, torch.iinfo(torch.int64).max).argsort()[: min(n, int(chosen.sum()))]
    keep = torch.ones(len(lp)).index_fill(0, drawn, 0.0)
    assert len(drawn) > 0
    return (keep * clipped(ratio, advantage)).mean()


def uft(world, groups):
    """Liu et al. 2025, 2505.16984: grpo on what continues the hint, and likelihood of the hint."""
    parts, hints = [], []
    for group in groups:
        for r, a in zip(group, mean_std(group), strict=True):
            parts.append(clipped(r.ratio, a)[~r.external].mean())
            hints.append(r.lp[r.external])
    hints = torch.cat(hints)
    assert len(hints) and len(parts) == len(every(groups))
    return sum(parts) / len(parts) - 0.1 * hints.mean()


def pav(world, groups):
    """Setlur et al. 2024, 2410.08146, eq. 5; V after each step as collected."""
    parts = []
    for group in groups:
        for r, a in zip(group, leave_one_out([r.reward for r in group]), strict=True):
            steps = [span for span in r.member.spans if span.name == "step"]
            values = [r.member.signals["value"], *(s.signals["value"] for s in steps[:-1]), r.reward]
            progress = r.spread([after - before for before, after in zip(values, values[1:], strict=False)])
            parts.append(-r.ratio * (a + 3.0 * progress))
    return torch.cat(parts).mean()


def grpo_process(world, groups):
    """Shao et al. 2024, 2402.03300, section 4.1.3."""
    parts = []
    for group in groups:
        rewards = [r.scores().sigmoid() for r in group]
        pooled = torch.cat(rewards)
        for r, own in zip(group, rewards, strict=True):
            own = (own - pooled.mean()) / (pooled.std() + 1e-4)
            parts.append(clipped(r.ratio, r.spread(own.flip(0).cumsum(0).flip(0))).mean())
    return sum(parts) / len(parts)


def pure(world, groups):
    """Cheng et al. 2025, 2504.15275: soft minimum of step rewards, per-token baselines, KL in the reward."""
    parts = []
    for group in groups:
        raw = [2 * r.scores().sigmoid() - 1 for r in group]
        worst = [r * torch.softmax(-r / 0.1, 0) for r in raw]
        sizes = [len(r.ids) for r in group]
        outcome = leave_one_out([r.reward for r in group])
        for i, r in enumerate(group):
            others = [j for j in range(len(group)) if j != i]
            rate = sum(float(worst[j].sum()) for j in others) / sum(sizes[j] for j in others)
            own = worst[i] - rate * torch.tensor([end - start for start, end in r.ends()])
            penalty = 1e-3 * (r.old - r.by(world.start))
            advantage = r.spread(own.flip(0).cumsum(0).flip(0)) + outcome[i] - penalty.flip(0).cumsum(0).flip(0)
            parts.append(clipped(r.ratio, advantage).mean())
    return sum(parts) / len(parts)


def sdpo(world, groups):
    """Hübotter et al. 2026: JSD to the model that saw a sibling, over the student's top 4 and the rest."""

    def loss(r):
        view = next(name for name in r.member.views if name not in ("sample", "train", "prompt", "hint"))
        with torch.no_grad():
            teacher = r.under(world.start, r.member.prefix(view))
        top = r.dist.detach().topk(4).indices
        return r.ratio.detach().clamp(max=2.0) * jsd(coarse(r.dist, top), coarse(teacher, top), 0.5)

    return per_token(groups, loss)


def told(view: str, r: Seen, model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return r.under(model, r.member.prefix(view))


def opsd(world, groups):
    return per_token(groups, lambda r: jsd(r.dist, told("hint", r, world.start), 0.5))


def context_opd(world, groups):
    def loss(r):
        top = r.dist.detach().topk(4).indices
        p, q = r.dist.gather(-1, top), told("hint", r, world.teachers["teacher"]).gather(-1, top)
        return (p.exp() * (p - q)).sum(-1)

    return per_token(groups, loss)


def multi_teacher_opd(world, groups):
    names = {"even": "teacher", "odd": "second"}

    def loss(r):
        teacher = world.teachers[names[r.group.item.columns["domain"]]]
        rho = (r.proximal - r.old).exp()
        advantage = r.by(teacher) - r.proximal  # credit was given before the sampler's log-probs were put off
        return -rho * ((rho >= 0.5) & (rho <= 5)) * (r.lp - r.proximal).exp() * advantage

    return per_token(groups, loss)


def ensemble(kind: str):
    def loss(world, groups):
        def one(r):
            with torch.no_grad():
                first, second = (r.under(world.teachers[name]) for name in ("teacher", "second"))
            ours = (kl(q, r.dist) if kind == "forward" else kl(r.dist, q) for q in (first, second))
            return sum(share * part for share, part in zip((0.3, 0.7), ours, strict=True))

        return per_token(groups, one)

    return loss


def critique_grpo(world, groups):
    """Zhang et al. 2025, 2506.03106, with the released code's shaping and no clip."""
    total, n = 0.0, 0
    for group in groups:
        for r, a in zip(group, mean_std(group, std=False), strict=True):
            p = r.lp.exp()
            total = total - ((p / (p + 0.1) if "refined" in r.tags else r.ratio) * a).sum() / 8
            n += 1
    assert any("refined" in r.tags for r in every(groups))
    return total / n


def repo(world, groups):
    """Li et al. 2025, 2506.09340, split: fresh and replayed with baselines of their own."""
    total = 0.0
    for replayed in (False, True):
        own = [[r for r in group if ("replay" in r.tags) == replayed] for group in groups]
        assert any(own)
        total = total + per_response([g for g in own if g], lambda r, a: clipped(r.ratio, a))
    return total


def exgrpo(world, groups):
    """Zhan et al. 2025, 2510.02245: plain ratios for fresh responses, r / (r + 0.1) for the replayed one."""
    total, n = 0.0, 0
    for group in groups:
        for r, a in zip(group, mean_std(group, std=False), strict=True):
            total = total - ((r.ratio / (r.ratio + 0.1) if "replay" in r.tags else r.ratio) * a).sum() / 8192
            n += 1
    assert any("replay" in r.tags for r in every(groups))
    return total / n


def relift_rl(world, groups):
    parts = [clipped(r.ratio, a, 0.2, 0.28) for g in groups for r, a in zip(g, mean_std(g, std=False), strict=True)]
    return torch.cat(parts).mean()


def relift_sft(world, groups):
    assert all(bool(r.external.all()) for r in every(groups))
    return per_token(groups, lambda r: -0.5 * r.lp)


def prm(world, groups):
    """Binary cross-entropy at the last token of each labelled step."""
    losses = []
    for group in groups:
        for r in group:
            ids = torch.tensor([[*r.member.prefix(), *r.ids.tolist()]])
            numbers = world.learner.score(world.learner.model(input_ids=ids).last_hidden_state[0])[:, 0]
            for span in r.member.spans:
                if (label := span.signals.get("label")) is not None:
                    s = numbers[len(r.member.prefix()) + span.end - 1]
                    losses.append(-label * logsigmoid(s) - (1 - label) * logsigmoid(-s))
    return sum(losses) / len(losses)


def corrected(weight: Callable[[Tensor], Tensor], loss=lambda r, a: clipped((r.lp - r.proximal).exp(), a)):
    """grpo's loss over the proximal policy, each token with a weight of rho = pi_proximal / pi_sampled."""

    def of(world, groups):
        weights = []

        def one(r, a):
            rho = (r.proximal - r.old).exp()
            weights.append(weight(rho))
            return weights[-1] * loss(r, a)

        found = per_response(groups, one)
        assert torch.cat([w.expand(1) if w.ndim == 0 else w for w in weights]).unique().numel() > 1
        return found

    return of


def kept(rho: Tensor, low: float, high: float) -> Tensor:
    return rho * ((rho >= low) & (rho <= high))


def raft(world, groups):
    return per_token(groups, lambda r: -r.lp)


def rloo_hinted(world, groups):
    """Ahmadian et al. 2024, 2402.14740, with the KL of what is trained: both log-probs after the plain prompt."""
    total, n = 0.0, 0
    assert any(r.member.prefix() != r.member.prefix("sample") for r in every(groups))
    for group in groups:
        earned = [r.reward - 0.5 * float((r.proximal - r.by(world.start)).sum()) for r in group]
        for r, a in zip(group, leave_one_out(earned), strict=True):
            total, n = total - a * r.lp.sum(), n + 1
    return total / n


def opd_hinted(world, groups):
    def loss(r):
        return -r.ratio * (r.by(world.teachers["teacher"]) - r.proximal)

    return per_token(groups, loss)


HINTED = ("hints", {"drop": True, "start": 1.0, "end": 1.0})
ROWS: dict[str, tuple[Case, Callable, dict[str, Any]]] = {
    "clip_cov": (Case("clip_cov", {"share": 0.1, "cov": (0.0, 0.5)}), clip_cov, {}),
    "uft": (Case("uft", {"group_size": 4, "start": 0.5, "sft": 0.1}), uft, {}),
    "pav": (Case("pav", {"separator": 2, "continuations": 4}), pav, {}),
    "grpo_process": (Case("grpo_process", {"separator": 2}), grpo_process, {}),
    "pure": (Case("pure", {"separator": 2}), pure, {}),
    "sdpo": (Case("sdpo", {"template": "{prompt} {sibling}", "top": 4}), sdpo, {}),
    "opsd": (Case("opsd", {"view": "hint", "template": None}), opsd, {}),
    "context_opd": (Case("context_opd", {"view": "hint", "top": 4}), context_opd, {}),
    "multi_teacher_opd": (
        Case("multi_teacher_opd", {"teachers": {"even": "teacher", "odd": "second"}, "by": "domain"}),
        multi_teacher_opd,
        {"shifted": True},
    ),
    "ensemble_kd": (
        Case("ensemble_kd", {"data": None, "teachers": ["teacher", "second"], "weights": [0.3, 0.7]}),
        ensemble("forward"),
        {},
    ),
    "ensemble_kd reverse": (
        Case(
            "ensemble_kd",
            {"task": None, "teachers": ["teacher", "second"], "weights": [0.3, 0.7], "kind": "reverse"},
        ),
        ensemble("reverse"),
        {},
    ),
    "critique_grpo": (Case("critique_grpo", {"group_size": 4, "asks": (" w5 w6",), "length": 8}), critique_grpo, {}),
    "relift": (Case("relift", {"group_size": 2, "batch": 1}), relift_rl, {}),
    "relift sft": (Case("relift", {"group_size": 2, "batch": 1, "sft": 0.5}), relift_sft, {"steps": 3, "which": 1}),
    "repo": (Case("repo", {"group_size": 4, "from_n": 4, "replays": 4}), repo, {"steps": 4, "which": -1}),
    "exgrpo": (Case("exgrpo", {"group_size": 4, "start": 0.0}), exgrpo, {"steps": 4, "which": -1}),
    "prm": (Case("prm", {}), prm, {"learner": "prm"}),
    "tis": (Case("grpo", {}, ("tis", {})), corrected(lambda rho: rho.clamp(max=2.0)), {"shifted": True}),
    "mis": (
        Case("grpo", {}, ("mis", {"high": 1.5})),
        corrected(lambda rho: kept(rho.log().sum().exp(), 0.0, 1.5)),
        {"shifted": True},
    ),
    "mis geometric": (
        Case("grpo", {}, ("mis", {"level": "geometric", "low": 0.9, "high": 1.2})),
        corrected(lambda rho: kept(rho.log().mean().exp(), 0.9, 1.2)),
        {"shifted": True},
    ),
    "icepop": (Case("grpo", {}, ("icepop", {})), corrected(lambda rho: kept(rho, 0.5, 5.0)), {"shifted": True}),
    "decoupled": (
        Case("grpo", {}, ("decoupled", {"cap": 2.0})),
        corrected(lambda rho: kept(rho, 0.0, 2.0)),
        {"shifted": True},
    ),
    "decoupled truncate": (
        Case("grpo", {}, ("decoupled", {"cap": 2.0, "beyond": "truncate"})),
        corrected(lambda rho: rho.clamp(max=2.0)),
        {"shifted": True},
    ),
    "rloo + hints": (Case("rloo", {"kl": 0.5}, HINTED), rloo_hinted, {}),
    "opd + hints": (Case("opd", {}, HINTED), opd_hinted, {}),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_gradient_is_that_of_the_paper(name):
    case, formula, options = ROWS[name]
    which = options.get("which", 0)
    world = World(case, **{key: value for key, value in options.items() if key != "which"})
    ready = world.ready(which)
    groups = [[Seen(world, group, member) for member in group.members] for group in ready.groups]
    expected = world.gradients(formula(world, [group for group in groups if group]))
    found = gradient_of(ready)
    norm = math.sqrt(sum(float(g.square().sum()) for g in found.values()))
    assert norm > 1e-6, "nothing to compare"
    assert difference(found, {key: expected[key] for key in found}) < EQUAL


@pytest.mark.parametrize("row, arguments", [("raft", {"group_size": 8}), ("critique_revise", {"asks": (" w5",)})])
def test_own_samples_that_are_imitated_are_scored_at_temperature_1(row, arguments):
    """Dong et al. 2023, 2304.06767: likelihood of the best, whatever temperature found them."""
    world = World(Case(row, arguments), temperature=0.7)
    world.temperature = 1.0
    ready = world.ready()
    groups = [[Seen(world, group, member) for member in group.members] for group in ready.groups]
    expected = world.gradients(raft(world, groups))
    assert difference(gradient_of(ready), expected) < EQUAL
    world.temperature = 0.7
    groups = [[Seen(world, group, member) for member in group.members] for group in ready.groups]
    assert difference(gradient_of(ready), world.gradients(raft(world, groups))) > 0.05, "told apart"
