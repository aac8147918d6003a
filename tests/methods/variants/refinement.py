VARIANTS = {
    "critique_revise": [{"asks": (" w5", " w6")}, {"asks": (" w5",), "trained": "chain"}],
    "score": [{"ask": " w5 w6"}, {"stage": "first", "ask": " w5"}],
    "critique_grpo": [{"group_size": 4, "asks": (" w5 w6",), "length": 8}],
}
