"""Which model, and what it is needed for. From the needs of its parts a stage's models are derived, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from offon.errors import ConfigError


class ModelRef:
    """A model by its role: one of the classes below. `inside` are the models that are run when it is, `within` the same
    role with every model it names replaced."""

    @property
    def inside(self) -> tuple[ModelRef, ...]:
        return ()

    def within(self, replace: Callable[[ModelRef], ModelRef]) -> ModelRef:
        return self

    def walk(self) -> Iterator[ModelRef]:
        """The reference and everything that is run when it is."""
        yield self
        for part in self.inside:
            yield from part.walk()


@dataclass(frozen=True)
class Live(ModelRef):
    """A learner of the stage as it is now. SELF, without a name, is the learner that a part belongs to; to a collector,
    the stage's own model."""

    name: str = ""

    def __str__(self) -> str:
        return self.name or "self"


@dataclass(frozen=True)
class Start(ModelRef):
    """A learner as it was when the stage began: adapter off, or a frozen copy."""

    name: str = ""

    def __str__(self) -> str:
        return f"start({self.name})" if self.name else "start"


@dataclass(frozen=True)
class Artefact(ModelRef):
    """Another model, frozen, named by the recipe: a teacher, an earlier stage, a reward model."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Ema(ModelRef):
    """The running average of a learner's weights: after each of its steps, ema += rate * (learner - ema).

    It begins as the learner began, and is part of its checkpoints. rate 1 is the learner, rate 0 is its start.
    """

    of: Live
    rate: float

    def __post_init__(self):
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"the rate of {self} is {self.rate}", fix="the share of the new weights, from 0 to 1")

    def within(self, replace) -> Ema:
        return Ema(replace(self.of), self.rate)

    def __str__(self) -> str:
        return f"ema({self.of}, {self.rate:g})"


@dataclass(frozen=True)
class Mix(ModelRef):
    """Several models read, or sampled from, as one, token by token.

        probability   p(v) = sum_k w_k p_k(v)
        logit         p(v) proportional to prod_k p_k(v)^w_k:  logits are averaged, a geometric mixture

    The weights sum to 1. The mixture is what a temperature is applied to.
    """

    models: tuple[ModelRef, ...]
    weights: tuple[float, ...]
    space: Literal["probability", "logit"] = "probability"

    def __post_init__(self):
        object.__setattr__(self, "models", tuple(self.models))
        object.__setattr__(self, "weights", tuple(map(float, self.weights)))
        if len(self.models) != len(self.weights) or abs(sum(self.weights) - 1) > 1e-6 or min(self.weights) < 0:
            raise ConfigError(
                f"a mixture of {len(self.models)} models has weights {self.weights}",
                fix="one weight per model, from 0 to 1, with sum 1",
            )

    @property
    def inside(self) -> tuple[ModelRef, ...]:
        return self.models

    def within(self, replace) -> Mix:
        return Mix(tuple(map(replace, self.models)), self.weights, self.space)

    def __str__(self) -> str:
        parts = " + ".join(f"{w:g} {model}" for model, w in zip(self.models, self.weights, strict=True))
        return f"mix({parts}{', logit' if self.space == 'logit' else ''})"


@dataclass(frozen=True)
class Route(ModelRef):
    """One model per item: `cases` names it by the value of an item's column (or "family").

    Route("family", {"maths": Artefact("maths"), "code": Artefact("coder")}) is a teacher for each domain. It scores,
    and does not sample.
    """

    column: str
    cases: Mapping[str, ModelRef] | tuple[tuple[str, ModelRef], ...]

    def __post_init__(self):
        if isinstance(self.cases, Mapping):
            object.__setattr__(self, "cases", tuple(self.cases.items()))

    @property
    def inside(self) -> tuple[ModelRef, ...]:
        return tuple(model for _, model in self.cases)

    def within(self, replace) -> Route:
        return Route(self.column, tuple((value, replace(model)) for value, model in self.cases))

    def __str__(self) -> str:
        return f"route({self.column}: {', '.join(f'{value} {model}' for value, model in self.cases)})"


SELF = Live()
SELF_START = Start()


@dataclass(frozen=True)
class Need:
    """What a part wants scored, by whom, under which view of the trajectory, and when.

    what   logp: log-probs of the response tokens; distribution: the whole next-token distribution (as hidden states);
           entropy: of the next-token distribution, nats, without gradient; logp_at: log-probs of the ids in the batch
           column `at` [M, K] in place of the response's token; value: a head's number at the state before token t;
           score: a head's number at token t, once it is written; parameters: the weights (of a term on parameters);
           importance: weights that are no model, how much each parameter of one matters (never negative)
    when   buffer: once, when the buffer is filled, without gradient, kept as the token signal `column`;
           step: on the whole step batch before it is split, without gradient, for a term's `prepare`;
           loss: at each micro-batch, with gradient if the model is SELF
    """

    what: Literal["logp", "distribution", "entropy", "logp_at", "value", "score", "parameters", "importance"]
    model: ModelRef = SELF
    view: str = "train"
    when: Literal["buffer", "step", "loss"] = "loss"
    at: str = ""

    @property
    def of_weights(self) -> bool:
        """Whether it is the numbers in a model's file, and nothing is computed with them."""
        return self.what in ("parameters", "importance")

    @property
    def column(self) -> str:
        """The name of the token signal a score is kept under: logp@teacher, logp@start/hint, value@critic."""
        return f"{self.what}@{self.model}" + ("" if self.view == "train" else f"/{self.view}")
