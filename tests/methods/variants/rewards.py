import torch


def grpo(groups, scale_rewards=True):
    """Shao et al. eq. 3 without KL: the clipped surrogate, advantages from the group's rewards by hand."""
    losses = []
    for group in groups:
        reward = torch.tensor([r.reward for r in group.responses], dtype=torch.float64)
        advantage = reward - reward.mean()
        if scale_rewards:
            advantage = advantage / (reward.std() + 1e-4)
        for response, a in zip(group.responses, advantage, strict=True):
            ratio = (response.lp - response.old).exp()
            losses.append(-torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).mean())
    return sum(losses) / len(losses)


VARIANTS = {"grpo": [{}, {"scale_rewards": False}]}
SURROGATES = {"grpo": grpo}
