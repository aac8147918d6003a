"""Items, trajectories and groups: every token knows who produced it and under which prompt.

Axes: T response tokens of one trajectory. Arrays are numpy, one-dimensional, read-only.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import numpy as np

Prompt = str | tuple[Mapping[str, Any], ...]  # plain text, or chat messages (role, content)
Tokens = tuple[int, ...]


TARGET = "target"  # the tag of own samples that are imitated: scored by the model itself, not by the sampler
RIGHT = 1.0  # a response is right, a success, when its score reaches this; less is partial credit


class Source(IntEnum):
    """Who produced a token. Provenance is data on every token, never a property of a method."""

    EXTERNAL = 0  # a dataset
    TEACHER = 1  # a model other than the learner
    LEARNER = 2  # the model being trained (now or at an earlier step: see Producer)
    ENVIRONMENT = 3  # the world: user turns, tool output; never trained


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens were drawn: softmax(logits / temperature), cut to top_k, then to top_p, renormalised.

    temperature 0 is greedy. top_k 0 and top_p 1 cut nothing.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512

    @property
    def full_softmax(self) -> bool:
        """Nothing was cut off: a likelihood ratio against these log-probs is well defined."""
        return self.temperature > 0 and self.top_p >= 1 and self.top_k == 0


@dataclass(frozen=True, kw_only=True)
class Producer:
    """The exact origin of sampled tokens: which weights, after how many updates, under which sampler."""

    model: str  # fingerprint of the weights, or a data set's name
    step: int = 0  # optimizer steps the learner had taken
    sampling: Sampling | None = None


@dataclass(frozen=True)
class Span:
    """Response tokens [start, end) with a name (turn, step) and signals of their own."""

    name: str
    start: int
    end: int
    signals: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What a checker said. None means unscored (the checker failed), which is never the same as 0.

    `score` is the strict verdict used as reward; `content` is the verdict when format is ignored, where the
    task can tell the two apart; `reason` says why something is unscored or wrong, in a few words.
    """

    score: float | None
    content: float | None = None
    reason: str = ""

    @property
    def right_content(self) -> bool | None:
        """Whether the content is right, by the more lenient of the two verdicts; None where nothing tells."""
        if self.score is not None and self.score >= RIGHT:
            return True
        return None if self.score is None or self.content is None else self.content >= RIGHT


@dataclass(frozen=True, kw_only=True)
class Item:
    """One task item: a prompt and what its checker needs.

    `views` are further prompts for the same item by name ("hint": the prompt with a hint, "privileged": with
    the solution). `columns` are the extra fields of its row, passed to checkers by name. `group` is the family or
    topic that reports break results down by. `reference` is a known good response, whole: an answer alone
    is none.
    """

    id: str
    prompt: Prompt
    views: Mapping[str, Prompt] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    family: str = ""
    reference: str | None = None

    @property
    def whole_reference(self) -> str | None:
        """The reference, unless it is the answer that responses are checked against and nothing more."""
        answer = str(self.columns.get("answer", "")).strip()
        return None if self.reference is None or self.reference.strip() == answer else self.reference

    @property
    def solution(self) -> str | None:
        """What is known to be right, for texts that show it: the reference, else the answer alone (of several, one)."""
        answer = self.columns.get("reference", self.columns.get("answer"))
        answer = answer[0] if isinstance(answer, list | tuple) and answer else answer
        return self.reference if self.reference is not None else None if answer is None else str(answer)

    @staticmethod
    def content_id(prompt: Prompt, options: Mapping[str, Any] = MappingProxyType({})) -> str:
        """An id from the prompt's content, and what else its chat template is given, so that splits are by content and
        never by seed."""
        text = prompt if isinstance(prompt, str) else repr([sorted(dict(m).items()) for m in prompt])
        text += repr(sorted(options.items())) if options else ""
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def frozen(values, dtype) -> np.ndarray:
    array = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """Response tokens with their provenance. Everything a term may read about them is here, by name.

    tokens         [T] int32
    views          name -> prefix (prompt token ids). "sample" is what the sampler saw. "train" is the one prefix
                   the trajectory is trained under; it is "sample" unless written.
    source         [T] int8, see Source
    scaffold       [T] bool: present in training, absent at deployment
    behavior_logp  [T] float32, log-probs (nats) under the distribution really sampled, NaN where unknown; None if
                   nobody sampled it here
    signals        named numbers about the whole response; None = unscored
    token_signals  name -> [T] float32 (log-probs under other models, values, advantages)
    spans          turns and steps, with signals of their own
    tags           chosen, rejected, replay, refined, truncated, ...
    """

    tokens: np.ndarray
    views: Mapping[str, Tokens]
    source: np.ndarray
    scaffold: np.ndarray
    behavior_logp: np.ndarray | None = None
    signals: Mapping[str, float | None] = field(default_factory=dict)
    token_signals: Mapping[str, np.ndarray] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    tags: frozenset[str] = frozenset()
    producer: Producer = Producer(model="")
    text: str = ""
    id: str = ""

    def __post_init__(self):
        n = len(self.tokens)
        columns = {"source": self.source, "scaffold": self.scaffold, **self.token_signals}
        if self.behavior_logp is not None:
            columns["behavior_logp"] = self.behavior_logp
        wrong = {name: len(column) for name, column in columns.items() if len(column) != n}
        if wrong:
            raise ValueError(f"a trajectory of {n} tokens has columns of other lengths: {wrong}")
        if "sample" not in self.views:
            raise ValueError(f"a trajectory needs a view named 'sample', it has {sorted(self.views)}")

    @staticmethod
    def of(
        tokens: Sequence[int],
        prefix: Sequence[int],
        source: Source | Sequence[int],
        *,
        views: Mapping[str, Sequence[int]] = MappingProxyType({}),
        scaffold: Sequence[bool] | None = None,
        behavior_logp: Sequence[float] | None = None,
        **fields,
    ) -> Trajectory:
        """Build from plain lists: `Trajectory.of([5, 6, 2], [1, 4], Source.EXTERNAL)`."""
        n = len(tokens)
        return Trajectory(
            tokens=frozen(tokens, np.int32),
            views={"sample": tuple(prefix), **{name: tuple(ids) for name, ids in views.items()}},
            source=frozen([source] * n if isinstance(source, int) else source, np.int8),
            scaffold=frozen([False] * n if scaffold is None else scaffold, bool),
            behavior_logp=None if behavior_logp is None else frozen(behavior_logp, np.float32),
            **fields,
        )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def trainable(self) -> np.ndarray:
        """[T] bool: tokens a policy could have produced at deployment; the environment's and scaffold are not."""
        return (self.source != Source.ENVIRONMENT) & ~self.scaffold

    def prefix(self, view: str = "train") -> Tokens:
        """The prompt tokens under a view. "train" is "sample" unless written."""
        if view == "train" and view not in self.views:
            view = "sample"
        if view not in self.views:
            raise KeyError(f"no view {view!r} on this trajectory; it has {sorted(self.views)}")
        return self.views[view]

    @property
    def off_policy_by_conditioning(self) -> bool:
        """Sampled under one prompt and trained under another (hint dropped, context distilled)."""
        return self.behavior_logp is not None and self.prefix("train") != self.prefix("sample")

    def replace(self, **changes) -> Trajectory:
        return dataclasses.replace(self, **changes)

    def with_signals(self, **signals: float | None) -> Trajectory:
        return self.replace(signals={**self.signals, **signals})

    def with_token_signals(self, **columns) -> Trajectory:
        new = {name: frozen(column, np.float32) for name, column in columns.items()}
        return self.replace(token_signals={**self.token_signals, **new})

    def tagged(self, *tags: str) -> Trajectory:
        return self.replace(tags=self.tags | set(tags))

    @property
    def last_turn(self) -> np.ndarray:
        """The tokens after the last of the environment: all of them where it said nothing."""
        elsewhere = np.flatnonzero(self.source == Source.ENVIRONMENT)
        return self.tokens[elsewhere[-1] + 1 :] if len(elsewhere) else self.tokens

    def head(self, n: int) -> Trajectory:
        """The first n tokens with their provenance. What was said about the whole (signals, tags) is gone."""
        spans = (dataclasses.replace(s, end=min(s.end, n), signals={}) for s in self.spans if s.start < n)
        return Trajectory(
            tokens=self.tokens[:n],
            views=self.views,
            source=self.source[:n],
            scaffold=self.scaffold[:n],
            behavior_logp=None if self.behavior_logp is None else self.behavior_logp[:n],
            spans=tuple(spans),
            producer=self.producer,
        )

    def then(
        self,
        tokens: Sequence[int],
        source: Source,
        *,
        behavior_logp: Sequence[float] | None = None,
        scaffold: bool = False,
        span: str = "",
    ) -> Trajectory:
        """These tokens and more after them, whose log-probs are NaN where nobody sampled them here. `span` names the
        new stretch."""
        start, n = len(self), len(tokens)

        def joined(before, after, dtype):
            return frozen(np.concatenate([before, np.asarray(after, dtype)]), dtype)

        def known(logp, length: int):
            return np.full(length, np.nan, np.float32) if logp is None else logp

        logp = None
        if self.behavior_logp is not None or behavior_logp is not None:
            logp = joined(known(self.behavior_logp, start), known(behavior_logp, n), np.float32)
        return self.replace(
            tokens=joined(self.tokens, tokens, np.int32),
            source=joined(self.source, [source] * n, np.int8),
            scaffold=joined(self.scaffold, [scaffold] * n, bool),
            behavior_logp=logp,
            token_signals={},
            spans=(*self.spans, *((Span(span, start, start + n),) if span else ())),
        )


@dataclass(frozen=True)
class Comparison:
    """Member `winner` of a group was preferred to member `loser` (indices into members)."""

    winner: int
    loser: int
    margin: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """One task item, its trajectories and the comparisons among them.

    SFT is a group of one, a preference pair a group of two with one comparison, GRPO a group of G with rewards,
    a prompt nobody has answered yet a group of none. `views` are the item's rendered prompts (token ids) by name;
    "prompt" is the one deployment sees.
    """

    item: Item
    views: Mapping[str, Tokens]
    members: tuple[Trajectory, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    draw: int = -1  # position in the stage's data order, the key of all randomness spent on this group
    dropped: tuple[tuple[Trajectory, str], ...] = ()  # members that will not be trained, with the reason

    @property
    def prompt(self) -> Tokens:
        return self.views["prompt"]

    @property
    def size(self) -> int:
        """Trajectories it ever had, dropped ones included: the number of the next one in ids and sampling keys."""
        return len(self.members) + len(self.dropped)

    def replace(self, **changes) -> Group:
        return dataclasses.replace(self, **changes)

    def add(self, *members: Trajectory) -> Group:
        return self.replace(members=self.members + members)

    def map(self, function) -> Group:
        """Apply a function to each member."""
        return self.replace(members=tuple(function(member) for member in self.members))

    def drop(self, keep: Sequence[bool], reason: str) -> Group:
        """Set members aside with a reason. Comparisons that name a dropped member go with it."""
        position, kept = {}, []
        for index, (member, keeps) in enumerate(zip(self.members, keep, strict=True)):
            if keeps:
                position[index] = len(kept)
                kept.append(member)
        gone = tuple((m, reason) for m, k in zip(self.members, keep, strict=True) if not k)
        pairs = tuple(
            dataclasses.replace(c, winner=position[c.winner], loser=position[c.loser])
            for c in self.comparisons
            if c.winner in position and c.loser in position
        )
        return self.replace(members=tuple(kept), comparisons=pairs, dropped=self.dropped + gone)
