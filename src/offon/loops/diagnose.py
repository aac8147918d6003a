"""Diagnosing one model on one task: spend rollouts where they tell most, call each prompt, say what would help.

Order of spending: a few rollouts of every prompt; the scaffold where the task has one and it could
matter; a teacher's prefixes and completions only where success seems out of reach; then, prompt by prompt, whichever
measurement promises the largest fall of the call's entropy per rollout, until the call is sure or the prompt's budget
is spent.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offon import behavior
from offon.behavior.bottleneck import BELOW_SUPPORT, CLASSES, Measured, Rule, entropy_drop, posterior
from offon.behavior.counts import Counts
from offon.collect.steps import by_length, by_separator
from offon.data import prompt_groups
from offon.engines.api import Request
from offon.engines.native import NativeEngine
from offon.errors import DataError
from offon.loops import artefacts as art
from offon.loops.holdings import same_vocabulary
from offon.loops.probe import probe_key, prompt_infos
from offon.models.model import Model
from offon.recipe.fields import Probe
from offon.tasks import open_task
from offon.types import RIGHT, Group, Sampling
from offon.types.trajectory import Tokens

FIRST = 32  # rollouts of every prompt
MORE = 8  # rollouts of one further measurement
WORTH = 1e-3  # nats a measurement must promise to be made
TEACHER_TRIES = 4
SHORT = 16  # tokens: answers up to here are cut at every token, longer ones at line breaks
SCAFFOLD = "hint"  # the view of an item that counts as its scaffold
Progress = Callable[[dict[str, Any]], None]


def diagnose_model(
    model: str,
    task: Any,
    *,
    teacher: str | None = None,
    prompts: int = 64,
    budget: int = 128,
    k: int = 32,
    temperature: float = 1.0,
    max_tokens: int = 512,
    seed: int = 0,
    rule: Rule = Rule(),
    progress: Progress = lambda event: None,
) -> dict[str, Any]:
    """One entry of diagnosis.json: calls per prompt, the summary by family, the sentence, and what it cost.

    k is the number of rollouts per prompt that the next on-policy stage could spend. budget: the most rollouts of one
    prompt, the teacher's included. teacher: a model with the same vocabulary that solves the task; items' references
    stand in for its answers where it has none, and without either, prompts below support are not told apart.
    """
    artefact, opened = art.external(model), open_task(task)
    items = list(opened.items("heldout"))[:prompts]
    if not items:
        raise DataError(f"task {opened.name} has no held-out items", fix="a larger data set, or another split")
    learner = Model.load(artefact.path)
    guide = Model.load(art.external(teacher).path) if teacher else None
    if guide is not None:
        same_vocabulary(learner.tokenizer, guide.tokenizer, str(teacher))
    probe = Probe(prompts=prompts, samples=budget, k=k, temperature=temperature, max_tokens=max_tokens)

    def sampled(done: int, total: int) -> None:
        progress({"node": f"diagnose {artefact.label}", "task": opened.name, "generated": (done, total)})

    bench = Bench(
        learner, guide, opened, prompt_groups(items, learner.tokenizer),
        Sampling(temperature=temperature, max_tokens=max_tokens),
        salt=int(probe_key(probe, artefact.hash, task, seed), 16), progress=sampled,
    )  # fmt: skip
    progress({"note": f"at most {len(items)} prompts x {budget} rollouts of up to {max_tokens} tokens"})
    spend(bench, budget, k, rule, progress)
    entry = behavior.diagnose(
        bench.measured, prompt_infos(bench.groups), k=k, model=artefact.label, task=opened.name, rule=rule,
        notes=bench.notes,
    )  # fmt: skip
    return entry | {"teacher": teacher, "budget": budget, "cost": bench.costs}


def spend(bench: Bench, budget: int, k: int, rule: Rule, progress: Progress) -> None:
    """Measure until every prompt is called or has spent its budget."""
    everyone = np.arange(len(bench.spent))
    bench.measure("rollouts", everyone, min(FIRST, budget))
    progress({"note": bench.estimate(budget)})
    while True:
        found = posterior(bench.measured, k, rule)
        sure = found.probabilities.max(axis=1) >= rule.confidence
        before_scaffold = np.isin(
            found.probabilities.argmax(axis=1), [CLASSES.index("solved"), CLASSES.index("format")]
        )
        sure &= before_scaffold | ~bench.unhelped  # untried, a scaffold counts as no help: no ground to be sure on
        below = found.probabilities[:, [CLASSES.index(name) for name in BELOW_SUPPORT]].sum(axis=1)
        open_prompts = np.flatnonzero(~sure & (bench.spent + MORE <= budget))
        if not len(open_prompts):
            return
        if (helped := open_prompts[bench.unhelped[open_prompts]]).size:
            bench.measure("scaffold", helped, 2 * MORE)
            continue
        if bench.guided and (needy := open_prompts[(below[open_prompts] > 0.1) & ~bench.asked[open_prompts]]).size:
            bench.ask_teacher(needy)
            continue
        asked = {prompt: bench.candidates(prompt) for prompt in open_prompts}
        useful = {rate for candidates in asked.values() for rates in candidates.values() for rate in rates}
        drops = {rate: entropy_drop(found.at(open_prompts), rate, MORE) for rate in sorted(useful)}
        chosen = defaultdict(list)
        for row, prompt in enumerate(open_prompts):
            promise = {name: max(drops[rate][row] for rate in rates) for name, rates in asked[prompt].items()}
            best = max(promise, key=promise.get)
            if promise[best] >= WORTH:
                chosen[best].append(prompt)
        if not chosen:
            return
        for name, indices in chosen.items():
            bench.measure(name, np.array(indices), MORE)


@dataclass
class Bench:
    """What was measured of each prompt so far, and how to measure more. P prompts.

    What is measured has the names of `Measured`, and "rollouts" (strict and content), and "shuffled" (a control).
    """

    learner: Model
    teacher: Model | None
    task: Any
    groups: Sequence[Group]
    sampling: Sampling
    salt: int
    progress: Callable[[int, int], None]
    engine: NativeEngine = field(default_factory=NativeEngine)
    successes: dict[str, np.ndarray] = field(default_factory=dict)
    scored: dict[str, np.ndarray] = field(default_factory=dict)
    answers: dict[int, Tokens] = field(default_factory=dict)  # a right answer, up to where it gives itself away
    leaks: dict[int, int] = field(default_factory=dict)  # prompt -> prefixes that give the answer away
    failures: dict[int, list[Tokens]] = field(default_factory=lambda: defaultdict(list))  # the model's own, by prompt
    costs: Counter = field(default_factory=Counter)

    def __post_init__(self):
        self.spent = np.zeros(len(self.groups), int)
        self.asked = np.zeros(len(self.groups), bool)
        self.tries: Counter = Counter()

    @property
    def guided(self) -> bool:
        return self.teacher is not None or any(group.item.reference for group in self.groups)

    @property
    def unhelped(self) -> np.ndarray:
        """[P] whether a prompt has a scaffold that was not tried yet."""
        tried = self.scored.get("scaffold", np.zeros(len(self.groups), int)) > 0
        return np.array([SCAFFOLD in group.views for group in self.groups]) & ~tried

    @property
    def measured(self) -> Measured:
        def counts(name: str) -> Counts | None:
            return Counts.of(self.successes[name], self.scored[name]) if name in self.scored else None

        others = {name: counts(name) for name in ("content", "scaffold", "placed", "finished", "placebo")}
        return Measured(strict=counts("rollouts"), **others)

    @property
    def notes(self) -> list[str]:
        notes = []
        if "shuffled" in self.scored:
            right, tried = int(self.successes["shuffled"].sum()), int(self.scored["shuffled"].sum())
            notes.append(f"control: after another prompt's prefix the model succeeds in {right} of {tried}")
        if leaked := sum(self.leaks.values()):
            notes.append(f"control: {leaked} prefixes already hold the answer and were not used")
        if self.guided and (unplaced := int(self.asked.sum()) - len(self.answers)):
            notes.append(f"{unplaced} prompts without a right answer by teacher or reference: not placed")
        return notes

    def estimate(self, budget: int) -> str:
        """How much is left to spend, from the pace so far."""
        per_rollout = self.costs["tokens_generated"] / max(self.costs["rollouts"], 1)
        left = int((budget - self.spent).sum())
        pace = self.costs["tokens_generated"] / max(self.costs["seconds"], 1e-9)
        seconds = left * per_rollout / max(pace, 1e-9)
        return f"at most {left:,} more rollouts, {int(left * per_rollout):,} tokens, about {seconds:.0f} s"

    def candidates(self, prompt: int) -> dict[str, tuple[str, ...]]:
        """What could be measured next on a prompt, and the rates of the posterior that its outcomes inform."""
        found = {"rollouts": ("content", "ratio")}
        if SCAFFOLD in self.groups[prompt].views:
            found["scaffold"] = ("scaffold",)
        if prompt in self.answers:
            found["placed"] = ("placed",)
        if self.teacher is not None and self.failures[prompt]:
            found["finished"] = ("finished",)
            if any(self.failures[other] for other in self.failures if other != prompt):
                found["placebo"] = ("placebo",)
        return found

    def ask_teacher(self, prompts: np.ndarray) -> None:
        """Find a right answer for each prompt, and cut it where it gives itself away: where it passes the checker."""
        self.asked[prompts] = True
        right: dict[int, Tokens] = {}
        if self.teacher is not None:
            requests = [(p, self.groups[p].prompt, ()) for p in prompts for _ in range(TEACHER_TRIES)]
            for (p, _, _), tokens, verdict in self._sample("teacher", requests, self.teacher):
                if verdict.score is not None and verdict.score >= RIGHT:
                    right.setdefault(p, tokens)
            self.spent[prompts] += TEACHER_TRIES
        for p in prompts:
            reference = self.groups[p].item.reference
            if p not in right and reference:
                right[p] = tuple(self.learner.tokenizer(reference, add_special_tokens=False).input_ids)
        cut = {p: self._prefixes(tokens)[:-1] for p, tokens in right.items()}
        asked = [(p, prefix) for p, prefixes in cut.items() for prefix in prefixes]
        verdicts = self.task.verify([(self.groups[p].item, self._text(prefix)) for p, prefix in asked])
        for (p, prefix), verdict in zip(asked, verdicts, strict=True):
            given_away = max(verdict.score or 0.0, verdict.content or 0.0) >= RIGHT
            self.leaks[p] = self.leaks.get(p, 0) + given_away
            if not given_away:
                self.answers[p] = prefix  # prefixes come from the shortest up
        self._control(list(self.answers))

    def _control(self, prompts: Sequence[int]) -> None:
        """One continuation of another prompt's prefix each: it should succeed no more often than plain rollouts."""
        if len(prompts) > 1:
            shifted = [*prompts[1:], prompts[0]]
            requests = [(p, self.groups[p].prompt, self.answers[q]) for p, q in zip(prompts, shifted, strict=True)]
            self._record("shuffled", requests, self.learner)

    def measure(self, name: str, prompts: np.ndarray, samples: int) -> None:
        """More outcomes of one kind on some prompts."""
        requests, others = [], [p for p in self.failures if self.failures[p]]
        for p in prompts:
            group = self.groups[p]
            for sample in range(samples):
                at = int(self.scored.get(name, np.zeros(len(self.groups), int))[p]) + sample
                match name:
                    case "rollouts":
                        requests.append((p, group.prompt, ()))
                    case "scaffold":
                        requests.append((p, group.views[SCAFFOLD], ()))
                    case "placed":
                        requests.append((p, group.prompt, self.answers[p]))
                    case "finished":
                        own = self.failures[p]
                        requests.append((p, group.prompt, self._prefixes(own[at % len(own)])[0]))
                    case "placebo":
                        other = self.failures[next(q for q in others[at % len(others) :] + others if q != p)]
                        requests.append((p, group.prompt, self._half(other[at % len(other)])))
        self._record(name, requests, self.teacher if name in ("finished", "placebo") else self.learner)
        self.spent[prompts] += samples

    def _record(self, name: str, requests: Sequence[tuple[int, Tokens, Tokens]], model: Model) -> None:
        names = (name, "content") if name == "rollouts" else (name,)
        for each in names:
            self.successes.setdefault(each, np.zeros(len(self.groups), int))
            self.scored.setdefault(each, np.zeros(len(self.groups), int))
        for (p, _, _), tokens, verdict in self._sample(name, requests, model):
            if verdict.score is None:
                continue
            right = verdict.score >= RIGHT
            self.successes[name][p] += right
            self.scored[name][p] += 1
            if name == "rollouts":
                if not right and len(self.failures[p]) < FIRST:
                    self.failures[p].append(tokens)
                if verdict.content is not None:
                    self.successes["content"][p] += verdict.content >= RIGHT
                    self.scored["content"][p] += 1

    def _sample(self, name: str, requests, model: Model):
        """(request, response tokens with their given prefix, verdict) for each (prompt, prefix of prompt, given)."""
        started, asked = time.perf_counter(), []
        for p, prompt, given in requests:
            key = (self.salt, int(art.digest(name), 16), int(p), self.tries[name, p])
            self.tries[name, p] += 1
            left = max(1, self.sampling.max_tokens - len(given))
            asked.append(Request((*prompt, *given), dataclasses.replace(self.sampling, max_tokens=left), key))
        completions = self.engine.generate(asked, model, progress=self.progress)
        responses = [(*given, *c.tokens) for (_, _, given), c in zip(requests, completions, strict=True)]
        verdicts = self.task.verify(
            [(self.groups[p].item, self._text(tokens)) for (p, _, _), tokens in zip(requests, responses, strict=True)]
        )
        who = "teacher_tokens" if model is self.teacher else "tokens_generated"
        self.costs.update({who: sum(len(c.tokens) for c in completions), "verifier_calls": len(verdicts)})
        self.costs.update({"rollouts": len(requests), "seconds": time.perf_counter() - started})
        return zip(requests, responses, verdicts, strict=True)

    def _prefixes(self, tokens: Tokens) -> list[Tokens]:
        """A response's beginnings, step by step, the whole of it last."""
        if len(tokens) <= SHORT:
            ends = by_length(len(tokens), 1)
        else:
            ends = by_separator(len(tokens), "\n", lambda n: self._text(tokens[:n]))
        return [tuple(tokens[:end]) for end in ends]

    def _half(self, tokens: Tokens) -> Tokens:
        """The first half of a response's steps. Of another prompt it is surely wrong, where its first step alone, a
        word that opens many answers, may be as right here as there."""
        prefixes = self._prefixes(tokens)
        return prefixes[(len(prefixes) - 1) // 2]

    def _text(self, tokens: Sequence[int]) -> str:
        return self.learner.tokenizer.decode(tokens, skip_special_tokens=True)
