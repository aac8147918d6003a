"""Which models a stage holds, derived from what its parts need. Nobody lists models by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offon.errors import ModelError
from offon.models.loading import is_adapter
from offon.models.mixture import Mixture, Routed
from offon.models.model import LoraSpec, Model
from offon.models.vocabulary import same_vocabulary
from offon.parts.models import SELF, Artefact, Ema, Live, Mix, ModelRef, Route, Start
from offon.parts.stage import Learner, Stage
from offon.runs import tensors

AVERAGES = "averages"  # the running averages, in a checkpoint


class WithoutAdapter(Model):
    """A LoRA learner read with its adapter off: the model it started from, at no extra memory."""

    def flat(self, ids, positions, plan):
        with self.adapter_off():
            return super().flat(ids, positions, plan)

    def hidden(self, layout):
        with self.adapter_off():
            return super().hidden(layout)

    def next_logits(self, hidden):
        with self.adapter_off():
            return super().next_logits(hidden)

    def numbers(self, hidden):
        with self.adapter_off():
            return super().numbers(hidden)

    def fingerprint(self):
        """Of what it started from: the adapter moves, and is off."""
        return self._fingerprint(self.hf.state_dict().keys() - self.train_parameters().keys())

    def weights(self):
        raise ModelError(
            "a penalty on parameters needs the weights the learner started from, and a fresh adapter started from none",
            fix="train all weights (no lora), or anchor with kl_anchor",
        )


class ModelSet:
    """The models of one stage by reference. Learners and their running averages are held from the start; frozen models
    are loaded when first asked for.

    A learner as it was when the stage began is itself with its adapter off where the adapter is new in this stage, else
    a frozen copy loaded from where it started.
    """

    open = staticmethod(Model.load)  # how a directory becomes a model

    def __init__(
        self,
        stage: Stage,
        init: str | Path,
        artefacts: Mapping[str, str | Path],
        lora: LoraSpec | None = None,
        *,
        checkpoint: Path | None = None,
        checkpointing: bool = False,
        device=None,
    ):
        self.stage, self.init, self.artefacts, self.lora, self.device = stage, init, artefacts, lora, device
        self.checkpointing = checkpointing
        self.learners = {learner.name: self._learner(learner, checkpoint) for learner in stage.learners}
        self.averages = {ref: self(ref.of).copy_frozen() for ref in stage.models if isinstance(ref, Ema)}
        if checkpoint:
            for ref, saved in zip(self.averages, tensors.load(checkpoint / AVERAGES), strict=True):
                for name, mean, _ in self._averaged(ref):
                    mean.copy_(saved[name])
        self._frozen: dict[Any, Model] = {}
        self._fingerprints: dict[ModelRef, str] = {}

    def _learner(self, learner: Learner, checkpoint: Path | None) -> Model:
        path, lora = (self.place(checkpoint, learner.name), None) if checkpoint else (self._begins(learner), self.lora)
        return self.open(path, head=learner.head, lora=lora, checkpointing=self.checkpointing, device=self.device)

    def _begins(self, learner: Learner) -> str | Path:
        return self.artefacts[learner.init.name] if isinstance(learner.init, Artefact) else self.init

    def place(self, directory: Path, name: str) -> Path:
        """Where a learner is kept in a checkpoint or result: the stage's own model at its root, others below it."""
        return directory if name == self.stage.main.name else directory / name

    @property
    def learner(self) -> Model:
        """The model that the stage makes."""
        return self.learners[self.stage.main.name]

    def __call__(self, ref: ModelRef) -> Any:
        return self.of(self.stage.main)(ref)

    def of(self, learner: Learner) -> Callable[[ModelRef], Any]:
        """The models as a part of this learner names them."""
        return lambda ref: self._model(self.stage.seen_by(learner, ref))

    def _model(self, ref: ModelRef) -> Any:
        match ref:
            case Live(name):
                return self.learners[name or self.stage.main.name]
            case Start(name):
                return self._start(self.stage.learner(name or self.stage.main.name))
            case Artefact(name):
                return self._load(self.artefacts[name], None, ref)
            case Ema():
                return self.averages[ref]
            case Mix(models, weights, space):
                return Mixture(tuple(map(self._model, models)), weights, space)
            case Route(column, cases):
                return Routed(column, {value: self._model(inner) for value, inner in cases})
        raise TypeError(f"{ref!r} is no model")

    def _start(self, learner: Learner) -> Any:
        begins = self._begins(learner)
        if self.lora is not None and not is_adapter(begins):
            return WithoutAdapter(**vars(self.learners[learner.name]))
        return self._load(begins, learner.head, learner.name)

    def _load(self, path: str | Path, head: str | None, name: object) -> Model:
        if (path, head) not in self._frozen:
            model = self.open(path, head=head, device=self.device)
            same_vocabulary(self.learner.tokenizer, model.tokenizer, str(name))
            self._frozen[path, head] = _freeze(model)
        return self._frozen[path, head]

    def save_learners(self, directory: Path) -> None:
        """Every learner: the stage's own model in the directory itself, others in directories below it."""
        for name, model in self.learners.items():
            model.save(self.place(directory, name))

    def save(self, directory: Path) -> None:
        """Everything that moves, for a checkpoint."""
        self.save_learners(directory)
        means = [{name: mean for name, mean, _ in self._averaged(ref)} for ref in self.averages]
        tensors.save(means, directory / AVERAGES)

    def fingerprint(self, ref: ModelRef) -> str:
        """Of a model's weights as they are now; every weight is read, once between two steps."""
        if ref not in self._fingerprints:
            self._fingerprints[ref] = self(ref).fingerprint()
        return self._fingerprints[ref]

    @torch.no_grad()
    def stepped(self, learner: Learner) -> None:
        """A learner has moved: its running averages follow."""
        kept = self._fingerprints.items()
        self._fingerprints = {r: f for r, f in kept if not any(isinstance(part, Live | Ema) for part in r.walk())}
        for ref in self.averages:
            if self(ref.of) is self.learners[learner.name]:
                for _, mean, now in self._averaged(ref):
                    mean.lerp_(now, ref.rate)

    def _averaged(self, ref: Ema) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, mean, value now) of everything that moves."""
        means = dict(self.averages[ref].hf.named_parameters())
        return ((name, means[name].data, now.data) for name, now in self(ref.of).train_parameters().items())


def _freeze(model: Model) -> Model:
    model.hf.requires_grad_(False)
    return model


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

    sizes: parameters of "self" (what the node starts from) and of each artefact. A learner costs 4 bytes a parameter,
    and for each trained one 12 more: gradient and two AdamW moments, all float32. `trained` is the number of
    parameters that move (all, unless adapters are trained; `lora`: they are new in this stage). Mixtures and routes
    cost no more than their models.
    """
    lines = []
    for learner in stage.learners:
        size = _size(stage, learner, sizes)
        moved = size if trained is None else trained
        name = "self" if learner is stage.main else learner.name
        role = "learner: " + uses(stage, stage.seen_by(learner, SELF))
        lines.append(Held(name, role, "always", size, 4 * size + 12 * moved))
        for ref in stage.models:
            if isinstance(ref, Ema) and ref.of == stage.seen_by(learner, SELF):
                lines.append(Held(str(ref), uses(stage, ref), "always", size, 4 * moved))
    read = [ref for root in (*stage.samplers, *(n.model for n in stage.needs)) for ref in root.walk()]
    for ref in sorted({ref for ref in read if isinstance(ref, Start | Artefact)}, key=str):
        count = (
            _size(stage, stage.learner(ref.name or stage.main.name), sizes)
            if isinstance(ref, Start)
            else sizes[ref.name]
        )
        free = isinstance(ref, Start) and lora
        when = "loss" if any(ref in need.model.walk() and need.when == "loss" for need in stage.needs) else "buffer"
        role = uses(stage, ref) + (" (adapter off)" if free else "")
        lines.append(Held(str(ref), role, when, count, 0 if free else 4 * count))
    return lines


def _size(stage: Stage, learner: Learner, sizes: Mapping[str, int]) -> int:
    return sizes[learner.init.name] if isinstance(learner.init, Artefact) else sizes["self"]


def uses(stage: Stage, ref: ModelRef) -> str:
    uses = ["samples"] if any(ref in sampler.walk() for sampler in stage.samplers) else []
    for need in stage.needs:
        if ref in need.model.walk():
            under = "" if need.view == "train" else f" under view {need.view!r}"
            inside = "" if need.model == ref else f" in {need.model}"
            gradient = " with gradient" if isinstance(ref, Live) and need.model == ref and need.when == "loss" else ""
            uses.append(f"scores {need.what}{under} ({need.when}){gradient}{inside}")
    return ", ".join(uses)
