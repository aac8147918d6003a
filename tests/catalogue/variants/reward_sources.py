VARIANTS = {"train_reward_model": [{}, {"margin": "data", "centre": 0.0}, {"margin": 0.5}]}
MODIFIED = [
    ("grpo", {}, ("reward_model", {})),
    ("ppo", {}, ("reward_model", {"weight": 0.5})),
    ("rloo", {}, ("verifier", {"check": "regex", "pattern": "w1", "weight": 0.5})),
    ("grpo", {}, ("reward_weights", {"weights": {"verifier": 0.5}})),
]
