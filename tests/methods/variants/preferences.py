import torch.nn.functional as F


def dpo(groups, nll=0.0, nll_per="pair", **inputs):
    """Rafailov et al. eq. 7, with the likelihood term of iterative RPO (per pair) or over all chosen tokens."""
    pairs = [pair for group in groups for pair in group.pairs]

    def log_ratio(response):
        return response.lp.sum() - response.at("logp@start").sum()

    preference = -sum(F.logsigmoid(0.1 * (log_ratio(w) - log_ratio(l))) for w, l in pairs) / len(pairs)
    if nll_per == "pair":
        likelihood = -sum(w.lp.mean() for w, _ in pairs) / len(pairs)
    else:
        likelihood = -sum(w.lp.sum() for w, _ in pairs) / sum(len(w.lp) for w, _ in pairs)
    return preference + nll * likelihood


VARIANTS = {"dpo": [{}, {"nll": 1.0}, {"nll": 1.0, "nll_per": "token"}, {"group_size": 4, "data": None}]}
SURROGATES = {"dpo": dpo}
