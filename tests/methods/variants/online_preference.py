VARIANTS = {
    "online_dpo": [{}, {"ties": "random"}],
    "online_ipo": [{}, {"normalise": "length"}],
    "nash_md": [{}, {"kl": "token"}, {"mixture": 1.0, "by": "logistic"}],
    "xpo": [{"alpha": 0.1}, {"ties": "random", "alpha": 0.1}],
}
