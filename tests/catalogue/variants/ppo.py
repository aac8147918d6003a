VARIANTS = {"ppo": [{}, {"value_clip": None, "kl": 0.0, "lam": 1.0}]}
