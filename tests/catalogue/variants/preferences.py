"""Losses as their papers write them, over pairs (w, z) of a winner and a loser."""

import torch
import torch.nn.functional as F


def u(r, normalise="none"):
    """log pi(y) - log pi_ref(y), summed or per token."""
    total = r.lp.sum() - r.at("logp@start").sum()
    return total / len(r.lp) if normalise == "length" else total


def over_pairs(groups, loss):
    pairs = [pair for group in groups for pair in group.pairs]
    return sum(loss(w, z) for w, z in pairs) / len(pairs)


def likelihood(groups, per):
    pairs = [pair for group in groups for pair in group.pairs]
    if per == "token":
        return -sum(w.lp.sum() for w, _ in pairs) / sum(len(w.lp) for w, _ in pairs)
    return -sum(w.lp.mean() if per == "pair" else w.lp.sum() for w, _ in pairs) / len(pairs)


def dpo(groups, nll=0.0, nll_per="pair", normalise="none", **inputs):
    """Rafailov et al. eq. 7, with the likelihood term of iterative RPO (per pair) or over all chosen tokens."""
    preference = over_pairs(groups, lambda w, z: -F.logsigmoid(0.1 * (u(w, normalise) - u(z, normalise))))
    return preference + nll * likelihood(groups, nll_per)


def cdpo(groups, smoothing=0.1):
    def loss(w, z):
        h = 0.1 * (u(w) - u(z))
        return -(1 - smoothing) * F.logsigmoid(h) - smoothing * F.logsigmoid(-h)

    return over_pairs(groups, loss)


def robust_dpo(groups, flipped=0.1):
    def loss(w, z):
        h = 0.1 * (u(w) - u(z))
        return (-(1 - flipped) * F.logsigmoid(h) + flipped * F.logsigmoid(-h)) / (1 - 2 * flipped)

    return over_pairs(groups, loss)


def ipo(groups, normalise="none"):
    return over_pairs(groups, lambda w, z: (u(w, normalise) - u(z, normalise) - 1 / (2 * 0.1)) ** 2)


def orpo(groups, nll_per="token"):
    """Hong et al. eq. 6 and 7, odds from the geometric mean probability."""

    def log_odds(r):
        p = r.lp.mean().exp()
        return (p / (1 - p)).log()

    ratio = over_pairs(groups, lambda w, z: -F.logsigmoid(log_odds(w) - log_odds(z)))
    return likelihood(groups, nll_per) + 0.1 * ratio


def simpo(groups):
    return over_pairs(groups, lambda w, z: -F.logsigmoid(2.0 * (w.lp.mean() - z.lp.mean()) - 0.5))


def cpo(groups):
    preference = over_pairs(groups, lambda w, z: -F.logsigmoid(0.1 * (w.lp.sum() - z.lp.sum())))
    return preference + likelihood(groups, "token")


def slic(groups):
    return over_pairs(groups, lambda w, z: torch.relu(1 - w.lp.sum() + z.lp.sum()) - 0.5 * w.lp.sum())


def gpo(groups, link="square"):
    f = {
        "logistic": lambda h: (1 + (-h).exp()).log(), "square": lambda h: (1 - h) ** 2,
        "hinge": lambda h: torch.relu(1 - h), "exponential": lambda h: (-h).exp(),
        "truncated_square": lambda h: torch.relu(1 - h) ** 2,
        "savage": lambda h: 1 / (1 + h.exp()) ** 2,
    }[link]  # fmt: skip
    return over_pairs(groups, lambda w, z: f(0.1 * (u(w) - u(z))))


def labelled(groups):
    return [r for group in groups for r in group.responses if "mismatched" not in r.tags]


def bco(groups):
    """Jung et al. eq. 12 with the threshold of this batch."""
    responses = labelled(groups)
    reward = torch.stack([0.1 * u(r) for r in responses])
    delta = reward.mean().detach()
    sign = torch.tensor([1.0 if "desirable" in r.tags else -1.0 for r in responses], dtype=reward.dtype)
    return -F.logsigmoid(sign * (reward - delta)).mean()


def plackett_luce(groups, reduce="per_group"):
    """The ranking's likelihood, one choice after the other; the data are listed from best to worst."""
    total = 0.0
    for group in groups:
        left = [0.1 * u(r) for r in group.responses]
        choices = len(left) - 1
        loss = 0.0
        while len(left) > 1:
            loss = loss - torch.stack(left).log_softmax(0)[0]
            left = left[1:]
        total = total + (loss / choices if reduce == "per_choice" else loss)
    return total / len(groups)


VARIANTS = {
    "dpo": [
        {}, {"nll": 1.0}, {"nll": 1.0, "nll_per": "token"}, {"nll": 1.0, "nll_per": "sum"}, {"normalise": "length"},
        {"group_size": 4, "data": None},
    ],
    "cdpo": [{}],
    "robust_dpo": [{}],
    "ipo": [{}, {"normalise": "length"}],
    "orpo": [{}, {"nll_per": "pair"}],
    "simpo": [{}],
    "cpo": [{}],
    "slic": [{}],
    "gpo": [{"link": link} for link in ("square", "hinge", "exponential", "truncated_square", "savage", "logistic")],
    "kto": [{}, {"desirable": 1.5}],
    "bco": [{}],
    "plackett_luce": [{}, {"reduce": "per_choice"}],
}  # fmt: skip
SURROGATES = {
    "dpo": dpo, "cdpo": cdpo, "robust_dpo": robust_dpo, "ipo": ipo, "orpo": orpo, "simpo": simpo, "cpo": cpo,
    "slic": slic, "gpo": gpo, "bco": bco, "plackett_luce": plackett_luce,
}  # fmt: skip
