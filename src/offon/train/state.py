"""What a running stage holds: models, engine, optimizer, buffer, counters; and how all of it survives a stop.

Order and sampling are pure functions of (seed, draw), so a checkpoint is weights, optimizer, the scored buffer and a
few counters, and a resumed run is the same run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from offon.collect.signals.verify import verdicts
from offon.data import Renderer
from offon.engines.api import Engine
from offon.engines.factory import create_engine
from offon.errors import DataError, NumericsError
from offon.parts.context import Context, Step, permuted
from offon.parts.models import SELF, ModelRef
from offon.parts.schedules import learning_rate_at, value_at
from offon.parts.stage import Learner
from offon.recipe.fields import NodeSettings, updates_of
from offon.runs import NodeDirectory, tensors, trajectories
from offon.runs.holes import digest, holes, require_whole_shards
from offon.tasks.unscored import Unscored
from offon.train.context import SamplerContext
from offon.train.distributed import add, rank_and_size
from offon.train.frozen_scores import FrozenScores, Remembered
from offon.train.models import ModelSet
from offon.train.optimizer_step import accumulate, apply, make_optimizer
from offon.train.watch import Watch
from offon.types import RIGHT, Group, Source, Trajectory
from offon.types.batch import Batch, source_counts


@dataclass
class Counters:
    """The counters a checkpoint keeps. `cursor` counts the steps taken from the current buffer."""

    step: int = 0
    draws: int = 0
    buffer: int = -1
    cursor: int = 0
    skipped_steps: int = 0
    cost: Counter = field(default_factory=Counter)
    tokens_by_source: Counter = field(default_factory=Counter)
    groups: Counter = field(default_factory=Counter)  # all_fail, all_pass, mixed, unscored members, truncated members
    off_policy: Counter = field(default_factory=Counter)  # sums over trained tokens: see _trained
    unscored: Counter = field(default_factory=Counter)  # by reason
    consumed: int = 0  # lines of consumption.jsonl
    shards: dict[str, str] = field(default_factory=dict)  # by buffer, the digest of its part of the ledger
    asked: list[list[int]] = field(default_factory=list)  # of the newest calls: how many to score, how many without

    def to_json(self) -> dict[str, Any]:
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Counters:
        kept: dict[str, Any] = {name: Counter(v) if isinstance(v, dict) else v for name, v in value.items()}
        return Counters(**kept)


SCORES = "scores"  # of a run: log-probs of rows under models that stay


class TrainState:
    """The edge of a stage's loop: it knows files, models and devices; the loop knows none of them."""

    def __init__(
        self,
        node: NodeDirectory,
        models: ModelSet,
        prompts: Sequence[Group],
        settings: NodeSettings,
        *,
        progress: Callable[[dict[str, Any]], None] = lambda event: None,
        interrupted: Callable[[], bool] = lambda: False,
        engine: Engine | None = None,
    ):
        if not prompts:
            raise DataError("the stage has no prompts to draw", where=node.name)
        self.node, self.models, self.prompts, self.settings = node, models, prompts, settings
        self.steps, self.updates = settings.steps, updates_of(settings)
        self.engine = engine or create_engine()
        self.state = Counters()
        self.buffer: list[Group] = []
        self.stage = models.stage
        self.parameters = {name: model.train_parameters() for name, model in models.learners.items()}
        self.optimizers = {name: make_optimizer(p, settings.weight_decay) for name, p in self.parameters.items()}
        self.scores = FrozenScores(node.run.path / SCORES, node.name, rank_and_size()[0])
        self._progress, self._interrupted = progress, interrupted
        self._metrics: dict[str, tuple[float, float]] = {}
        self._watch = Watch(
            node, settings, guided=any(getattr(p, "guide", None) for p in models.stage.collect.everything)
        )
        self._save_due = False
        self._started = time.perf_counter()

    # --- collect -----------------------------------------------------------------------------------------------

    def context(self) -> Context:
        render = Renderer(self.models.learner.tokenizer)
        step = Step(self.state.step, self.steps, self.settings.seed, self.node.name, self.more, render)
        calls = self.calls()
        generate = partial(calls.generate, step=self.state.step)
        return Context(generate, calls.score, calls.memory, step, partial(self._judged(), first=self.state.step == 0))

    def _judged(self) -> Unscored:
        state, where = self.state, f"{self.node.name}, step {self.state.step} of {self.steps}"
        return Unscored(self.settings.unscored, state.asked, state.unscored, where)

    def calls(self) -> SamplerContext:
        return SamplerContext(
            self.node,
            self.models,
            self.engine,
            micro_batch_tokens=self.settings.micro_batch_tokens,
            cost=self.state.cost,
            count=self._count,
            progress=self._generating,
        )

    def draw(self) -> list[Group]:
        return self.more(self.updates.buffer)

    def more(self, n: int) -> list[Group]:
        """The next n prompts in the data order, each with its draw number; external members get ids of their own."""
        first, self.state.draws = self.state.draws, self.state.draws + n
        return [self._drawn(draw) for draw in range(first, self.state.draws)]

    def _drawn(self, draw: int) -> Group:
        group = self.prompts[permuted(len(self.prompts), self.settings.seed, draw)]
        members = (m.replace(id=f"{self.node.name}/{draw}/{i}") for i, m in enumerate(group.members))
        return group.replace(draw=draw, members=tuple(members))

    # --- buffer ------------------------------------------------------------------------------------------------

    @property
    def buffer_is_spent(self) -> bool:
        return self.state.buffer < 0 or self.state.cursor >= self.updates.epochs * self._steps_per_pass

    @property
    def _steps_per_pass(self) -> int:
        """Steps over what there is: the last is smaller where fewer groups came than were asked for, and a buffer of
        none is one step that trains nothing, counted as skipped."""
        return max(1, -(-len(self.buffer) // self.updates.prompts_per_step))

    @property
    def buffer_is_fresh(self) -> bool:
        """No step has been taken from it: each learner's scores and credit are still to come."""
        return self.state.cursor == 0

    def fill(self, groups: list[Group]) -> None:
        """Take a collected buffer. Groups beyond those asked for are what a refill set aside: on record only."""
        self.buffer, self.state.cursor = groups[: self.updates.buffer], 0
        self._aside = groups[self.updates.buffer :]
        self.state.buffer += 1
        self._scored: set[str] = set()
        self._tally(groups)

    def annotated(self, learner: Learner) -> list[Group]:
        """The buffer with what the learner needs scored before its credit, under the names its parts use."""
        for need in learner.needs:
            kept = self.stage.named(need, learner)
            if need.when == "buffer" and kept.column not in self._scored:
                self.buffer = self.calls().score(self.buffer, kept)
                self._scored.add(kept.column)
        return swapped(self.buffer, self.stage.columns_of(learner))

    def credited(self, learner: Learner, groups: list[Group]) -> None:
        """Put the scored, credited buffer on record: all of it."""
        self.buffer = swapped(groups, self.stage.columns_of(learner))
        self._write_buffer([*self.buffer, *self._aside])

    def _write_buffer(self, groups: Sequence[Group]) -> None:
        self.state.shards[str(self.state.buffer)] = digest(self.node.write_buffer(self.state.buffer, groups))

    def next_groups(self, learner: Learner | None = None) -> list[Group]:
        """The groups of the next step, with the columns that the learner's parts read; every pass over the buffer after
        the first has an order of its own."""
        per_step, size = self.updates.prompts_per_step, len(self.buffer)
        passes, step = divmod(self.state.cursor, self._steps_per_pass)
        positions = range(step * per_step, min((step + 1) * per_step, size))
        order = (self.settings.seed, self.state.buffer)
        indices = [permuted(size, order, passes * size + p) for p in positions] if passes else positions
        groups = [self.buffer[i] for i in indices]
        return swapped(groups, self.stage.columns_of(learner)) if learner else groups

    # --- update ------------------------------------------------------------------------------------------------

    def update(self, learner: Learner, batch: Batch) -> None:
        state, settings = self.state, self.settings
        coefficients = {term.name: value_at(term.coef, state.step, self.steps) for term in learner.terms}
        if batch.total_weight() == 0:
            state.skipped_steps += 1
            return
        remembered = self.scores.remembered
        scored_by, parameters = self.models.of(learner), self.parameters[learner.name]
        try:
            metrics = accumulate(
                scored_by, learner, batch, coefficients, settings.micro_batch_tokens, partial(self._remembered, learner)
            )
            rate = learning_rate_at(
                learner.learning_rate or settings.learning_rate,
                state.step,
                self.steps,
                warmup_steps=settings.warmup_steps,
                shape=settings.lr_scheduler_type,
            )
            norm = apply(self.optimizers[learner.name], parameters, rate, settings.max_grad_norm)
        except NumericsError as error:
            path = self.node.path / f"failed-step-{state.step}.parquet"
            trajectories.write(path, self.next_groups(), node=self.node.name)
            error.where = f"{self.node.name}, step {state.step}, {learner.name}: {error.where}"
            error.kept = f"the batch in {path.name}; the last checkpoint; nothing was updated"
            raise
        self.models.stepped(learner)
        state.skipped_steps += norm == 0
        area = "" if learner is self.stage.main else f"{learner.name}/"
        metrics |= {"grad_norm": (norm, 1.0), "learning_rate": (rate, 1.0)}
        self._count({area + name: value for name, value in metrics.items()})
        frozen = {(need.model, need.view) for need in learner.needs if need.when == "loss" and need.model != SELF}
        state.cost["tokens_scored"] += len(frozen) * batch.n_tokens - (self.scores.remembered - remembered)
        self._trained(learner, [batch.trajectories[i] for i in batch.trained()])

    def _remembered(self, learner: Learner, ref: ModelRef) -> Remembered:
        return partial(self.scores.logp, self.models.fingerprint(self.stage.seen_by(learner, ref)))

    def _trained(self, learner: Learner, trained: Sequence[Trajectory]) -> None:
        """Record consumption and how off-policy it was, in tokens: age, conditioning, and on-policy outright."""
        state = self.state
        self.node.record_consumption(state.step + 1, learner.name, [t.id for t in trained])  # from 1, as in metrics
        state.consumed += 1
        state.tokens_by_source.update(source_counts(trained))
        for t in trained:
            n = int(t.trainable.sum())
            age = state.step - t.producer.step if t.behavior_logp is not None else 0
            of_learner = int((t.source == Source.LEARNER).sum())
            state.cost["tokens_trained"] += n
            state.off_policy.update(
                tokens=n,
                own_tokens=of_learner,
                age=age * of_learner,
                conditioned=of_learner * t.off_policy_by_conditioning,
                on_policy=of_learner * (age == 0 and not t.off_policy_by_conditioning),
            )

    # --- bookkeeping -------------------------------------------------------------------------------------------

    def finish_step(self) -> None:
        state = self.state
        self._count(_group_metrics(self.next_groups()))
        state.step += 1
        state.cursor += 1
        metrics = {name: total / count if count else total for name, (total, count) in self._metrics.items()}
        for name in ("sync/gap_nats", "off_policy/sampler_gap_nats"):
            if name in self._metrics:
                total, count = self._metrics[name]
                state.off_policy.update({f"{name}/sum": total, f"{name}/count": count})
        elapsed = time.perf_counter() - self._started
        state.cost["seconds"] += elapsed
        self._started, self._metrics = time.perf_counter(), {}
        metrics |= {"num_tokens": state.cost["tokens_trained"], "time/step_s": elapsed}
        self.node.log_metrics(state.step, metrics)
        self._progress({"node": self.node.name, "step": state.step, "steps": self.steps, **metrics})
        if warning := self._watch(state.step, metrics):
            self._progress({"note": f"{self.node.name}: {warning}", "warns": True})
        self._save_due |= state.step % self.settings.save_steps == 0
        if self._save_due and state.step < self.steps and not self._watch.suspicious:
            self.checkpoint()

    def _count(self, metrics: dict[str, tuple[float, float]]) -> None:
        add(self._metrics, metrics)

    def _tally(self, groups: Sequence[Group]) -> None:
        """Counts over everything collected, for the words that say why nothing is learned."""
        state = self.state
        for group in groups:
            everyone = [*group.members, *(member for member, _ in group.dropped)]
            rewards = [m.signals["reward"] for m in _fresh(group) if "reward" in m.signals]
            state.cost["verifier_calls"] += sum(map(verdicts, everyone))
            scored = [r for r in rewards if r is not None]
            state.groups["asked"] += len(rewards)
            state.groups["unscored"] += len(rewards) - len(scored)
            sampled = [m for m in _fresh(group) if m.behavior_logp is not None]
            state.groups["members"] += len(sampled)
            state.groups["truncated"] += sum("truncated" in m.tags for m in sampled)
            if scored:
                kind = "mixed" if max(scored) > min(scored) else "all_pass" if min(scored) >= RIGHT else "all_fail"
                state.groups[kind] += 1

    @property
    def interrupted(self) -> bool:
        return self._interrupted()

    def _generating(self, done: int, total: int, *_) -> None:
        self._progress(
            {"node": self.node.name, "step": self.state.step, "steps": self.steps, "generated": (done, total)}
        )

    def finish(self) -> None:
        """The steps are done: what the last buffer still held is set aside with the reason."""
        self.scores.keep(self.state.step)
        groups, first = self.node.read_buffer(self.state.buffer), self.state.cursor * self.updates.prompts_per_step
        for index in range(first, len(self.buffer)):
            groups[index] = groups[index].drop([False] * len(groups[index].members), "stage ended")
        self._write_buffer(groups)

    # --- stop and resume ---------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        state, self._save_due = self.state, False
        self.scores.keep(self.state.step)
        with self.node.checkpoint(state.step, keep=self.settings.save_total_limit) as directory:
            directory = Path(directory)
            self.models.save(directory)
            for name, optimizer in self.optimizers.items():
                tensors.save(optimizer.state_dict(), self.models.place(directory, name) / "optimizer", finite=True)
            trajectories.write(directory / "buffer.parquet", self.buffer, node=self.node.name)
            tensors.save(state.to_json(), directory / "state")

    def restore(self) -> Counters:
        """Go back to the newest complete checkpoint, and forget whatever was recorded after it."""
        checkpoint = self.node.latest_checkpoint()
        if checkpoint is None:
            self.node.rewind(0, -1)
            self.scores.rewind(0)
            return self.state
        self.state = Counters.from_json(tensors.load(checkpoint.path / "state"))
        self.buffer = trajectories.read(checkpoint.path / "buffer.parquet")
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(tensors.load(self.models.place(checkpoint.path, name) / "optimizer"))
        self.node.rewind(self.state.step, self.state.buffer)
        self.scores.rewind(self.state.step)
        self._require_record()
        self._watch.restore()
        return self.state

    def _require_record(self) -> None:
        """Of what the checkpoint counts: what is damaged ends the run here, what is missing is said. The newest buffer
        is in the checkpoint, too."""
        state = self.state
        known = {index: kept for index, kept in state.shards.items() if int(index) < state.buffer}
        require_whole_shards(self.node, known)
        if state.buffer not in self.node.buffers():
            self._write_buffer(self.buffer)
        for hole in holes(self.node, vars(state)):
            self._progress({"note": f"{hole}; goes on without", "warns": True})


def swapped(groups: Sequence[Group], names: Mapping[str, str]) -> list[Group]:
    """The groups with some token signals' names exchanged, both ways: done twice, nothing has changed."""
    if not names:
        return list(groups)
    other = {**names, **{kept: short for short, kept in names.items()}}

    def exchanged(member: Trajectory) -> Trajectory:
        return member.replace(token_signals={other.get(name, name): c for name, c in member.token_signals.items()})

    return [group.map(exchanged) for group in groups]


def _fresh(group: Group) -> list[Trajectory]:
    """Everything a group ever had but what came from data or memory to join what was sampled: that says nothing about
    the learner now."""
    everyone = [*group.members, *(member for member, _ in group.dropped)]
    return [m for m in everyone if m.behavior_logp is not None and "replay" not in m.tags] or everyone


def _group_metrics(groups: Sequence[Group]) -> dict[str, tuple[float, float]]:
    """Rewards, lengths and truncation of a step's groups, members set aside included where they were scored."""
    metrics: dict[str, tuple[float, float]] = {}
    everyone = [_fresh(group) for group in groups]
    rewards = [[r for m in members if (r := m.signals.get("reward")) is not None] for members in everyone]
    rewards = [group for group in rewards if group]
    if rewards:
        flat = [r for group in rewards for r in group]
        metrics["reward"] = (sum(flat), len(flat))
        spread = [float(np.std(group)) for group in rewards]
        metrics["reward_std"] = (sum(spread), len(spread))
        metrics["frac_reward_zero_std"] = (sum(min(group) == max(group) for group in rewards), len(rewards))
    sampled = [m for members in everyone for m in members if m.behavior_logp is not None]
    if sampled:
        metrics["completions/mean_length"] = (sum(map(len, sampled)), len(sampled))
        greedy = [m.producer.sampling is not None and m.producer.sampling.temperature == 0 for m in sampled]
        drawn = [-m.behavior_logp for m, certain in zip(sampled, greedy, strict=True) if not certain]
        surprise = np.concatenate([np.zeros(0), *drawn])
        surprise = surprise[np.isfinite(surprise)]  # a beginning that somebody else wrote has none
        metrics["entropy"] = (float(surprise.sum()), len(surprise))  # nats per token, estimated from what was sampled
        metrics["completions/clipped_ratio"] = (sum("truncated" in m.tags for m in sampled), len(sampled))
    return metrics
