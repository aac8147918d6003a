"""GRPO and its kin: their cases, and each paper's own surrogate."""

import torch


def responses(groups):
    return [r for g in groups for r in g.responses]


def rewards(group, to="logp@start", kl=0.0):
    """[G] R_i = r_i - kl sum_t (log pi_sampled - log pi_start)."""
    return torch.stack(
        [r.reward - kl * (r.old - r.at(to) if kl else r.old * 0).sum() for r in group.responses]
    ).double()


def mean_std(reward, epsilon=1e-4):
    return (reward - reward.mean()) / (reward.std() + epsilon) if reward.max() > reward.min() else reward * 0


def ppo(ratio, advantage, low, high):
    return torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def token_ratios(response):
    return (response.lp - response.old).exp()


def geometric_ratio(response):
    return (response.lp - response.old).mean().exp()


def per_token(groups, advantages, objective):
    """-1/M sum_i sum_t objective(response, A), M tokens."""
    total = sum(objective(r, a).sum() for g in groups for r, a in zip(g.responses, advantages(g), strict=True))
    return -total / sum(len(r.lp) for r in responses(groups))


def per_response(groups, advantages, objective):
    """-1/N sum_i objective(response, A)."""
    total = sum(objective(r, a) for g in groups for r, a in zip(g.responses, advantages(g), strict=True))
    return -total / len(responses(groups))


def clipped(clip):
    return lambda r, a: ppo(token_ratios(r), a, *clip)


def clipped_mean(clip):
    return lambda r, a: ppo(token_ratios(r), a, *clip).mean()


def group_std(group):
    return mean_std(rewards(group))


def grpo(groups, group_size=8, clip=(0.2, 0.2), scale_rewards=True):
    advantages = group_std if scale_rewards else lambda g: rewards(g) - rewards(g).mean()
    return per_response(groups, advantages, clipped_mean(clip))


def dr_grpo(groups, group_size=8, clip=(0.2, 0.2), length=3000):
    objective = clipped(clip)
    return per_response(groups, lambda g: rewards(g) - rewards(g).mean(), lambda r, a: objective(r, a).sum() / length)


def dapo(groups, group_size=16, clip=(0.2, 0.28), max_rounds=4, overlong="punish", buffer=0.2, punishment=0.5):
    def advantages(g):
        limit = g.responses[0].member.producer.sampling.max_tokens
        fall = max(round(buffer * limit), 1)
        late = torch.tensor([min(max(len(r.lp) - (limit - fall), 0) / fall, 1.0) for r in g.responses])
        return mean_std(rewards(g) - (punishment * late if overlong == "punish" else 0))

    read = [[r for r in g.responses if overlong != "filter" or "truncated" not in r.tags] for g in groups]
    total = count = 0
    for g, kept in zip(groups, read, strict=True):
        for r, a in zip(g.responses, advantages(g), strict=True):
            if any(r is k for k in kept):
                total, count = total + ppo(token_ratios(r), a, *clip).sum(), count + len(r.lp)
    return -total / count


def gspo(groups, group_size=8, clip=(3e-4, 4e-4)):
    return per_response(groups, group_std, lambda r, a: ppo(geometric_ratio(r), a, *clip))


def gspo_token(groups, group_size=8, clip=(3e-4, 4e-4)):
    def objective(r, a):
        straight = r.lp.exp() / r.lp.exp().detach()
        return ppo(geometric_ratio(r).detach() * straight, a, *clip).mean()

    return per_response(groups, group_std, objective)


def gmpo(groups, group_size=8, log_clip=0.4):
    def objective(r, a):
        d = r.lp - r.old
        inside = d.clamp(-log_clip, log_clip)
        return a * (torch.min(d, inside) if a > 0 else torch.max(d, inside)).mean().exp()

    return per_response(groups, group_std, objective)


def cispo(groups, group_size=8, high=4.0, low=None, cap="relative"):
    lowest = 0.0 if low is None else 1 - low if cap == "relative" else low
    highest = 1 + high if cap == "relative" else high
    return per_token(groups, group_std, lambda r, a: token_ratios(r).clamp(lowest, highest).detach() * a * r.lp)


def sapo(groups, group_size=8, tau_pos=1.0, tau_neg=1.05):
    def objective(r, a):
        tau = tau_pos if a > 0 else tau_neg
        return (4 / tau * torch.sigmoid(tau * (token_ratios(r) - 1)) * a).mean()

    return per_response(groups, group_std, objective)


def covariances(groups):
    """One [T] per response, in order: (A - mean A)(lp - mean lp), detached."""
    every = responses(groups)
    advantage = torch.cat([a.expand(len(r.lp)) for g in groups for r, a in zip(g.responses, group_std(g), strict=True)])
    logp = torch.cat([r.lp for r in every]).detach()
    product = (advantage - advantage.mean()) * (logp - logp.mean())
    return product.split([len(r.lp) for r in every]), advantage.split([len(r.lp) for r in every])


def clip_cov(groups, group_size=8, share=2e-4, cov=(1.0, 5.0), clip=(0.2, 0.2)):
    """With share 1 nothing is random: every eligible token is left out (one that is clipped has no gradient anyway)."""
    assert share == 1.0
    total = count = 0
    for r, c, a in zip(responses(groups), *covariances(groups), strict=True):
        kept = ~((c > cov[0]) & (c < cov[1]))
        total, count = total + (kept * ppo(token_ratios(r), a, *clip)).sum(), count + len(c)
    return -total / count


def kl_cov(groups, group_size=8, share=2e-4, coef=1.0):
    covs, advantages = covariances(groups)
    every = torch.cat(covs)
    threshold = every.sort(descending=True).values[max(int(share * len(every)), 1) - 1]
    total = 0
    for r, c, a in zip(responses(groups), covs, advantages, strict=True):
        total = total + (token_ratios(r) * a - coef * (c >= threshold) * (r.lp - r.old).abs()).sum()
    return -total / len(every)


def gfpo(groups, group_size=16, keep=8, by="length", rest="zero", clip=(0.2, 0.28)):
    def advantages(g):  # with rest=drop the others are no longer there
        length = torch.tensor([float(len(r.lp)) for r in g.responses])
        order = torch.argsort(length if by == "length" else -rewards(g) / length, stable=True)[:keep]
        return torch.zeros(len(g.responses), dtype=torch.float64).index_copy(0, order, mean_std(rewards(g)[order]))

    return per_token(groups, advantages, clipped(clip))


def gdpo(groups, rewards={"reward": 1.0}, group_size=8, over="samples", clip=(0.2, 0.2)):  # noqa: B006
    def summed(g):
        each = {name: torch.tensor([float(r.member.signals[name]) for r in g.responses]).double() for name in rewards}
        return sum(weight * mean_std(each[name]) for name, weight in rewards.items())

    pairs = [(r, b) for g in groups for r, b in zip(g.responses, summed(g), strict=True)]
    every = torch.stack([b for r, b in pairs for _ in (r.lp if over == "tokens" else [0])])
    return per_response(groups, lambda g: (summed(g) - every.mean()) / (every.std() + 1e-4), clipped_mean(clip))


SURROGATES = {
    f.__name__: f for f in (grpo, dr_grpo, dapo, gspo, gspo_token, gmpo, cispo, sapo, clip_cov, kl_cov, gfpo, gdpo)
}

VARIANTS = {
    "grpo": [{}, {"scale_rewards": False}],
    "dapo": [{"group_size": 6}, {"group_size": 6, "overlong": "filter", "max_rounds": 1}],
    "gspo": [{"clip": (0.2, 0.2)}],  # the sampler of these tests is another model: at 3e-4 everything is clipped
    "gspo_token": [{"clip": (0.2, 0.2)}],
    "cispo": [{"high": 0.1}, {"high": 1.1, "low": 0.9, "cap": "absolute"}],
    "clip_cov": [{"share": 1.0, "cov": (0.0, 0.5)}],
    "kl_cov": [{"share": 0.2}],
    "gfpo": [{"group_size": 6, "keep": 4}, {"group_size": 6, "keep": 4, "rest": "drop", "by": "reward_per_token"}],
    "gdpo": [{}, {"rewards": {"reward": 0.5}, "over": "tokens"}],
}
