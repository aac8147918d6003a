VARIANTS = {"dpo": [{}, {"nll": 1.0}, {"nll": 1.0, "nll_per": "token"}, {"group_size": 4}]}
