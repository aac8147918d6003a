"""Losses as their papers write them, over pairs (w, z) of a winner and a loser."""

import torch.nn.functional as F

from tests.catalogue.variants.preferences import dpo, ipo, u


def online_dpo(groups, **arguments):
    """Guo et al.: DPO on what was sampled and judged."""
    return dpo(groups)


def online_ipo(groups, normalise="none", **arguments):
    return ipo(groups, normalise)


def xpo(groups, alpha, **arguments):
    """Xie et al. eq. 4, divided by the number of pairs."""
    pairs = [pair for group in groups for pair in group.pairs]
    explored = sum(r.lp.sum() for group in groups for r in group.responses if "reference" in r.tags)
    preference = sum(-F.logsigmoid(0.1 * (u(w) - u(z))) for w, z in pairs)
    return (preference + alpha * explored) / len(pairs)


def nash_md(groups, kl="sequence", **arguments):
    """Munos et al. eq. 5: REINFORCE on preference and the KL of the response; TRL's score and kl terms."""
    losses = []
    for group in groups:
        for r in group.responses:
            won = r.member.signals["preference"]
            if kl == "sequence":
                losses.append(-(won - 0.1 * (r.old - r.at("logp@start")).sum()) * r.lp.sum())
            else:
                losses.append(-won * r.lp.sum() + 0.1 * ((r.lp - r.at("logp@start")).detach() * r.lp).sum())
    return sum(losses) / len(losses)


VARIANTS = {
    "online_dpo": [{}, {"ties": "random"}],
    "online_ipo": [{}, {"normalise": "length"}, {"mixture": 0.25}],
    "nash_md": [{}, {"kl": "token"}, {"mixture": 1.0, "by": "logistic"}],
    "xpo": [{"alpha": 0.1}, {"ties": "random", "alpha": 0.1}],
}
MODIFIED = [("online_dpo", {}, ("reward_model", {})), ("nash_md", {"by": "logistic"}, ("reward_model", {}))]
SURROGATES = {"online_dpo": online_dpo, "online_ipo": online_ipo, "xpo": xpo, "nash_md": nash_md}
