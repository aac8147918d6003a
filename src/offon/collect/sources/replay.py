"""Replay: what the stage generated before, joined to what it generates now. All of it comes from the ledger, with the
log-probs of the weights that sampled it and the view it was trained under; there is no buffer beside it.

A trajectory that is replayed is a new one in the ledger, tagged "replay", with a fate of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from offon.collect.sources.dataset import AddDemo
from offon.parts.collector import Collector
from offon.parts.context import Context, Step
from offon.parts.models import SELF, Need
from offon.types import RIGHT, Group, Trajectory

Choice = Literal["recent", "highest", "random", "varied", "least entropy"]
ENTROPY = Need("entropy", SELF, when="buffer")
SAMPLED_HERE = "list_contains(source, 2) and not list_contains(tags, 'replay') and signals['reward'] is not null"
SOLVED = f"signals['reward'] >= {RIGHT}"
SUCCESS = f"case when {SOLVED} then 1.0 else 0.0 end"


@dataclass(frozen=True, kw_only=True)
class AddReplay(Collector):
    """Join n earlier responses to the same prompt to its group.

    choose    recent: the latest; highest: of the highest reward, the latest of equals; random; varied: half from either
              end of the rewards; least entropy: of the lowest mean entropy under the learner now
    from_n    a prompt is replayed once it has this many earlier responses
    where     further condition, SQL over the ledger's trajectories
    """

    n: int
    choose: Choice = "recent"
    from_n: int = 1
    where: str = "true"
    provides = frozenset({"members", "behavior_logp"})
    removes = frozenset({"comparisons"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        known = remembered(context, [group.item.id for group in groups], self.where) if self.n else {}
        known = {item: past for item, past in known.items() if len(past.members) >= self.from_n}
        asked = [known.get(group.item.id, group.replace(members=())).replace(draw=group.draw) for group in groups]
        chosen = choose(context, asked, self.choose, self.n)
        return [
            group.add(*(replayed(context.step, group, i, member) for i, member in enumerate(past)))
            for group, past in zip(groups, chosen, strict=True)
        ]

    def __str__(self) -> str:
        return f"add_replay({self.n}, {self.choose})"


@dataclass(frozen=True, kw_only=True)
class Experience(Collector):
    """Give a share of the groups a prompt that was solved now and then, with the one right response to it that the
    learner is surest of now; what follows samples the rest of the group afresh (ExGRPO).

    share    of the groups; they take the place of drawn prompts, which wait for the next pass over the data
    centre, width   prompts are drawn with weight exp(-(latest success rate - centre)^2 / (2 width^2))
    start    replay begins after a buffer in which this share of the rollouts succeeded

    A prompt that was once solved every time is retired for good.
    """

    share: float = 0.5
    centre: float = 0.5
    width: float = 1.0
    start: float = 0.35
    provides = frozenset({"members", "behavior_logp"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        by_buffer = f"select avg({SUCCESS}) as rate from trajectories where {SAMPLED_HERE} group by buffer"
        [best] = context.memory.ask(f"select max(rate) as rate from ({by_buffer}) t")
        if not groups or (best["rate"] or 0.0) <= self.start:
            return groups
        by_draw = (
            f"select item, draw, avg({SUCCESS}) as rate from trajectories where {SAMPLED_HERE} group by item, draw"
        )
        drawn = self._drawn(
            context.step,
            context.memory.ask(
                f"select item, arg_max(rate, draw) as rate from ({by_draw}) t "
                "group by item having max(rate) > 0 and max(rate) < 1 order by item"
            ),
            groups,
        )
        known = remembered(context, drawn, SOLVED)
        kept = groups[: len(groups) - len(drawn)]
        places = groups[len(kept) :]
        asked = [known[item].replace(draw=place.draw) for item, place in zip(drawn, places, strict=True)]
        chosen = choose(context, asked, "least entropy", 1)
        experienced = [
            group.replace(members=tuple(replayed(context.step, group.replace(members=()), 0, m) for m in past))
            for group, past in zip(asked, chosen, strict=True)
        ]
        return kept + experienced

    def _drawn(self, step: Step, rates: Sequence[dict], groups: Sequence[Group]) -> list[str]:
        weight = np.array([math.exp(-((row["rate"] - self.centre) ** 2) / (2 * self.width**2)) for row in rates])
        n = min(round(self.share * len(groups)), len(rates))
        random = step.random("experience", groups[0].draw)
        picked = random.choice(len(rates), n, replace=False, p=weight / weight.sum()) if n else []
        return [rates[i]["item"] for i in picked]

    def __str__(self) -> str:
        return f"experience({self.share:g})"


@dataclass(frozen=True, kw_only=True)
class QueueHardest(Collector):
    """Collect as usual; prompts whose rollouts all failed queue up, and once they fill a buffer, the next buffer is
    theirs: their demonstrations instead of rollouts, tagged "queued" (ReLIFT).

    size   how many make a buffer of demonstrations; as many as prompts are asked for unless written

    The queue is the ledger's: draws without a success that no demonstration has answered yet, oldest first.
    """

    collect: Collector
    demos: AddDemo
    size: int | None = None

    @property
    def requires(self) -> frozenset[str]:
        return self.collect.requires

    @property
    def provides(self) -> frozenset[str]:
        return self.collect.provides

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        size, known = self.size or len(groups), self.demos.library.by_prompt
        served = "select signals['queued'] from trajectories where list_contains(tags, 'queued')"
        failed = context.memory.ask(
            f"select draw, any_value(prompt_tokens) as prompt from trajectories where {SAMPLED_HERE} group by draw "
            f"having max(signals['reward']) < {RIGHT} and draw not in ({served}) order by draw"
        )
        waiting = [str(row["draw"]) for row in failed if tuple(row["prompt"]) in known][:size]
        if len(waiting) < size:
            return self.collect(context, groups)
        hardest = context.memory(f"draw in ({', '.join(waiting)}) and {SAMPLED_HERE}")
        places = [g.replace(draw=place.draw, members=()) for g, place in zip(hardest, groups, strict=False)]
        return [
            group.map(lambda demo, of=of: demo.tagged("queued").with_signals(queued=float(of.draw)))
            for group, of in zip(self.demos(context, places), hardest, strict=False)
        ]

    def __str__(self) -> str:
        return f"queue_hardest({self.collect}, {self.demos})"


def remembered(context: Context, items: Sequence[str], where: str) -> dict[str, Group]:
    """What the learner once wrote for these items and satisfies a condition: one group per item, oldest first."""
    if not items:
        return {}
    names = ", ".join("'" + item.replace("'", "''") + "'" for item in dict.fromkeys(items))
    by_item: dict[str, Group] = {}
    for group in context.memory(f"{SAMPLED_HERE} and item in ({names}) and ({where})"):
        by_item[group.item.id] = by_item[group.item.id].add(*group.members) if group.item.id in by_item else group
    return by_item


def choose(context: Context, groups: Sequence[Group], by: Choice, n: int) -> list[list[Trajectory]]:
    """n members of each group; all of them where there are no more."""
    if by == "least entropy":
        groups = context.score([g.map(lambda m: m.replace(token_signals={})) for g in groups], ENTROPY)
    return [_chosen(context.step, group, by, n) for group in groups]


def _chosen(step: Step, group: Group, by: Choice, n: int) -> list[Trajectory]:
    members = sorted(group.members, key=lambda m: -m.producer.step)  # the latest first; order is kept where keys tie
    match by:
        case "recent":
            pass
        case "highest":
            members.sort(key=lambda m: -m.signals["reward"])
        case "random":
            members = [members[i] for i in step.random("replay", group.draw).permutation(len(members))]
        case "varied":
            members.sort(key=lambda m: -m.signals["reward"])
            members = members if len(members) <= n else members[: (n + 1) // 2] + members[len(members) - n // 2 :]
        case "least entropy":
            members.sort(key=lambda m: float(m.token_signals[ENTROPY.column][m.trainable].mean()))
    return members[:n]


def replayed(step: Step, group: Group, index: int, member: Trajectory) -> Trajectory:
    """An earlier trajectory as a new member of a group: its tokens, views, log-probs, signals and age are its own, what
    a buffer scored since is not."""
    return member.replace(id=step.id(group.draw, group.size + index), token_signals={}).tagged("replay")


add_replay, experience, queue_hardest = AddReplay, Experience, QueueHardest
