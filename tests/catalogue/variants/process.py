"""Losses as their papers write them. A step is a span of its response; its value or score is read where it ends."""

import torch


def steps(r):
    return [span for span in r.member.spans if span.name == "step"]


def per_token(r, value_K):
    """Every token of step k gets the k-th value."""
    return torch.cat(
        [torch.full((s.end - s.start,), float(v)).double() for s, v in zip(steps(r), value_K, strict=True)]
    )


def to_go(r, reward_K, last=0.0):
    """Every token of step k gets what step k and those after it are rewarded, and a reward of the last token."""
    return per_token(r, [sum(reward_K[k:]) + last for k in range(len(reward_K))])


def others(value_G, i):
    rest = [v for j, v in enumerate(value_G) if j != i]
    return sum(rest) / len(rest)


def clipped(r, advantage, clip=0.2):
    ratio = (r.lp - r.old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def gained(r):
    """V after each step less V before it; the last step leads to the reward."""
    values = [r.member.signals["value"], *(s.signals["value"] for s in steps(r)[:-1]), r.reward]
    return per_token(r, [after - before for before, after in zip(values, values[1:], strict=False)])


def vineppo(groups, **arguments):
    """Kazemnejad et al. eq. 6: PPO on Monte Carlo advantages, whitened as PPO does, and a k3 penalty of 1e-4."""
    responses = [r for group in groups for r in group.responses]
    advantage = torch.cat([gained(r) for r in responses])
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-4)
    losses = [clipped(r, a) for r, a in zip(responses, advantage.split([len(r.lp) for r in responses]), strict=True)]
    d = torch.cat([r.at("logp@start") - r.lp for r in responses])
    return torch.cat(losses).mean() + 1e-4 * (d.exp() - 1 - d).mean()


def pav(groups, alpha=3.0, **arguments):
    """Setlur et al. eq. 5, with the leave-one-out return for Q."""
    losses = []
    for group in groups:
        rewards = [r.reward for r in group.responses]
        for i, r in enumerate(group.responses):
            losses.append(-(r.lp - r.old).exp() * (r.reward - others(rewards, i) + alpha * gained(r)))
    return torch.cat(losses).mean()


def score(r):
    return torch.stack([r.at("score@reward")[s.end - 1] for s in steps(r)]).double()


def grpo_process(groups, **arguments):
    """Shao et al. sec. 4.1.3."""
    losses = []
    for group in groups:
        rewards = [score(r).sigmoid() for r in group.responses]
        pooled = torch.cat(rewards)
        for r, own in zip(group.responses, rewards, strict=True):
            advantage = to_go(r, ((own - pooled.mean()) / (pooled.std() + 1e-4)).tolist())
            losses.append(clipped(r, advantage).mean())
    return sum(losses) / len(losses)


def pure(groups, baseline="token", verifiable=1.0, **arguments):
    """Cheng et al. eq. 6 to 8, with the baselines of the released code and its KL in the reward."""
    losses = []
    for group in groups:
        rewards = [2 * score(r).sigmoid() - 1 for r in group.responses]
        worst = [r * (-r / 0.1).softmax(0) for r in rewards]
        totals, outcomes = [w.sum() for w in worst], [r.reward for r in group.responses]
        for i, (r, own) in enumerate(zip(group.responses, worst, strict=True)):
            if baseline == "token":
                rate = others(totals, i) / others([len(q.lp) for q in group.responses], i)
                own = own - rate * torch.tensor([s.end - s.start for s in steps(r)])
            else:
                own = own - others([w.mean() for w in worst], i)
            penalty = 1e-3 * (r.old - r.at("logp@start")).double()
            advantage = to_go(r, own.tolist(), verifiable * (r.reward - others(outcomes, i)))
            advantage = advantage - penalty.flip(0).cumsum(0).flip(0)
            losses.append(clipped(r, advantage).mean())
    return sum(losses) / len(losses)


VARIANTS = {
    "prm": [{}, {"per": "solution", "after_error": "mask"}, {"last_step_only": True}],
    "prime": [{"keep": (0.0, 1.0)}, {"keep": (0.0, 1.0), "update": "before", "scale": "none"}],
    "vineppo": [{"separator": 1, "continuations": 3}, {"separator": "w9", "continuations": 2}],
    "pav": [{"separator": 2, "continuations": 4}],
    "grpo_process": [{"separator": 2}],
    "pure": [{"separator": 2}, {"separator": 1, "baseline": "step", "verifiable": 0.0}],
}
MODIFIED = [("vineppo", {"separator": 2, "continuations": 2}, ("reward_model", {}))]
SURROGATES = {"vineppo": vineppo, "pav": pav, "grpo_process": grpo_process, "pure": pure}
