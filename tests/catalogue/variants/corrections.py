MODIFIED = [
    ("grpo", {}, ("tis", {})),
    ("gspo", {"clip": (0.2, 0.2)}, ("mis", {"count": "kept", "high": 1.0})),
    ("reinforce_pp", {}, ("icepop", {})),
    ("cispo", {}, ("decoupled", {"beyond": "truncate"})),
    ("grpo", {}, ("kl_reward", {})),
    ("grpo", {}, ("kl_loss", {})),
    ("dr_grpo", {}, ("kl_loss", {"estimator": "k1", "over": "behavior"})),
    ("grpo", {}, ("pass_at_k", {})),
    ("grpo", {}, ("high_entropy", {})),
    ("grpo", {}, ("entropy_bonus", {})),
]
