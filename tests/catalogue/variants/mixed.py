"""Mixed rows: their cases, and each paper's own surrogate."""

import torch

from tests.catalogue.variants.grpo import mean_std, ppo, responses, token_ratios


def rewards(group):
    return torch.tensor([r.reward for r in group.responses]).double()


def group_std(group):
    return mean_std(rewards(group))


def is_demo(response):
    return bool((response.source == 0).any())


def parts(group, external=True):
    return [r for r in group.responses if is_demo(r) == external]


def shaped(p, gamma=0.1):
    return p / (p + gamma)


def luffy(groups, group_size=8, demos=1, gamma=0.1, clip=None, length=8192):
    total = 0.0
    for g in groups:
        for r, a in zip(g.responses, rewards(g) - rewards(g).mean(), strict=True):
            own = ppo(token_ratios(r), a, *clip) if clip else token_ratios(r) * a
            total = total + (shaped(r.lp.exp(), gamma) * a if is_demo(r) else own).sum()
    return -total / (length * len(responses(groups)))


def srft(groups, group_size=8, demos=1, sft=0.5, right=0.1, gamma=0.1, length=8192):
    rl = total = count = 0.0
    for g in groups:
        for r, a in zip(g.responses, group_std(g), strict=True):
            entropy = r.at("entropy@self").mean().detach()
            if is_demo(r):
                total, count = total + sft * torch.exp(-entropy) * r.lp.sum(), count + len(r.lp)
                rl = rl + (shaped(r.lp.exp(), gamma) * a).sum()
            else:
                rl = rl + (right * torch.exp(entropy) if r.reward >= 1 else -1.0) * r.lp.sum()
    return -total / count - rl / (length * len(responses(groups)))


def hpt(groups, group_size=8, over=0, sft=1.0, length=8192):
    total = 0.0
    for g in groups:
        if parts(g):
            total = total + sft * torch.stack([r.lp.sum() for r in g.responses]).mean()
        else:
            centred = rewards(g) - rewards(g).mean()
            total = (
                total
                + torch.stack([(token_ratios(r) * a).sum() for r, a in zip(g.responses, centred, strict=True)]).mean()
            )
    return -total / (length * len(groups))


def chord(groups, weight="phi", peak=0.1, valley=0.1, rise=0.0, over=1.0, group_size=8, demos=1, clip=(0.2, 0.2)):
    rl = sft = n_own = n_demo = 0.0
    for g in groups:
        own = parts(g, external=False)
        reward = torch.tensor([r.reward for r in own]).double()
        spread = reward.std() + 1e-4 if reward.max() > reward.min() else 1.0
        for r, a in zip(own, (reward - reward.mean()) / spread, strict=True):
            rl, n_own = rl + ppo(token_ratios(r), a, *clip).sum(), n_own + len(r.lp)
        for r in parts(g):
            p = r.lp.exp().detach()
            w = p * (1 - p) if weight == "phi" else torch.ones_like(p)
            sft, n_demo = sft + (w * r.lp).sum(), n_demo + len(r.lp)
    return -(1 - peak) * rl / n_own - peak * sft / n_demo


def repo(groups, group_size=8, replays=8, from_n=16, choose="highest", baseline="split", coef=1.0, clip=(0.2, 0.2)):
    """Before there is anything to replay it is grpo."""
    objective = [
        (ppo(token_ratios(r), a, *clip)).mean() for g in groups for r, a in zip(g.responses, group_std(g), strict=True)
    ]
    return -torch.stack(objective).mean()


SURROGATES = {f.__name__: f for f in (luffy, srft, hpt, chord, repo)}

VARIANTS = {
    "luffy": [{"group_size": 4}, {"group_size": 5, "demos": 0, "clip": (0.2, 0.2)}],
    "srft": [{"group_size": 4}],
    "uft": [{"group_size": 4, "start": 0.5, "sft": 0.1}],
    "chord": [{"group_size": 4}, {"group_size": 4, "weight": "mu", "peak": 0.5}],
    "hpt": [{"group_size": 2}, {"group_size": 4, "over": 1, "sft": 0.3}],
    "relift": [{"group_size": 2, "batch": 1}],
    "repo": [{"group_size": 4, "from_n": 4}, {"group_size": 4, "from_n": 4, "baseline": "joint"}],
    "exgrpo": [{"group_size": 4, "start": 0.0}],
}
