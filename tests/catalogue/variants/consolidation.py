MODIFIED = [
    ("grpo", {}, ("kl_anchor", {})),
    ("sft", {}, ("ewc", {"fisher": "importance", "coef": 10.0})),
    ("sft", {}, ("ewc", {"fisher": "importance", "coef": 10.0, "to": "second"})),
    ("sft", {}, ("replay", {"share": 0.5})),
    ("grpo", {}, ("replay", {"share": 0.5})),
    ("dpo", {}, ("replay", {"share": 0.5, "coef": 0.3})),
]
