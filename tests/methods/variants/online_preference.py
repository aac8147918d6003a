VARIANTS = {
    "online_dpo": [{}, {"ties": "random"}],
    "online_ipo": [{}, {"normalise": "length"}],
}
