def sft(groups, per="token"):
    """Likelihood of every supervised token, or the mean over sequences of their means."""
    responses = [r for group in groups for r in group.responses]
    if per == "sequence":
        return -sum(r.lp.mean() for r in responses) / len(responses)
    return -sum(r.lp.sum() for r in responses) / sum(len(r.lp) for r in responses)


VARIANTS = {"sft": [{}, {"per": "sequence"}]}
SURROGATES = {"sft": sft}
