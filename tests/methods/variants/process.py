VARIANTS = {
    "prm": [{}, {"per": "solution", "after_error": "mask"}, {"last_step_only": True}],
    "prime": [{"keep": (0.0, 1.0)}],
    "vineppo": [{"separator": 1, "continuations": 3}, {"separator": "w9", "continuations": 2}],
    "pav": [{"separator": 2, "continuations": 4}],
    "grpo_process": [{"separator": 2}],
    "pure": [{"separator": 2}, {"separator": 1, "baseline": "step", "verifiable": 0.0}],
}
