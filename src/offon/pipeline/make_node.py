"""The toolbox of a node that makes data or weights: it collects in parts that survive a stop, and records all of it.

A part is written before the next is begun, in NODE/work, so that a node that was stopped goes on after the last of
them. Sampling depends on (seed, node, draw, member) alone: what a stop lost is sampled again, the same.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from offon.catalogue.toolbox import MakeContext, Weights
from offon.collect import Collector
from offon.collect.signals.verify import verdicts
from offon.data import Renderer
from offon.engines.api import Engine
from offon.errors import DataError, Interrupted, ModelError
from offon.models.adapters import merged
from offon.models.loading import has_adapter, load_tokenizer
from offon.models.model import Model
from offon.models.vocabulary import same_vocabulary
from offon.parts.context import Context, Step, permuted
from offon.parts.models import SELF, Artefact, Live, ModelRef, Start
from offon.recipe.fields import MakeSettings
from offon.runs import NodeDirectory, atomic, trajectories
from offon.tasks.unscored import Unscored
from offon.train.build import check_prompts
from offon.train.context import SamplerContext
from offon.train.scoring import layout_of
from offon.types import Group, Sampling, Trajectory

DATA = "data.jsonl"
WORK = "work"  # below the node's directory, until it is done
NO_END = "truncated: it has no end to learn"
UNCOMPARED = "nothing is left to compare it with"


class FrozenModels:
    """The models of a node that trains none, by reference, loaded when first asked for. SELF is the node's init."""

    def __init__(self, init: Path | None, artefacts: Mapping[str, Path]):
        self.init, self.artefacts = init, artefacts
        self._loaded: dict[Path, Model] = {}
        self._fingerprints: dict[Path, str] = {}

    def path(self, ref: ModelRef) -> Path:
        match ref:
            case Live() | Start():
                return self.init
            case Artefact(name):
                return self.artefacts[name]
        raise ModelError(
            f"{ref} is no model that a node without a learner has", fix="its init, teacher or named models"
        )

    def __call__(self, ref: ModelRef) -> Model:
        path = self.path(ref)
        if path not in self._loaded:
            model = Model.load(path)
            model.hf.requires_grad_(False)
            if self.init is not None:
                same_vocabulary(load_tokenizer(self.init), model.tokenizer, str(ref))
            self._loaded[path] = model
        return self._loaded[path]

    def fingerprint(self, ref: ModelRef) -> str:
        """Read once: these weights do not move."""
        path = self.path(ref)
        if path not in self._fingerprints:
            self._fingerprints[path] = self(ref).fingerprint()
        return self._fingerprints[path]

    @property
    def read(self) -> dict[str, Path]:
        """The models whose fingerprint was asked for, by it: those that wrote something."""
        return {fingerprint: path for path, fingerprint in self._fingerprints.items()}

    def named(self) -> dict[str, str]:
        """The same by names that do not move: "" for the init, else the artefact's."""
        names = {path: name for name, path in self.artefacts.items()} | ({self.init: ""} if self.init else {})
        return {fingerprint: names[path] for path, fingerprint in self._fingerprints.items()}

    def recall(self, named: Mapping[str, str]) -> None:
        """Of models that wrote something before a stop, and need not be loaded again."""
        self._fingerprints |= {self.artefacts.get(name, self.init): mark for mark, name in named.items()}

    @property
    def any_path(self) -> Path:
        """The init, or else the first of the others: where a tokenizer is."""
        return self.init or next(iter(self.artefacts.values()))

    @property
    def learner(self) -> Model:
        return self(SELF)


class MakeRunner(MakeContext):
    """The toolbox of one node, while it runs. `cost` counts what was spent, before a stop too."""

    def __init__(
        self,
        node: NodeDirectory,
        directory: Path,
        models: FrozenModels,
        settings: MakeSettings,
        sampling: Sampling,
        prompts: Callable[[], Sequence[Group]],
        tokenizer: Any,
        *,
        engine: Engine,
        progress: Callable[[dict[str, Any]], None],
        interrupted: Callable[[], bool],
    ):
        self.node, self.directory, self.models, self.settings = node, directory, models, settings
        self.seed, self.tokenizer, self._sampling, self._prompts = settings.seed, tokenizer, sampling, prompts
        self._engine, self._progress, self._interrupted = engine, progress, interrupted
        self._parts = self._draws = 0
        self._stops: set[int] = set()  # of the models whose weights were read
        self.measured = False  # whether what it makes is a model to be measured
        self._open: set[str] = set()  # ids of what was collected and has no fate yet
        self.cost: Counter = Counter()
        self.unscored = Unscored(settings.unscored, [], Counter(), node.name)

    # --- collecting ----------------------------------------------------------------------------------------------

    def collect(self, collector: Collector, groups: list[Group] | None = None) -> list[Group]:
        collector = collector.given(sampling=self._sampling, tokenizer=self.tokenizer)
        prompts = self._all_prompts() if groups is None else [self._numbered(group) for group in groups]
        check_prompts(collector, prompts, self.tokenizer, self.node.name)
        size, made = self.settings.prompts_per_buffer, []
        for start in range(0, len(prompts), size):
            self._progress({"node": self.node.name, "step": start, "steps": len(prompts)})
            made += self._part(collector, prompts[start : start + size])
        self._open |= {trajectory.id for trajectory in _everyone(made)}
        return made

    def _all_prompts(self) -> list[Group]:
        """The training prompts in the order of the seed, as many as asked for, each once."""
        groups = self._prompts()
        order = [permuted(len(groups), self.seed, draw) for draw in range(self.settings.prompts or len(groups))]
        return [self._numbered(groups[index]) for index in dict.fromkeys(order)]

    def _numbered(self, group: Group) -> Group:
        if group.draw >= 0:  # came from an earlier collect of this node
            return group
        draw, self._draws = self._draws, self._draws + 1
        members = (m.replace(id=f"{self.node.name}/{draw}/{i}") for i, m in enumerate(group.members))
        return group.replace(draw=draw, members=tuple(members))

    def _part(self, collector: Collector, groups: list[Group]) -> list[Group]:
        path = self.node.path / WORK / f"part-{self._parts:06d}.parquet"
        self._parts += 1
        costs = path.with_suffix(".json")
        if not (path.exists() and costs.exists()):  # a part of a folder that was half removed is none
            if self._interrupted():
                raise Interrupted(
                    f"interrupted after part {self._parts - 1}",
                    where=self.node.name,
                    kept="what was made so far; run again with --resume",
                )
            cost: Counter = Counter()
            groups = collector(self._context(cost), groups)
            cost["verifier_calls"] += sum(map(verdicts, _everyone(groups)))
            judged = {"recent": self.unscored.recent, "reasons": dict(self.unscored.reasons)}
            atomic.write_json(costs, {"cost": dict(cost), "wrote": self.models.named(), "judged": judged})
            trajectories.write(path, groups, node=self.node.name)
        known = atomic.read_json(costs)
        self.cost.update(known["cost"])
        self.models.recall(known["wrote"])
        self.unscored.recall(**known["judged"])
        return trajectories.read(path)

    def _context(self, cost: Counter) -> Context:
        calls = SamplerContext(
            self.node,
            self.models,
            self._engine,
            micro_batch_tokens=self.settings.micro_batch_tokens,
            cost=cost,
            count=lambda metrics: None,
            progress=lambda *_: None,
        )
        step = Step(0, 1, self.seed, self.node.name, render=Renderer(self.tokenizer))
        judged = partial(self.unscored, first=True)
        return Context(partial(calls.generate, step=0), calls.score, calls.memory, step, judged)

    # --- handing over --------------------------------------------------------------------------------------------

    def write(self, groups: list[Group]) -> None:
        groups = [group.drop([bool(m.text.strip()) for m in group.members], "says nothing") for group in groups]
        groups = [group.drop(["truncated" not in m.tags for m in group.members], NO_END) for group in groups]
        compared = any(group.comparisons for group in groups)
        if compared:
            groups = [group.drop([bool(group.comparisons)] * len(group.members), UNCOMPARED) for group in groups]
        self.record(groups, "kept")
        self.write_rows(row for group in groups for row in (_pairs if compared else _demonstrations)(group))

    def write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        rows = list(rows)
        if not rows:
            raise DataError("nothing is left to learn from", where=self.node.name, fix="see why in the ledger's fates")
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        (Path(self.directory) / DATA).write_text(text, encoding="utf-8")

    def record(self, groups: list[Group], fate: str) -> None:
        self.node.write_buffer(max(self.node.buffers(), default=-1) + 1, groups, fate=fate)
        self._open -= {trajectory.id for trajectory in _everyone(groups)}

    def weights(self, model: ModelRef) -> Weights:
        same_vocabulary(self.tokenizer, load_tokenizer(self.models.path(model)), str(model))
        return {name: p.detach().clone() for name, p in self._merged(model).named_parameters()}

    def squared_gradients(self, groups: list[Group]) -> Weights:
        return mean_squared_gradients(self._merged(SELF), groups)

    def save(self, weights: Weights, like: ModelRef, *, measure: bool = True) -> None:
        self.measured = measure
        hf = self._merged(like)
        with torch.no_grad():
            for name, parameter in hf.named_parameters():
                parameter.copy_(weights[name])
        model = Model.wrap(hf, load_tokenizer(self.models.path(like)), check=False, device="cpu")
        model.stop_at(self._stops)  # where any of the models it is made of ends a response
        model.save(self.directory)

    def _merged(self, ref: ModelRef) -> torch.nn.Module:
        """A transformers model of its own, in float32, with its adapter (if it has one) merged."""
        model = Model.load(self.models.path(ref), device="cpu", check=False)
        self._stops |= set(model.stop_ids)
        hf = model.hf
        return merged(hf) if has_adapter(hf) else hf

    def model(self, model: ModelRef) -> Model:
        return self.models(model)

    def finish(self) -> None:
        """Everything that was generated has a fate; what only a stopped node needs is deleted."""
        if self._open:
            raise DataError(
                f"{len(self._open)} of the trajectories it collected have no fate, {min(self._open)} among them",
                where=self.node.name,
                fix="toolbox.write (or record) all groups that collect returned; drop members with a reason",
            )
        shutil.rmtree(self.node.path / WORK, ignore_errors=True)


def mean_squared_gradients(hf: torch.nn.Module, groups: Sequence[Group]) -> Weights:
    """1/N sum_i (d log p(y_i | x_i) / d theta)^2 over the members, one backward pass each.

    The square of a batch's mean gradient is another number: near a minimum it is close to 0 while this is not.
    """
    model = Model.wrap(hf, check=True)
    parameters = model.train_parameters()
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    members = [member for group in groups for member in group.members]
    for member in members:
        model.hf.zero_grad()
        logp = model.logp(layout_of([member], "train"))
        logp[torch.from_numpy(member.trainable.copy())].sum().backward()
        for name, parameter in parameters.items():
            total[name] += parameter.grad.square() / len(members)
    return {name: value.cpu() for name, value in total.items()}


def _everyone(groups: Iterable[Group]) -> Iterable[Trajectory]:
    return (t for group in groups for t in (*group.members, *(t for t, _ in group.dropped)))


def _demonstrations(group: Group) -> list[dict[str, Any]]:
    """A row for each member, with the prompt that deployment sees, whatever was sampled under."""
    return [_row(group, member, completion=_answer(group, member)) for member in group.members]


def _pairs(group: Group) -> list[dict[str, Any]]:
    named = [(group.members[c.winner], group.members[c.loser], c.margin) for c in group.comparisons]
    return [
        _row(group, winner, loser, chosen=_answer(group, winner), rejected=_answer(group, loser))
        | ({} if margin is None else {"margin": margin})
        for winner, loser, margin in named
    ]


def _answer(group: Group, member: Trajectory) -> Any:
    plain = isinstance(group.item.prompt, str)
    return member.text if plain else [{"role": "assistant", "content": member.text}]


def _row(group: Group, member: Trajectory, loser: Trajectory | None = None, **columns: Any) -> dict[str, Any]:
    """prompt and answers as TRL has them, the item's own columns, and under `offon` who wrote the answer and how."""
    item, sampling = group.item, member.producer.sampling
    prompt = item.prompt if isinstance(item.prompt, str) else [dict(message) for message in item.prompt]
    known = None if member.behavior_logp is None else [float(logp) for logp in member.behavior_logp]
    written = {
        "id": member.id,
        "producer": member.producer.model,
        "sampling": None if sampling is None else vars(sampling),
        "signals": dict(member.signals),
        "tags": sorted(member.tags),
        "tokens": member.tokens.tolist(),
        "behavior_logp": known,
    } | ({} if loser is None else {"rejected_tokens": loser.tokens.tolist()})
    family = {"family": item.family} if item.family else {}
    return {**item.columns, **family, "prompt": prompt, **columns, "offon": written}
