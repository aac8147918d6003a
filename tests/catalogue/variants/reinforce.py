"""REINFORCE and its kin: their cases, and each paper's own surrogate."""

import torch

from tests.catalogue.variants.grpo import clipped, per_response, per_token, ppo, responses, rewards


def reinforce(groups, baseline="batch", group_size=1, kl=0.0):
    every = torch.cat([rewards(g, kl=kl) for g in groups])
    b = every.mean() if baseline == "batch" else 0.0
    return per_response(groups, lambda g: rewards(g, kl=kl) - b, lambda r, a: a * r.lp.sum())


def rloo(groups, group_size=4, kl=0.03, clip=None):
    def leave_one_out(g):
        reward = rewards(g, kl=kl)
        return torch.stack([reward[i] - torch.cat([reward[:i], reward[i + 1 :]]).mean() for i in range(len(reward))])

    if clip:
        return per_response(groups, leave_one_out, lambda r, a: ppo((r.lp - r.old).sum().exp(), a, *clip))
    return per_response(groups, leave_one_out, lambda r, a: a * r.lp.sum())


def remax(groups, kl=0.0):
    total = count = 0
    for g in groups:
        greedy = next(r.reward for r in g.responses if "baseline" in r.tags)
        for r, reward in zip(g.responses, rewards(g, kl=kl), strict=True):
            if "baseline" not in r.tags:
                total, count = total + (reward - greedy) * r.lp.sum(), count + 1
    return -total / count


def opo(groups, group_size=8):
    def advantages(g):
        length = torch.tensor([float(len(r.lp)) for r in g.responses])
        return rewards(g) - (length * rewards(g)).sum() / length.sum()

    return per_token(groups, advantages, lambda r, a: a * r.lp)


def reinforce_pp(groups, kl=0.01, gamma=1.0, clip=(0.2, 0.2)):
    def returns(r):
        reward = -kl * (r.old - r.at("logp@start"))
        reward[-1] += r.reward
        return torch.stack(
            [sum(gamma ** (s - t) * reward[s] for s in range(t, len(reward))) for t in range(len(reward))]
        )

    every = torch.cat([returns(r) for r in responses(groups)])
    advantages = lambda g: [(returns(r) - every.mean()) / (every.std() + 1e-4) for r in g.responses]  # noqa: E731
    return per_token(groups, advantages, clipped(clip))


def reinforce_pp_baseline(groups, group_size=8, clip=(0.2, 0.2)):
    def centred(g):
        return rewards(g) - rewards(g).mean()

    lengths = torch.tensor([len(r.lp) for r in responses(groups)])
    every = torch.cat([centred(g) for g in groups]).repeat_interleave(lengths)
    return per_token(groups, lambda g: (centred(g) - every.mean()) / (every.std() + 1e-4), clipped(clip))


SURROGATES = {f.__name__: f for f in (reinforce, rloo, remax, opo, reinforce_pp, reinforce_pp_baseline)}

VARIANTS = {
    "reinforce": [{}, {"baseline": "none"}, {"group_size": 3, "kl": 0.1}],
    "rloo": [{}, {"clip": (0.2, 0.2), "kl": 0.0}],
    "remax": [{}, {"kl": 0.1}],
    "reinforce_pp": [{}, {"gamma": 0.9}],
}
