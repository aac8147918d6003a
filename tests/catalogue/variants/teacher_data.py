"""Rows with a teacher on given prefixes: their cases, and the surrogates of those that read tokens only."""

VARIANTS = {
    "sequence_kd": [{}, {"group_size": 3}],
    "kd": [{}, {"data": None}, {"alpha": 1.0, "kd_temperature": 2.0}, {"skew": 0.1}],
    "topk_kd": [{"top": 4}, {"top": 4, "rest": "renormalised"}, {"top": 4, "rest": "raw"}],
    "rationale_distill": [{}],
    "context_distill": [{"view": "hint"}, {"view": "hint", "targets": "traces"}, {"template": "w9 {prompt}"}],
    "ensemble_kd": [
        {"teachers": ["teacher", "second"]},
        {"teachers": ["teacher", "second"], "kind": "reverse", "weights": [0.3, 0.7], "data": None},
    ],
}


def mean_nll(responses):
    return -sum(r.lp.sum() for r in responses) / sum(len(r.lp) for r in responses)


def sequence_kd(groups, group_size=1):
    return mean_nll([r for g in groups for r in g.responses])


def rationale_distill(groups, alpha=0.5):
    tagged = {tag: [r for g in groups for r in g.responses if tag in r.tags] for tag in ("label", "rationale")}
    return alpha * mean_nll(tagged["label"]) + (1 - alpha) * mean_nll(tagged["rationale"])


SURROGATES = {"sequence_kd": sequence_kd, "rationale_distill": rationale_distill}
