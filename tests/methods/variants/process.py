VARIANTS = {
    "vineppo": [{"separator": 1, "continuations": 3}, {"separator": "w9", "continuations": 2}],
    "pav": [{"separator": 2, "continuations": 4}],
}
