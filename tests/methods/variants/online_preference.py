VARIANTS = {"online_dpo": [{}, {"ties": "random"}]}
