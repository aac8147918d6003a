"""What tests of rows with teachers share: models that differ, groups sampled from the student, rows by name."""

from __future__ import annotations

import functools

from offon.catalogue import registry
from offon.data.render import Renderer
from offon.models.mixture import Mixture
from offon.parts.context import Context, Step
from offon.train.loop import assign_credit
from offon.train.scoring import score, score_buffer, weigh
from offon.types import Sampling
from offon.types.batch import Batch
from tests.catalogue.cases import gradient
from tests.collect.support import Sampler
from tests.support import ParityTask, World, demonstrations, model, prompt_group, tokenizer

V = 14  # the vocabulary of the tests' tokenizer


@functools.cache
def world() -> World:
    """start is the learner itself, as at the first step; ema is not."""
    student, teacher, second = model(0), model(2), model(3)
    mixed = {
        "mix(0.3 teacher + 0.7 second)": Mixture((teacher, second), (0.3, 0.7), "probability"),
        "mix(0.3 teacher + 0.7 second, logit)": Mixture((teacher, second), (0.3, 0.7), "logit"),
        "mix(0.5 teacher + 0.5 teacher)": Mixture((teacher, teacher), (0.5, 0.5), "probability"),
        "mix(0.2 teacher + 0.8 self)": Mixture((teacher, student), (0.2, 0.8), "probability"),
    }
    return World(
        student, {"start": student, "teacher": teacher, "second": second, "ema(self, 0.05)": model(4), **mixed}
    )


def stage(row: str, **arguments):
    info = registry.get(row)
    usual = {"task": ParityTask(), "teacher": "teacher", "data": demonstrations()}
    inputs = {name: usual[name] for name in info.inputs if name not in arguments}
    return info.function(**inputs, **{k: v for k, v in arguments.items() if v is not None}).validate()


def learner(row: str, **arguments):
    (made,) = stage(row, **arguments).learners
    return made


@functools.cache
def context(index: int = 0) -> Context:
    sampler = Sampler(world().learner, dict(world().others))
    step = Step(index, 10, 0, "node", render=Renderer(tokenizer()))
    return Context(sampler, lambda groups, need: list(groups), lambda where: [], step)


def prompts(n: int = 6):
    return [prompt_group(item).replace(draw=draw) for draw, item in enumerate(ParityTask().items("train")[:n])]


def collected(row: str, given=None, index: int = 0, **arguments):
    """The groups of a buffer of the row, scored and credited."""
    made = stage(row, **arguments)
    groups = made.collect.given(sampling=Sampling(max_tokens=6))(context(index), prompts() if given is None else given)
    (only,) = made.learners
    for need in only.needs:
        if need.when == "buffer":
            groups = score_buffer(world()(need.model), groups, need, 10_000)
    return assign_credit(only, groups)


def gradient_of(row: str, groups, *, times: float = 1.0, **arguments):
    found = gradient(learner(row, **arguments), groups, world())
    return {name: times * g for name, g in found.items()}


def total(made, groups) -> float:
    """The weighted loss of a learner's first term."""
    batch = weigh(Batch.of(groups), made.terms)
    units, _ = made.terms[0].units(batch, score(world(), batch, made.needs))
    return float((units.detach() * batch.weights[made.terms[0].name]).sum())
