VARIANTS = {"grpo": [{}, {"scale_rewards": False}]}
