def mean(groups, loss, per="token"):
    """Over all tokens, or over sequences of their means."""
    responses = [r for group in groups for r in group.responses]
    if per == "sequence":
        return sum(loss(r).mean() for r in responses) / len(responses)
    return sum(loss(r).sum() for r in responses) / sum(len(r.lp) for r in responses)


def sft(groups, per="token"):
    return mean(groups, lambda r: -r.lp, per)


def dft(groups, per="token"):
    """-p: the probability itself, differentiated."""
    return mean(groups, lambda r: -r.lp.exp(), per)


def probability_family(groups, a=1.0, at_least=0.0, at_most=1.0):
    def f(r):
        p = r.lp.exp()
        inside = ((p >= at_least) & (p <= at_most)).detach()
        return inside * (-r.lp if a == 0 else (1 - p**a) / a)

    return mean(groups, f)


def iw_sft(groups, level="sequence", power=2.0):
    def f(r):
        d = (r.lp - r.at("logp@start")).detach()
        weight = (power * d.mean()).exp().clamp(0, 16) if level == "sequence" else d.exp().clamp(0.2, 1.8)
        return -weight * r.lp

    return mean(groups, f)


VARIANTS = {
    "sft": [{}, {"per": "sequence"}],
    "dft": [{}, {"per": "sequence"}],
    "probability_family": [{}, {"a": 0.0}, {"a": 5.0}, {"at_least": 0.05}, {"at_most": 0.2}],
    "psft": [{}],
    "asft": [{}, {"direction": "reverse"}],
    "iw_sft": [{}, {"level": "token"}],
    "unlikelihood": [{}],
}
SURROGATES = {"sft": sft, "dft": dft, "probability_family": probability_family, "iw_sft": iw_sft}
