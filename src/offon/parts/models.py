"""Which model, and what it is needed for. From the needs of its parts a stage's models are derived, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelRef:
    """A model by its role. `kind` is one of

    self      the learner that reads this, live
    start     the learner as it was when the stage began (adapter off, or a frozen copy)
    artefact  another model, frozen, named by the recipe (a teacher, an earlier stage)
    """

    kind: Literal["self", "start", "artefact"]
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.kind


SELF = ModelRef("self")
SELF_START = ModelRef("start")


def Artefact(name: str) -> ModelRef:
    return ModelRef("artefact", name)


@dataclass(frozen=True)
class Need:
    """What a part wants scored, by whom, under which view of the trajectory, and when.

    what   logp: log-probs of the response tokens; distribution: the whole next-token distribution (as hidden states)
    when   buffer: once, when the buffer is filled, without gradient, kept as the token signal `column`;
           loss: at each micro-batch, with gradient if the model is SELF
    """

    what: Literal["logp", "distribution"]
    model: ModelRef = SELF
    view: str = "train"
    when: Literal["buffer", "loss"] = "loss"

    @property
    def column(self) -> str:
        """The name of the token signal a buffer score is kept under: logp@teacher, logp@start/hint."""
        return f"{self.what}@{self.model}" + ("" if self.view == "train" else f"/{self.view}")
