VARIANTS = {
    "online_dpo": [{}, {"ties": "random"}],
    "online_ipo": [{}, {"normalise": "length"}],
    "xpo": [{"alpha": 0.1}, {"ties": "random", "alpha": 0.1}],
}
