"""The exact rates of models on the second world, under the sampler that is diagnosed.

    strict, content, scaffold    the right responses, every one of them: three routes, three endings
    begun     the rest of the right response after its route
    placed    its rest after two states more
    several   two of these two states are improbable, and the worse alone does not explain how rare the rest is
    finished  sum over routes of the student's share times the teacher's probability of a right rest
    placebo   after two wrong states nothing is right any more: 0, unless a teacher may start over

N texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from offon.behavior.diagnosis.bottleneck import Barriers, Rule, several
from offon.engines.sampling import Columns, log_distribution
from offon.testbed.grammar import HINT, RIGHT_FORMAT, ROUTES, WRONG_FORMAT, Program
from offon.types import Item, Sampling

Rates = dict[str, np.ndarray]
FULL = Sampling()


@torch.no_grad()
def probability(model, tokenizer, pairs: Sequence[tuple[str, str]], sampling: Sampling = FULL) -> np.ndarray:
    """[N] exact probability of each completion after its text; texts of one length, completions too."""
    texts = [tokenizer(text).input_ids for text, _ in pairs]
    rest = [tokenizer(completion).input_ids for _, completion in pairs]
    ids = torch.tensor([a + b for a, b in zip(texts, rest, strict=True)])
    logits = model(input_ids=ids).logits[:, -len(rest[0]) - 1 : -1].double()
    columns = Columns.of([sampling] * logits[..., 0].numel())
    logp = log_distribution(logits.flatten(0, 1), columns).view_as(logits)
    return logp.gather(2, ids[:, -len(rest[0]) :, None])[:, :, 0].sum(1).exp().numpy()


def success(model, tokenizer, items: Sequence[Item], prompts: Sequence[str], sampling: Sampling = FULL) -> Rates:
    """strict and content, [P] each."""
    found = {"strict": np.zeros(len(items)), "content": np.zeros(len(items))}
    for route in ROUTES:
        for form in (f" {RIGHT_FORMAT}", f" {WRONG_FORMAT}", ""):
            pairs = [
                (prompt, f"{route} {item.columns['trace']}{form} {tokenizer.eos_token}")
                for item, prompt in zip(items, prompts, strict=True)
            ]
            p = probability(model, tokenizer, pairs, sampling)
            found["content"] += p
            found["strict"] += p * (form == f" {RIGHT_FORMAT}")
    return found


def true_rates(student, teacher, tokenizer, items: Sequence[Item], sampling: Sampling = FULL) -> Rates:
    """The rates that the rule reads. A family has its hint on all of its items or on none."""
    better, prompts = np.zeros(len(items)), [item.prompt for item in items]
    helped = [i for i, each in enumerate(items) if HINT in each.views]
    if helped:
        some = [items[i] for i in helped]
        better[helped] = success(student, tokenizer, some, [each.views[HINT] for each in some], sampling)["strict"]
    end, traces = f"{RIGHT_FORMAT} {tokenizer.eos_token}", [each.columns["trace"].split() for each in items]
    begun = [(f"{p} forward {t[0]} {t[1]}", f"{t[2]} {end}") for p, t in zip(prompts, traces, strict=True)]
    opened = [(f"{p} forward", f"{' '.join(t)} {end}") for p, t in zip(prompts, traces, strict=True)]
    each = [(f"{p} forward", t) for p, t in zip(prompts, traces, strict=True)]
    first, second = ([(" ".join([p, *t[:at]]), t[at]) for p, t in each] for at in (0, 1))
    states = [probability(student, tokenizer, pairs, sampling) for pairs in (first, second)]
    finished = np.zeros(len(items))
    for route in ROUTES:
        share = probability(student, tokenizer, [(prompt, route) for prompt in prompts], sampling)
        onward = [(f"{p} {route}", f"{' '.join(t)} {end}") for p, t in zip(prompts, traces, strict=True)]
        finished += share * probability(teacher, tokenizer, onward, sampling)
    after_route, placed = (probability(student, tokenizer, pairs, sampling) for pairs in (opened, begun))
    barriers = Barriers(np.sum([state < Rule().improbable for state in states], axis=0), np.min(states, axis=0))
    told = several(barriers, after_route, placed) if sampling.full_softmax else np.zeros(len(items), bool)
    return {
        **success(student, tokenizer, items, prompts, sampling),
        "better": better,
        "begun": after_route,
        "placed": placed,
        "several": told,
        "finished": finished,
        "placebo": np.zeros(len(items)),
    }


def starting_over(student, teacher, tokenizer, items: Sequence[Item], sampling: Sampling = FULL) -> Rates:
    """finished and placebo where a right response may follow a wrong beginning: the teacher goes on, or starts over.
    The placebo of a prompt begins with other prompts' states along the route its own responses begin with."""
    prompts, traces = [item.prompt for item in items], [item.columns["trace"] for item in items]
    end = f"{RIGHT_FORMAT} {tokenizer.eos_token}"
    anew = [f"forward {trace} {end}" for trace in traces]

    def over(begun: Sequence[str]) -> np.ndarray:
        pairs = [(f"{p} {b}", rest) for p, b, rest in zip(prompts, begun, anew, strict=True)]
        return probability(teacher, tokenizer, pairs, sampling)

    finished, placebo = np.zeros(len(items)), np.zeros(len(items))
    for route in ROUTES:
        share = probability(student, tokenizer, [(prompt, route) for prompt in prompts], sampling)
        onward = [(f"{p} {route}", f"{trace} {end}") for p, trace in zip(prompts, traces, strict=True)]
        finished += share * (probability(teacher, tokenizer, onward, sampling) + over([route] * len(items)))
        halves = [" ".join((route, *_program(item).trace(route)[:2])) for item in items]
        others = [halves[shift:] + halves[:shift] for shift in (5, 9, 14)]
        placebo += share * np.mean([over(begun) for begun in others], axis=0)
    return {"finished": finished, "placebo": placebo}


def _program(item: Item) -> Program:
    """What a prompt without hint asks: family x0 o1 o2 o3 ="""
    _, start, *ops, _ = item.prompt.split()
    return Program(start, tuple(ops))
