"""Reward functions with TRL's signature, each with one habit."""

import os
import time

import numpy as np

calls = []


def length(prompts, completions, **columns):
    return [float(len(completion)) for completion in completions]


def uses_columns(prompts, completions, answer):
    return [float(completion == wanted) for completion, wanted in zip(completions, answer, strict=True)]


def shape(prompts, completions, **columns):
    """1 where prompt and completion are messages, 0 where both are text."""
    return [float(isinstance(p, list) + isinstance(c, list)) / 2 for p, c in zip(prompts, completions, strict=True)]


def batch_size(prompts, completions, **columns):
    return [len(completions)] * len(completions)


def odd(prompts, completions, **columns):
    values = {
        "nan": float("nan"),
        "inf": float("inf"),
        "none": None,
        "text": "1.0",
        "numpy": np.float32(0.5),
        "true": True,
    }
    return [values[completion] for completion in completions]


def fragile(prompts, completions, **columns):
    for completion in completions:
        if completion == "raise":
            raise ValueError("cannot read this")
        if completion == "hang":
            time.sleep(60)
        if completion == "crash":
            os._exit(3)
    return [1.0] * len(completions)


def short(prompts, completions, **columns):
    return [1.0]


def down(prompts, completions, **columns):
    raise ConnectionError("no server")


def with_content(prompts, completions, **columns):
    values = {
        "both": {"score": 0.5, "content": True},
        "score": {"score": 0},
        "odd": {"score": 1, "colour": 2},
        "missing": {"content": 1},
        "none": {"score": None, "reason": "mine"},
    }
    return [values.get(completion, 0.0) for completion in completions]


def nothing(prompts, completions, **columns):
    return None


def one_number(prompts, completions, **columns):
    return 1.0


def one_mapping(prompts, completions, **columns):
    return {"score": 1.0}


def abstains(prompts, completions, **columns):
    return [None] * len(completions)
