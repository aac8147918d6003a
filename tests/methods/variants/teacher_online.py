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
