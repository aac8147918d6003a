"""What collectors call at run time: sampling with a model, scoring without gradient, and the memory of a run."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from offon.engines.api import Completion, Engine, Request
from offon.errors import EngineError
from offon.parts.context import Prompted
from offon.parts.models import SELF, SELF_START, ModelRef, Need
from offon.runs import NodeDirectory, ledger
from offon.train.models import ModelSet
from offon.train.scoring import layout_of, score_buffer
from offon.types import Group, Producer, Source, Trajectory

SYNC_TOLERANCE_NATS = 0.02  # float32 rounding is 1e-5; a stale or half-synced sampler is off by 0.2 and more
SYNC_SAMPLES = 4


class SamplerContext:
    """Generation, scores and memory of one stage. `cost` counts tokens; `count` takes metrics as (sum, count)."""

    def __init__(
        self,
        node: NodeDirectory,
        models: ModelSet,
        engine: Engine,
        *,
        micro_batch_tokens: int | None,
        cost: Counter,
        count: Callable[[dict[str, tuple[float, float]]], None],
        progress: Callable[[int, int], None],
    ):
        self.node, self.models, self.engine = node, models, engine
        self.micro_batch_tokens, self.cost, self._count, self._generating = micro_batch_tokens, cost, count, progress

    def generate(self, prompts: Sequence[Prompted], ref: ModelRef, *, step: int) -> list[Trajectory]:
        model = self.models(ref)
        requests = [Request(p.seen, p.sampling, p.key) for p in prompts]
        completions = self.engine.generate(requests, model, progress=self._generating)
        is_learner = ref == SELF_START or SELF in ref.walk()  # the learner, or a mixture it is part of
        source = Source.LEARNER if is_learner else Source.TEACHER
        producer = Producer(model=self.models.fingerprint(ref), step=0 if ref == SELF_START else step)
        sampled = [
            trajectory(prompt, completion, source, producer, self.models.learner.tokenizer, self._id(prompt))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        self.cost["tokens_generated"] += sum(len(completion.tokens) for completion in completions)
        if ref == SELF:
            self._check_sync(sampled, [len(completion.tokens) for completion in completions], step)
        return sampled

    def _id(self, prompt: Prompted) -> str:
        return "/".join([self.node.name, *map(str, prompt.key[2:])])

    def _check_sync(self, sampled: Sequence[Trajectory], n_fresh: Sequence[int], step: int) -> None:
        """Compare the sampler's log-probs of a few trajectories with the learner's; disagreement stops the run.

        Only the tokens sampled now count: those before them may be another model's, or older."""
        pairs = [(t, n) for t, n in zip(sampled, n_fresh, strict=True) if t.producer.sampling.full_softmax]
        checked, fresh = zip(*pairs[:SYNC_SAMPLES], strict=True) if pairs else ((), ())
        if not checked:
            return
        learner, layout = self.models.learner, layout_of(checked, "sample")
        temperature = torch.tensor([t.producer.sampling.temperature for t in checked])[layout.sequence]
        with torch.no_grad():
            logp = learner.logp(layout, temperature=temperature).float().cpu().split(layout.lengths)
        difference = np.concatenate(
            [
                (learner_logp.numpy() - t.behavior_logp)[-n:]
                for learner_logp, t, n in zip(logp, checked, fresh, strict=True)
            ]
        )
        if not np.abs(difference).max() < SYNC_TOLERANCE_NATS:
            raise EngineError(
                f"sampler and learner disagree by {np.abs(difference).max():.3g} nats on a sampled token",
                where=f"{self.node.name}, step {step}",
                why=f"they should agree within {SYNC_TOLERANCE_NATS}: the sampler does not hold the learner's weights",
            )
        gap = float((np.exp(difference) - 1 - difference).sum())
        self._count(
            {"sync/max_logp_diff": (float(np.abs(difference).max()), 1.0), "sync/gap_nats": (gap, len(difference))}
        )

    def score(self, groups: Sequence[Group], need: Need) -> list[Group]:
        self.cost["tokens_scored"] += sum(len(m) for g in groups for m in g.members)
        return score_buffer(self.models(need.model), groups, need, self.micro_batch_tokens)

    @property
    def memory(self) -> Memory:
        return Memory(self.node)


def trajectory(
    prompt: Prompted, completion: Completion, source: Source, producer: Producer, tokenizer: Any, id: str
) -> Trajectory:
    """What was begun and what was sampled after it; a checker is shown its last turn."""
    answered = prompt.answered(completion.tokens, source, completion.logp)
    return answered.replace(
        tags=frozenset({"truncated"} if completion.stop == "length" else ()),
        producer=dataclasses.replace(producer, sampling=prompt.sampling),
        text=tokenizer.decode(answered.last_turn, skip_special_tokens=True),
        id=id,
    )


@dataclasses.dataclass(frozen=True)
class Memory:
    """What a stage generated before, read from its part of the ledger: the buffers it has filled. Whatever a stop would
    lose is not in it, so that a resumed stage remembers the same."""

    node: NodeDirectory

    def __call__(self, where: str) -> list[Group]:
        """The trajectories that satisfy an SQL condition, in the groups they were recorded in, as members whatever
        became of them. Only the shards that hold any are read."""
        ids_by_buffer: dict[int, list[str]] = defaultdict(list)
        for row in self.ask(f"select buffer, id from trajectories where {where} order by buffer"):
            ids_by_buffer[row["buffer"]].append(row["id"])
        groups = (group for buffer, ids in ids_by_buffer.items() for group in self.node.read_buffer(buffer, ids))
        return [g.replace(members=(*g.members, *(m for m, _ in g.dropped)), dropped=()) for g in groups]

    def ask(self, sql: str) -> list[dict[str, Any]]:
        """The rows of one SELECT over the ledger's views, of this stage alone; probes are not among them."""
        return ledger.query(self.node.run.path, sql, node=self.node.name).to_pylist()
