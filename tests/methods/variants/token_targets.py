VARIANTS = {"sft": [{}, {"per": "sequence"}]}
