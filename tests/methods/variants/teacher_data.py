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
