"""Rows made ready for an optimizer step by the real loop: collected, scored and credited by one set of weights, then
trained at another, so that the learner differs from its start, from its sampler and from every other model.

A case is a row with arguments (tests/catalogue/variants) and perhaps a modifier. What it is given follows from what it
declares: a task, a teacher, and the kind of data its first collector provides.
"""

from __future__ import annotations

import atexit
import copy
import dataclasses
import functools
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from offon.catalogue import registry
from offon.catalogue.arguments import names_of
from offon.engines.api import Request
from offon.engines.native import NativeEngine
from offon.models.model import Model
from offon.parts.context import Context, Step
from offon.parts.models import SELF
from offon.parts.schedules import value_at
from offon.parts.stage import Learner, Stage
from offon.recipe.fields import NodeSettings, sampling_of
from offon.recipe.values import annotation_of
from offon.runs import RunDirectory
from offon.train.build import build_stage, prompts_of
from offon.train.loop import run_stage
from offon.train.models import ModelSet
from offon.train.optimizer_step import accumulate
from offon.train.scoring import prepare, score, step_loss, weigh
from offon.train.state import TrainState
from offon.types import Group, Producer, Source
from offon.types.batch import Batch
from tests.catalogue.variants import MODIFIED, VARIANTS
from tests.support import DATA, ParityTask, model, prompt_group, tokenizer

MODELS = {"teacher": 2, "second": 3}  # models a recipe could name, and the seeds of their weights
PROMPTS = 5  # groups of a step: enough for every denominator to differ


class Case(NamedTuple):
    """A row, its arguments, and a modifier with its arguments."""

    row: str
    arguments: Mapping[str, Any]
    modifier: tuple[str, Mapping[str, Any]] | None = None

    def __str__(self) -> str:
        """sft(per=sequence), grpo+hints(drop=True)."""

        def written(values: Mapping) -> str:
            return f"({','.join(f'{k}={v}' for k, v in values.items())})" if values else ""

        added = f"+{self.modifier[0]}{written(self.modifier[1])}" if self.modifier else ""
        return self.row + written(self.arguments) + added


CASES = [Case(name, arguments) for name in registry.names() for arguments in VARIANTS.get(name, [{}])]
CASES += [Case(*case) for case in MODIFIED]


@functools.cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="offon-contract-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def saved(seed: int) -> Path:
    """A tiny model's directory."""
    path = folder() / f"model-{seed}"
    model(seed).save(path)
    return path


@functools.cache
def scorer(seed: int) -> Path:
    """A tiny reward model's directory: the body of one of the models, and a head of its own."""
    path = folder() / f"scorer-{seed}"
    torch.manual_seed(seed)
    reward = Model.load(saved(seed), head="score", device="cpu")
    with torch.no_grad():
        reward.core.score.weight.normal_(std=0.3)
    reward.save(path)
    return path


@functools.cache
def importance(seed: int) -> Path:
    """A directory of weights that are none of a policy: the squares of a model's."""
    path = folder() / f"importance-{seed}"
    squares = model(seed)
    with torch.no_grad():
        for parameter in squares.core.parameters():
            parameter.square_()
    squares.save(path)
    return path


@functools.cache
def _loaded(path: str, head: str | None) -> Model:
    return Model.load(path, head=head, device="cpu")


def copied(path: str | Path, *, head: str | None = None, **options: Any) -> Model:
    """A model's directory, read and checked once for all cases; whoever asks gets weights of their own."""
    model = _loaded(str(path), head)
    return dataclasses.replace(model, hf=copy.deepcopy(model.hf))


class Copies(ModelSet):
    open = staticmethod(copied)


class Filled(TrainState):
    """A runtime that stops short of the update, and keeps what each learner would have been updated on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.given: list[tuple[Learner, list[Group]]] = []

    def update(self, learner: Learner, batch: Batch) -> None:
        self.given.append((learner, self.next_groups(learner)))


@dataclass(frozen=True)
class Ready:
    """One learner of a case, before its optimizer step."""

    case: Case
    stage: Stage
    learner: Learner
    groups: list[Group]
    models: Callable[[Any], Any]
    parameters: Mapping[str, torch.nn.Parameter]

    def batch(self, groups: Sequence[Group] | None = None) -> Batch:
        """Weighed and prepared."""
        batch = weigh(Batch.of(self.groups if groups is None else groups), self.learner.terms)
        return prepare(self.models, self.learner.terms, batch, None)

    @property
    def coefficients(self) -> dict[str, float]:
        """As at the first step; every term counts, also those a schedule starts at 0."""
        return coefficients(self.learner)


def stage_of(case: Case, settings: NodeSettings) -> tuple[Stage, list[Group]]:
    """The row with everything it may be given, of the kind it declares, and the groups it draws from. A case whose
    arguments say `data: None` leaves the data out."""
    info = registry.get(case.row)
    inputs = {name: case.arguments.get(name, name) for name in info.inputs}
    arguments = {name: value for name, value in case.arguments.items() if name not in info.inputs}
    arguments |= named(info, arguments)
    given = {name: value for name, value in inputs.items() if value is not None}
    if "data" in given:
        given["data"] = DATA[info.function(**given, **arguments).reads]()[:PROMPTS]
    if "task" in given:
        given["task"] = ParityTask()
    modifiers = [
        (name, {**values, **named(registry.get(name), values)}) for name, values in filter(None, [case.modifier])
    ]
    stage = build_stage(case.row, given, arguments, modifiers, sampling_of(settings), tokenizer())
    data, task = prompts_of(stage)
    return stage, list(data) if data is not None else [prompt_group(i) for i in task.items("train")[:PROMPTS]]


def named(info: registry.MethodInfo, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that name models or data: those that have to be given are, a model of MODELS or groups of that kind; a
    kind of data written in a case stands for such groups."""
    found = {}
    for name, parameter in info.arguments.items():
        names = names_of(annotation_of(parameter))
        if names and parameter.default is parameter.empty and name not in arguments:
            model = "reward" if names.edge == "reward" else "teacher"
            found[name] = model if names.what == "model" else DATA[names.what]()
        if names and arguments.get(name) in DATA:
            found[name] = DATA[names.what]()
    return found


def settings_of(**changes) -> NodeSettings:
    usual = {"init": str(saved(0)), "steps": 1, "learning_rate": 1e-3, "prompts_per_step": PROMPTS, "max_tokens": 6}
    return NodeSettings(**{**usual, **changes})


def runtime_of(case, settings: NodeSettings, kind: type[TrainState] = TrainState) -> tuple[Stage, TrainState]:
    stage, prompts = stage_of(case, settings)
    directory = tempfile.mkdtemp(dir=folder())
    node = RunDirectory.create(directory, recipe_text="", overwrite=True).node("stage")
    models = {"reward": scorer(4), "importance": importance(5), **{name: saved(seed) for name, seed in MODELS.items()}}
    held = Copies(stage, saved(0), models)
    return stage, kind(node, held, prompts, settings)


def move(runtime: TrainState, seed: int, scale: float = 0.05) -> None:
    """Add noise to every parameter of every learner."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameters in runtime.parameters.values():
            for parameter in parameters.values():
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))


@functools.cache
def ready(index: int) -> tuple[Ready, ...]:
    return ready_case(CASES[index])


def ready_case(case: Case) -> tuple[Ready, ...]:
    """The learners of a case. The sampler is not the start, and the learner is neither."""
    torch.manual_seed(0)
    stage, runtime = runtime_of(case, settings_of(), Filled)
    move(runtime, seed=1)
    run_stage(stage, runtime)
    move(runtime, seed=2)
    return tuple(
        Ready(case, stage, learner, groups, runtime.models.of(learner), runtime.parameters[learner.name])
        for learner, groups in runtime.given
    )


def coefficients(learner: Learner) -> dict[str, float]:
    return {
        t.name: t.coef if isinstance(t.coef, int | float) else value_at(t.coef, 0, 10) or 1.0 for t in learner.terms
    }


def gradient(learner, groups, world, *, max_tokens=None, batch=None, parameters=None) -> dict[str, Tensor]:
    """The gradient of one optimizer step."""
    batch = weigh(Batch.of(groups), learner.terms) if batch is None else batch
    assert batch.total_weight() > 0
    parameters = world.learner.train_parameters() if parameters is None else parameters
    for parameter in parameters.values():
        parameter.grad = None
    accumulate(world, learner, batch, coefficients(learner), max_tokens)
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in parameters.items()}


def gradient_of(ready: Ready, groups=None, **options) -> dict[str, Tensor]:
    groups = ready.groups if groups is None else groups
    return gradient(ready.learner, groups, ready.models, parameters=ready.parameters, **options)


def difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Largest error of a tensor over that tensor's norm, which counts as a hundredth of the largest at least: where it
    is smaller (the norms of queries and keys), it is what is left of parts that cancel, and has their rounding."""
    floor = 1e-2 * max(float(t.norm()) for t in a.values())
    return max(float((a[name] - b[name]).abs().max() / max(float(b[name].norm()), floor)) for name in a)


# --- the loss as a function of scores, in float64 ------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A score that carries a gradient, as a leaf of its own: log-probs [M], or hidden states [M, D]."""

    need: Any
    value: Tensor
    per_token: bool  # one number per response token


class Loss:
    """A learner's step loss as a function of the scores that carry its gradient, in float64.

    Calling it at other scores keeps what the formula detaches at its first value (`frozen`), so that it may be
    differentiated by differences.
    """

    def __init__(self, ready: Ready, batch: Batch | None = None):
        self.ready = ready
        self.batch = ready.batch() if batch is None else batch
        found = score(ready.models, self.batch, ready.learner.needs)
        self.given = {need: in_double(value) for need, value in found.items()}
        self.leaves = [
            Leaf(need, value, value.shape == (self.batch.n_tokens,))
            for need, score in self.given.items()
            if has_graph(found[need])
            for value in [leaf_of(score)]
        ]
        self.tape: list[Tensor] = []

    def __call__(self, values: Sequence[Tensor] | None = None, *, frozen: bool = True) -> Tensor:
        values = [leaf.value for leaf in self.leaves] if values is None else values
        scores = dict(self.given)
        for leaf, value in zip(self.leaves, values, strict=True):
            scores[leaf.need] = with_value(self.given[leaf.need], value)
        with detached_stays(self.tape) if frozen else nullcontext():
            loss, _ = step_loss(self.ready.learner.terms, self.batch, scores, self.ready.coefficients)
        return loss

    def gradient(self, values: Sequence[Tensor] | None = None) -> list[Tensor]:
        values = [leaf.value for leaf in self.leaves] if values is None else values
        values = [value.detach().clone().requires_grad_() for value in values]
        loss = self(values, frozen=False)
        if not loss.requires_grad:
            return [torch.zeros_like(value) for value in values]
        found = torch.autograd.grad(loss, values, allow_unused=True)
        return [torch.zeros_like(v) if g is None else g for g, v in zip(found, values, strict=True)]


def has_graph(value: Any) -> bool:
    return bool(getattr(value, "hidden", value).requires_grad)


def leaf_of(value: Any) -> Tensor:
    return getattr(value, "hidden", value)


def with_value(score: Any, value: Tensor) -> Any:
    return dataclasses.replace(score, hidden=value) if hasattr(score, "hidden") else value


def in_double(value: Any) -> Any:
    if not hasattr(value, "hidden"):
        return value.detach().double() if value.is_floating_point() else value
    if not value.hidden.requires_grad:
        return value
    return dataclasses.replace(value, hidden=value.hidden.detach().double(), model=double(value.model))


@functools.cache
def double(model):
    """A model whose output head computes in float64."""
    return dataclasses.replace(model, hf=copy.deepcopy(model.hf).double())


@contextmanager
def detached_stays(tape: list[Tensor]):
    """Within it, what maths and terms detach is recorded if the tape is empty, else returned from the tape."""
    original, replayed = Tensor.detach, iter(tape) if tape else None

    def detach(tensor: Tensor) -> Tensor:
        if not sys._getframe(1).f_globals["__name__"].startswith(("offon.maths", "offon.parts")):
            return original(tensor)
        if replayed is not None:
            return next(replayed)
        tape.append(original(tensor).clone())
        return tape[-1]

    Tensor.detach = detach
    try:
        yield
    finally:
        Tensor.detach = original


# --- a context for collectors, without a run ---------------------------------------------------------------------

OFF_SAMPLE = 7  # the seed of the model that samples: another one than the learner, so that every ratio differs from 1
shared_model = functools.cache(model)


def context() -> Context:
    sampler = shared_model(OFF_SAMPLE)

    def generate(prompts, ref):
        requests = [Request(p.seen, dataclasses.replace(p.sampling, max_tokens=6), p.key) for p in prompts]
        source = Source.LEARNER if ref == SELF else Source.TEACHER
        answers = [
            p.answered(c.tokens, source, c.logp).replace(
                producer=Producer(model="x", sampling=p.sampling), id="/".join(map(str, p.key))
            )
            for p, c in zip(prompts, NativeEngine().generate(requests, sampler), strict=True)
        ]
        return [t.replace(text=sampler.tokenizer.decode(t.last_turn)) for t in answers]

    return Context(generate, lambda groups, need: groups, lambda where: [], Step(0, 10, 0, "node"))
