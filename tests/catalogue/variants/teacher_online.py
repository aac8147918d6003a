"""Rows with a teacher on own rollouts: their cases, and the surrogates of those that grade sampled tokens."""

import torch

VARIANTS = {
    "on_policy_distill": [{}, {"form": "sampled"}, {"kind": "jsd"}],
    "opd": [{}],
    "g_opd": [{}, {"strength": 0.5, "reference": "teacher"}],
    "gkd": [{"beta": beta, "on_policy": share} for beta, share in ((0.5, 0.5), (0.3, 0.0), (0.0, 1.0))],
    "context_opd": [{"view": "hint", "top": 4}, {"template": "w9 {prompt}", "top": 4, "rest": "tail"}],
    "opsd": [{"view": "hint", "template": None}, {"template": "w9 {prompt}", "beta": 0.0}],
    "minillm": [{}, {"returns": "own", "mix": 0.0}, {"text": "demonstrations", "text_share": 0.5}],
    "sdpo": [{"template": "{prompt} {sibling}", "top": 4}, {"template": "{prompt} {sibling}", "top": 4, "beta": 1.0}],
    "multi_teacher_opd": [{"teachers": {"even": "teacher", "odd": "second"}, "by": "domain"}],
}


def per_token(groups, objective):
    """-1/N sum_t objective(response), N tokens."""
    responses = [r for g in groups for r in g.responses]
    return -sum(objective(r).sum() for r in responses) / sum(len(r.lp) for r in responses)


def opd(groups):
    return per_token(groups, lambda r: (r.lp - r.old).exp() * (r.at("logp@teacher") - r.old))


def g_opd(groups, strength=1.25, reference="start"):
    def clipped(r):
        ref = r.at(f"logp@{reference}")
        advantage = strength * (r.at("logp@teacher") - ref) - (r.old - ref)
        ratio = (r.lp - r.old).exp()
        return torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)

    return per_token(groups, clipped)


def multi_teacher_opd(groups, teachers, by):
    def gated(r):
        route = f"route({by}: " + ", ".join(f"{value} {model}" for value, model in teachers.items()) + ")"
        proximal = torch.tensor(r.member.token_signals["logp@self"])
        weight = (proximal - r.old).exp()
        weight = weight * ((weight >= 0.5) & (weight <= 5.0))
        return weight * (r.lp - proximal).exp() * (r.at(f"logp@{route}") - r.old)

    return per_token(groups, gated)


SURROGATES = {f.__name__: f for f in (opd, g_opd, multi_teacher_opd)}
