"""What is measured for a diagnosis: rollouts of a model, its earlier checkpoints and a teacher, and their verdicts."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from offon.behavior.change.k_to_solve import known_mass, rounded_down
from offon.behavior.diagnosis.bottleneck import Barriers, Measured, Rule, earlier
from offon.behavior.diagnosis.controls import Controls
from offon.behavior.statistics.counts import Counts
from offon.diagnosis.allocation import FIRST
from offon.diagnosis.exact_successes import logps, token_logps
from offon.diagnosis.prefixes import Placement, half, placements, step_ends
from offon.engines.api import Engine, Request
from offon.engines.factory import create_engine
from offon.models.model import Model
from offon.runs import artefacts as art
from offon.types import RIGHT, Group, Sampling
from offon.types.trajectory import Tokens

TEACHER_TRIES = 4
SCAFFOLD = "hint"  # the view of an item that counts as its scaffold
TAUGHT = ("teacher", "finished", "placebo")  # what the teacher generates
Asked = Sequence[tuple[int, Tokens, Tokens]]  # prompt, its tokens, the beginning of a response that is given


@dataclass
class DiagnosisSampler:
    """What was measured of each prompt so far, and how to measure more. P prompts.

    What is measured has the names of `Measured` ("previous NAME" for an earlier checkpoint), and "rollouts" (strict and
    content), and "shuffled" (a control). An earlier checkpoint is loaded when it is first needed.
    """

    learner: Model
    teacher: Model | None
    task: Any
    groups: Sequence[Group]
    sampling: Sampling
    salt: int
    progress: Callable[[int, int], None]
    earlier: Mapping[str, Callable[[], Model]] = field(default_factory=dict)
    engine: Engine = field(default_factory=create_engine)
    successes: dict[str, np.ndarray] = field(default_factory=dict)
    scored: dict[str, np.ndarray] = field(default_factory=dict)
    placements: dict[int, Placement] = field(default_factory=dict)  # beginnings of a right response
    barriers: dict[int, tuple[int, float]] = field(default_factory=dict)  # of it: improbable steps, the least likely
    right: dict[int, list[Tokens]] = field(
        default_factory=lambda: defaultdict(list)
    )  # the teacher's whole right answers
    leaks: Counter = field(default_factory=Counter)  # prefixes looked at, by whether they give the answer away
    failures: dict[int, list[Tokens]] = field(default_factory=lambda: defaultdict(list))  # the model's own, by prompt
    known: dict[int, dict[Tokens, float]] = field(default_factory=lambda: defaultdict(dict))  # right ones, log-probs
    rollouts: dict[int, list[Tokens]] = field(default_factory=lambda: defaultdict(list))
    verdicts: dict[int, dict[Tokens, set[bool]]] = field(default_factory=lambda: defaultdict(dict))  # on its rollouts
    cuts: dict[Tokens, list[int]] = field(default_factory=dict)  # where steps end
    tells_content: bool = False  # whether the checker ever gave a verdict on content
    rule: Rule = Rule()
    others: dict[str, Counts] = field(default_factory=dict)  # what the checker accepts of other prompts' responses
    costs: Counter = field(default_factory=Counter)

    def __post_init__(self):
        self.spent = np.zeros(len(self.groups), int)
        self.asked = np.zeros(len(self.groups), bool)
        self.tries: Counter = Counter()

    @property
    def measured(self) -> Measured:
        others = {name: self._counts(name) for name in ("cut", "scaffold", "placed", "finished", "placebo")}
        others |= {"content": self._content, "begun": self._begun}
        previous = {name: self._counts(earlier(name)) for name in self.earlier if earlier(name) in self.scored}
        at_least = np.array([known_mass(responses) for responses in self._known])
        known = [self.barriers.get(p, (0, 1.0)) for p in range(len(self.groups))]
        barriers = Barriers(*map(np.array, zip(*known, strict=True))) if self.barriers else None
        return Measured(
            strict=self._counts("rollouts"), **others, previous=previous, barriers=barriers, at_least=at_least
        )

    @property
    def untried(self) -> dict[str, np.ndarray]:
        """[P] for each other condition: where there is one that was not tried."""
        everywhere = np.ones(len(self.groups), bool)
        there = {"scaffold": self.scaffolded} | {earlier(name): everywhere for name in self.earlier}
        return {name: mask & (self._of(self.scored, name) == 0) for name, mask in there.items()}

    @cached_property
    def scaffolded(self) -> np.ndarray:
        return np.array([SCAFFOLD in group.views for group in self.groups])

    @property
    def placeable(self) -> np.ndarray:
        """[P] where there is a right answer to place the model on, or may be."""
        hopeful = [
            self.teacher is not None or bool(group.item.whole_reference or known)
            for group, known in zip(self.groups, self._known, strict=True)
        ]
        return np.where(self.asked, [p in self.placements for p in range(len(self.groups))], hopeful)

    def candidates(self, prompt: int) -> dict[str, tuple[str, ...]]:
        """What could be measured next on a prompt, and the rates of the posterior that its outcomes inform."""
        options = {"rollouts": ("content", "ratio", "cut")}
        if self.scaffolded[prompt]:
            options["scaffold"] = ("scaffold",)
        tried = [earlier(name) for name in self.earlier if self._of(self.scored, earlier(name))[prompt]]
        options |= {name: (name,) for name in tried}
        if (placement := self.placements.get(prompt)) is not None:
            options["placed"] = ("placed",)
            options |= {"begun": ("begun",)} if placement.first != placement.last else {}
        if self.teacher is not None and self.failures[prompt]:
            options["finished"] = ("finished",)
            if any(self.failures[other] for other in self.failures if other != prompt):
                options["placebo"] = ("placebo",)
        return options

    @property
    def controls(self) -> Controls:
        """The controls' counts, pooled over prompts."""

        def pooled(name: str, where: np.ndarray) -> Counts:
            return Counts.of(*(int(self._of(side, name)[where].sum()) for side in (self.successes, self.scored)))

        shuffled, placebo = (self._of(self.scored, name) > 0 for name in ("shuffled", "placebo"))
        return Controls(
            shuffled=pooled("shuffled", shuffled) if shuffled.any() else None,
            plain=pooled("rollouts", shuffled) if shuffled.any() else None,
            placebo=pooled("placebo", placebo) if placebo.any() else None,
            finished=pooled("finished", placebo) if placebo.any() else None,
            leaks=Counts.of([self.leaks[True]], self.leaks.total()) if self.leaks else None,
            **self.others,
        )

    @property
    def notes(self) -> list[str]:
        unplaced = int((self.asked & ~self.placeable).sum())
        whole = "a teacher that solves them, or rows with a whole response (column completion or solution)"
        return [f"{unplaced} prompts without a right response to place the model on: bring {whole}"] if unplaced else []

    def known_successes(self, given: Mapping[int, Tokens]) -> list[dict[Tokens, float]]:
        """[P] right responses with their log-probs under the sampler: the model's own, and those of the teacher and
        given ones where a forward pass can tell (full softmax)."""
        pairs = {*given.items(), *((p, tokens) for p, answers in self.right.items() for tokens in answers)}
        fresh = sorted((p, tokens) for p, tokens in pairs if tokens not in self.known[p])
        if self.sampling.full_softmax:
            for (p, tokens), logp in zip(fresh, logps(self.learner, self.groups, fresh, self.sampling), strict=True):
                self.known[p][tokens] = logp
            self.costs["tokens_scored"] += sum(len(tokens) for _, tokens in fresh)
        return self._known

    @property
    def _known(self) -> list[dict[Tokens, float]]:
        """[P] without those that the checker also rejected: it does not always say the same."""
        everyone = range(len(self.groups))
        return [
            {
                y: rounded_down(logp, len(y))
                for y, logp in self.known[p].items()
                if False not in self.verdicts[p].get(y, ())
            }
            for p in everyone
        ]

    def ask_teacher(self, prompts: np.ndarray) -> None:
        """Find a right answer for each prompt, and cut it where it gives itself away (`offon.diagnosis.prefixes`)."""
        self.asked[prompts] = True
        if self.teacher is not None:
            requests = [(p, self.groups[p].prompt, ()) for p in prompts for _ in range(TEACHER_TRIES)]
            for p, tokens, verdict, _ in self._sample("teacher", requests):
                if verdict.score is not None and verdict.score >= RIGHT and tokens not in self.right[p]:
                    self.right[p].append(tokens)
            self.spent[prompts] += TEACHER_TRIES
        right = {}
        for p in prompts:
            if self.right[p]:
                right[p] = self.right[p][0]
            elif reference := self.groups[p].item.whole_reference:
                right[p] = tuple(self.learner.tokenizer(reference, add_special_tokens=False).input_ids)
            elif known := self._known[p]:
                right[p] = max(known, key=known.get)
        placed, leaks = placements(right, self.groups, self.task, self._text)
        self.placements |= placed
        self.leaks.update(leaks)
        self._weigh({p: right[p] for p in placed})
        if len(placed) > 1:  # after another prompt's prefix it should succeed no more often than in plain rollouts
            others = [*list(placed)[1:], next(iter(placed))]
            pairs = zip(placed, others, strict=True)
            self._record("shuffled", [(p, self.groups[p].prompt, placed[q].last) for p, q in pairs])

    def _weigh(self, right: Mapping[int, Tokens]) -> None:
        """How likely the model takes each step of a right response, exactly, where one forward pass can tell."""
        if not (right and self.sampling.full_softmax):
            return
        pairs = list(right.items())
        for (p, tokens), logp_T in zip(
            pairs, token_logps(self.learner, self.groups, pairs, self.sampling), strict=True
        ):
            first, last = (len(prefix) for prefix in (self.placements[p].first, self.placements[p].last))
            ends = [end for end in self._ends(tokens) if first <= end <= last]
            least = [float(np.exp(logp_T[start:end].min())) for start, end in pairwise(ends)]
            self.barriers[p] = (sum(one < self.rule.improbable for one in least), min(least, default=1.0))
        self.costs["tokens_scored"] += sum(map(len, right.values()))

    def measure(self, name: str, prompts: np.ndarray, samples: int) -> None:
        """More outcomes of one kind on some prompts."""
        requests, failed = [], self._failed_by_step() if name == "placebo" else {}
        for p in prompts:
            group, at = self.groups[p], int(self._of(self.scored, name)[p])
            for sample in range(at, at + samples):
                match name:
                    case "scaffold":
                        requests.append((p, group.views[SCAFFOLD], ()))
                    case "placed":
                        requests.append((p, group.prompt, self.placements[p].last))
                    case "begun":
                        requests.append((p, group.prompt, self.placements[p].first))
                    case "finished":
                        failed_here = self.failures[p]
                        requests.append((p, group.prompt, self._first(failed_here[sample % len(failed_here)])))
                    case "placebo":
                        failed_here = self.failures[p]
                        same = failed[self._first(failed_here[sample % len(failed_here)])]
                        others = [tokens for q, tokens in same if q != p]
                        others = others or [y for part in failed.values() for q, y in part if q != p]
                        chosen = others[sample % len(others)]
                        requests.append((p, group.prompt, half(chosen, self._ends(chosen))))
                    case _:  # plain rollouts, of this model or of an earlier one
                        requests.append((p, group.prompt, ()))
        self._record(name, requests)
        self.spent[prompts] += samples

    def judge_others(self, responses: int) -> None:
        """Give the checker other prompts' responses, as far as their answers differ: what it accepts of those is its
        error, or luck."""
        answers = [
            str(group.item.columns.get("answer", group.item.reference or p)) for p, group in enumerate(self.groups)
        ]
        prompts, pairs = [p for p, sampled in self.rollouts.items() if sampled], []
        for turn in range(responses):
            for at, p in enumerate(prompts):
                q = prompts[(at + 1 + turn % max(1, len(prompts) - 1)) % len(prompts)]
                if q != p and answers[q] != answers[p]:
                    pairs.append((p, self.rollouts[q][(turn + at) % len(self.rollouts[q])]))
            if len(pairs) >= responses:
                break
        pairs = pairs[:responses]
        verdicts = self.task.verify([(self.groups[p].item, self._text(tokens)) for p, tokens in pairs])
        self.costs["verifier_calls"] += len(verdicts)
        scored = [verdict for verdict in verdicts if verdict.score is not None]
        if scored:
            self.others["others"] = Counts.of([sum(v.score >= RIGHT for v in scored)], len(scored))
        known = [v.right_content for v in verdicts if v.content is not None]
        if known:
            self.others["others_content"] = Counts.of([sum(known)], len(known))

    def _failed_by_step(self) -> dict[Tokens, list[tuple[int, Tokens]]]:
        """The model's failures with their prompts, by their first step; each prompt's first, second, ... in turn."""
        by_step = defaultdict(list)
        turns = ((turn, p, tokens) for p, failures in self.failures.items() for turn, tokens in enumerate(failures))
        for _, p, tokens in sorted(turns):
            by_step[self._first(tokens)].append((p, tokens))
        return by_step

    def _ends(self, tokens: Tokens) -> list[int]:
        """Where a response's steps end, found once."""
        if tokens not in self.cuts:
            self.cuts[tokens] = step_ends(tokens, self._text)
        return self.cuts[tokens]

    def _first(self, tokens: Tokens) -> Tokens:
        return tokens[: self._ends(tokens)[0]]

    def _counts(self, name: str) -> Counts | None:
        return Counts.of(self.successes[name], self.scored[name]) if name in self.scored else None

    @property
    def _content(self) -> Counts | None:
        """Verdicts on content, of the prompts where every rollout has one; None where the checker gives none."""
        counts, whole = self._counts("content"), self._of(self.scored, "rollouts")
        if counts is None or not self.tells_content:
            return None
        return Counts.of(*(np.where(counts.scored == whole, side, 0) for side in counts))

    @property
    def _begun(self) -> Counts | None:
        """After the first step of a right response, which for some is all that can be given of it."""
        placed, begun = self._counts("placed"), self._counts("begun")
        if placed is None:
            return begun
        apart = np.zeros(len(self.groups), bool)
        for p, placement in self.placements.items():
            apart[p] = placement.first != placement.last
        begun = begun or Counts.of(np.zeros(len(apart), int), 0)
        return Counts.of(*(np.where(apart, early, late) for early, late in zip(begun, placed, strict=True)))

    def _of(self, side: dict[str, np.ndarray], name: str) -> np.ndarray:
        return side.get(name, np.zeros(len(self.groups), int))

    def _record(self, name: str, requests: Asked) -> None:
        for each in (name, "content", "cut") if name == "rollouts" else (name,):
            self.successes.setdefault(each, np.zeros(len(self.groups), int))
            self.scored.setdefault(each, np.zeros(len(self.groups), int))
        for p, tokens, verdict, completion in self._sample(name, requests):
            if verdict.score is None:
                continue
            right = verdict.score >= RIGHT
            self.successes[name][p] += right
            self.scored[name][p] += 1
            if name == "rollouts":
                self.rollouts[p].append(tokens)
                self.verdicts[p].setdefault(tokens, set()).add(right)
                self.known[p] |= {tokens: sum(completion.logp)} if right else {}
                if not right and len(self.failures[p]) < FIRST:
                    self.failures[p].append(tokens)
                self.successes["cut"][p] += not right and completion.stop == "length"
                self.scored["cut"][p] += not right
                self.tells_content |= verdict.content is not None
                if verdict.right_content is not None:
                    self.successes["content"][p] += verdict.right_content
                    self.scored["content"][p] += 1

    def _sample(self, name: str, requests: Asked):
        """(prompt, response tokens with those given, verdict, what was sampled) of each request."""
        started, asked = time.perf_counter(), []
        for p, prompt, given in requests:
            key = (self.salt, int(art.digest(name), 16), int(p), self.tries[name, p])
            self.tries[name, p] += 1
            left = max(1, self.sampling.max_tokens - len(given))
            asked.append(Request((*prompt, *given), dataclasses.replace(self.sampling, max_tokens=left), key))
        completions = self.engine.generate(asked, self._model(name), progress=self.progress)
        responses = [(*given, *c.tokens) for (_, _, given), c in zip(requests, completions, strict=True)]
        verdicts = self.task.verify(
            [(self.groups[p].item, self._text(tokens)) for (p, _, _), tokens in zip(requests, responses, strict=True)]
        )
        who = "teacher_tokens" if name in TAUGHT else "tokens_generated"
        self.costs.update({who: sum(len(c.tokens) for c in completions), "verifier_calls": len(verdicts)})
        self.costs.update({"rollouts": len(requests), "seconds": time.perf_counter() - started})
        return zip([p for p, _, _ in requests], responses, verdicts, completions, strict=True)

    def _model(self, name: str) -> Model:
        if name in TAUGHT:
            return self.teacher
        return next((load() for each, load in self.earlier.items() if earlier(each) == name), self.learner)

    def _text(self, tokens: Sequence[int]) -> str:
        return self.learner.tokenizer.decode(tokens, skip_special_tokens=True)
