VARIANTS = {
    "on_policy_distill": [{}, {"form": "sampled"}, {"kind": "jsd"}],
    "opd": [{}],
    "g_opd": [{}, {"strength": 0.5, "reference": "teacher"}],
}
