"""Which models a stage holds, derived from what its parts need. Nobody lists models by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offon.errors import ModelError
from offon.models.model import LoraSpec, Model
from offon.parts.models import SELF, SELF_START, ModelRef
from offon.parts.stage import Stage


@dataclass(frozen=True)
class WithoutAdapter:
    """A LoRA learner read with its adapter off: the model it started from, at no extra memory."""

    model: Model

    def hidden(self, layout):
        with self.model.adapter_off():
            return self.model.hidden(layout)

    def next_logits(self, hidden):
        with self.model.adapter_off():
            return self.model.next_logits(hidden)

    def over_vocabulary(self, *args, **kwargs):
        with self.model.adapter_off():
            return self.model.over_vocabulary(*args, **kwargs)

    def weights(self):
        raise ModelError(
            "a penalty on parameters needs the weights the learner started from, and a fresh adapter started from none",
            fix="train all weights (no lora), or anchor with kl_anchor",
        )


class Holdings:
    """The models of one stage by reference, loaded when first asked for.

    SELF is the learner. SELF_START is the learner with its adapter off when the adapter is new in this stage, else a
    frozen copy loaded from where the learner started.
    """

    def __init__(
        self,
        init: str | Path,
        artefacts: Mapping[str, str | Path],
        lora: LoraSpec | None = None,
        *,
        checkpoint: Path | None = None,
        device=None,
    ):
        self.init, self.artefacts, self.lora, self.device = init, artefacts, lora, device
        self.learner = Model.load(checkpoint or init, lora=None if checkpoint else lora, device=device)
        self._frozen: dict[ModelRef, Any] = {}

    def __call__(self, ref: ModelRef):
        if ref == SELF:
            return self.learner
        if ref not in self._frozen:
            self._frozen[ref] = self._load(ref)
        return self._frozen[ref]

    def _load(self, ref: ModelRef):
        if ref == SELF_START:
            if self.lora is not None and not is_adapter(self.init):
                return WithoutAdapter(self.learner)
            return _freeze(Model.load(self.init, device=self.device))
        model = Model.load(self.artefacts[ref.name], device=self.device)
        same_vocabulary(self.learner.tokenizer, model.tokenizer, str(ref))
        return _freeze(model)


def _freeze(model: Model) -> Model:
    model.hf.requires_grad_(False)
    return model


def is_adapter(path: str | Path) -> bool:
    return (Path(path) / "adapter_config.json").is_file()


def same_vocabulary(student, teacher, name: str) -> None:
    """A teacher grades the student's token ids: the same size is not enough, every id must mean the same token."""
    mine, theirs = student.get_vocab(), teacher.get_vocab()
    if mine != theirs:
        differing = [token for token in mine if theirs.get(token) != mine[token]]
        raise ModelError(
            f"{name} has another vocabulary than the learner",
            why=f"{len(mine)} and {len(theirs)} tokens; {len(differing)} of the learner's mean something else there"
            + (f", e.g. {differing[0]!r}" if differing else ""),
            fix="a teacher with the same tokenizer, or write its answers to a file and use sft with data: FILE",
        )


@dataclass(frozen=True)
class Held:
    """One line of the memory plan: a model, why and when it is held, and its bytes."""

    model: str
    role: str
    when: str
    parameters: int
    size_bytes: int


def plan(stage: Stage, sizes: Mapping[str, int], *, trained: int | None = None, lora: bool = False) -> list[Held]:
    """What a stage holds, when and how many bytes, from parameter counts alone (no weights are loaded).

    sizes: parameters of "self" and of each artefact. The learner costs 4 bytes a parameter, and for each trained one
    12 more: gradient and two AdamW moments, all float32. `trained` is the number of parameters that move.
    """
    moved = sizes["self"] if trained is None else trained
    lines = [Held("self", "learner: " + _uses(stage, SELF), "always", sizes["self"], 4 * sizes["self"] + 12 * moved)]
    others = {need.model for need in stage.needs} | set(stage.samplers)
    for ref in sorted(others - {SELF}, key=str):
        count = sizes["self"] if ref == SELF_START else sizes[ref.name]
        free = ref == SELF_START and lora
        when = "loss" if any(n.model == ref and n.when == "loss" for n in stage.needs) else "buffer"
        role = _uses(stage, ref) + (" (adapter off)" if free else "")
        lines.append(Held(str(ref), role, when, count, 0 if free else 4 * count))
    return lines


def _uses(stage: Stage, ref: ModelRef) -> str:
    uses = ["samples"] if ref in stage.samplers else []
    for need in stage.needs:
        if need.model == ref:
            under = "" if need.view == "train" else f" under view {need.view!r}"
            gradient = " with gradient" if ref == SELF and need.when == "loss" else ""
            uses.append(f"scores {need.what}{under} ({need.when}){gradient}")
    return ", ".join(uses)
