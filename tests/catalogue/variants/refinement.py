"""Losses as their papers write them. What is given of a response are its trainable tokens, without the asks."""

import torch


def critique_revise(groups, **arguments):
    return -torch.cat([r.lp for group in groups for r in group.responses]).mean()


def score(groups, phase="second", **arguments):
    """Kumar et al. eq. 3 and 4: REINFORCE on each attempt, leave-one-out; KL by its gradient d log pi."""
    losses = []
    for group in groups:
        attempts = []
        for r in group.responses:
            first, second = (span for span in r.member.spans if span.name == "turn")
            one, two = first.signals["reward"], r.reward
            earned = (one, two + 10 * (two - one)) if phase == "second" else (0.0, two)
            attempts.append((first.end, earned))
        for i, (r, (cut, earned)) in enumerate(zip(group.responses, attempts, strict=True)):
            rest = [other for j, (_, other) in enumerate(attempts) if j != i]
            first, second = (own - sum(o[n] for o in rest) / len(rest) for n, own in enumerate(earned))
            pull = (r.lp - r.at("logp@start")).detach() * r.lp
            held = 0.01 * pull.sum() + (0.1 * pull[:cut].sum() if phase == "first" else 0.0)
            losses.append(-first * r.lp[:cut].sum() - second * r.lp[cut:].sum() + held)
    return sum(losses) / len(losses)


def critique_grpo(groups, gamma=0.1, length=8, **arguments):
    """Zhang et al.: Dr. GRPO's sum for rollouts, f(p) = p / (p + gamma) for refinements, one mean as baseline."""
    losses = []
    for group in groups:
        mean = sum(r.reward for r in group.responses) / len(group.responses)
        for r in group.responses:
            p = r.lp.exp()
            weight = p / (p + gamma) if "refined" in r.tags else (r.lp - r.old).exp()
            losses.append(-(weight * (r.reward - mean)).sum() / length)
    return sum(losses) / len(losses)


VARIANTS = {
    "critique_revise": [{"asks": (" w5", " w6")}, {"asks": (" w5",), "trained": "chain"}],
    "score": [{"ask": " w5 w6"}, {"phase": "first", "ask": " w5"}],
    "critique_grpo": [{"group_size": 4, "asks": (" w5 w6",), "length": 8}],
}
SURROGATES = {"critique_revise": critique_revise, "score": score, "critique_grpo": critique_grpo}
