"""Diagnosis where every rate is known: a response is a chain of events, and rollouts are coin flips.

    route, step 1 .. step 4, format        each right with a known probability; with a scaffold, the route has its own

    content = route * steps                strict = content * format
    begun     from the first step of a teacher's answer:        the steps * format
    placed    from a teacher's answer up to its last step:      step 4 * format
    finished  from the model's own route, by the teacher:       route * teacher
    placebo   from a wrong response to another prompt:          0 (or what a teacher that starts over gets)

The spender is `offon.diagnosis.allocation.allocate`, as it runs on models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from offon.behavior.change.k_to_solve import k_to_solve
from offon.behavior.diagnosis.bottleneck import (
    CLASSES,
    Barriers,
    Measured,
    Rule,
    class_calls,
    classify,
    posterior,
    several,
)
from offon.behavior.statistics.checker_errors import Checker
from offon.behavior.statistics.counts import Counts
from offon.diagnosis.allocation import allocate
from offon.diagnosis.measurements import TEACHER_TRIES
from studies.validation.findings import Finding
from studies.validation.scores import ACCURACY, DECIDED, WANTED, over_seeds, scores

BUDGET, K = 224, 64
SEEDS = tuple(range(5))
MORE_SEEDS = tuple(range(15))  # at the thresholds 1 prompt in 28 is within reach by less than 35%
TEACHER = 0.95
Accepts = tuple[float, float]  # TPR and FPR of the checker
PERFECT: Accepts = (1.0, 0.0)
# name -> scores that are told without a threshold: those that another row is there to be compared with
SCENARIOS = {
    "balanced": (),
    "balanced, 60 prompts at a time": (),
    "teacher restarts in 15%": (),
    "at the thresholds": (),
    "checker rejects 20% of right answers": tuple(WANTED),
    "checker rejects 20% of right answers, 800 labels": (),
    "checker accepts 90% of right, 10% of wrong answers": tuple(WANTED),
    "checker accepts 90% of right, 10% of wrong answers, 800 labels": (DECIDED,),
}
PLANTED = tuple(name for name in CLASSES if name != "truncated")  # these responses all end
RATES = ("content", "ratio", "scaffold", "begun", "placed", "finished", "placebo")
STEPS = ("improbable", "least")  # of the steps in between


def planted(kind: str, n: int, rng) -> dict[str, np.ndarray]:
    """The events of n prompts with one bottleneck, [P] each."""

    def between(low, high):
        return rng.uniform(low, high, n)

    events = {f"step {i}": between(0.97, 1) for i in (1, 2, 3, 4)}
    events |= {"route": between(0.97, 1), "format": between(0.97, 1), "hinted": between(0.97, 1)}
    match kind:
        case "format":
            events["format"] = between(0, 0.3)
        case "fragile":
            events["route"] = between(0, 0.25)
        case "ranking":
            events["route"] = events["hinted"] = between(0.12, 0.6)
        case "local":
            events["step 2"] = between(0, 0.02)
        case "unreachable":
            events["route"] = events["hinted"] = between(0, 0.02)
        case "missing":
            events["step 4"] = between(0, 0.02)
            events["step 2"] = np.where(rng.random(n) < 0.5, between(0, 0.3), events["step 2"])
    return events


def at_the_thresholds(n: int, rng) -> dict[str, np.ndarray]:
    """Rates drawn around the rule's own thresholds: hard by construction, no call expected on many."""
    events = {name: rng.choice([0.02, 0.06, 0.3, 0.5, 0.8, 0.9, 1], n) for name in ("route", "format", "hinted")}
    events["hinted"] = np.maximum(events["hinted"], events["route"])
    return events | {f"step {i}": rng.choice([0.05, 0.5, 0.95, 1, 1], n) for i in (1, 2, 3, 4)}


def rates_of(events: dict[str, np.ndarray], restart: float = 0.0) -> dict[str, np.ndarray]:
    steps = np.prod([events[f"step {i}"] for i in (1, 2, 3, 4)], axis=0)
    finished, between = events["route"] * TEACHER, np.array([events[f"step {i}"] for i in (1, 2, 3)])
    return {
        "content": events["route"] * steps,
        "ratio": events["format"],
        "scaffold": events["hinted"] * steps * events["format"],
        "begun": steps * events["format"],
        "placed": events["step 4"] * events["format"],
        "improbable": np.sum(between < Rule().improbable, axis=0),
        "least": np.min(between, axis=0),
        "finished": finished + (1 - finished) * restart,
        "placebo": np.full(len(steps), TEACHER * restart),
    }


@dataclass
class Coins:
    """What `allocate` needs of a bench, with known rates in place of models."""

    rates: dict[str, np.ndarray]
    rng: np.random.Generator
    guided: bool = True
    accepts: Accepts = PERFECT
    successes: dict[str, np.ndarray] = field(default_factory=dict)
    scored: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        prompts = len(self.rates["content"])
        self.spent, self.asked = np.zeros(prompts, int), np.zeros(prompts, bool)

    @property
    def untried(self) -> dict[str, np.ndarray]:
        return {"scaffold": self._of("scaffold")[1] == 0}

    @property
    def placeable(self) -> np.ndarray:
        return np.full(len(self.spent), self.guided)

    def _of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        zeros = np.zeros(len(self.spent), int)
        return self.successes.setdefault(name, zeros.copy()), self.scored.setdefault(name, zeros)

    @property
    def measured(self) -> Measured:
        names = ("strict", "content", "scaffold", "begun", "placed", "finished", "placebo")
        known = Barriers(*(self.rates[name] for name in STEPS)) if STEPS[0] in self.rates else None
        told = [name for name in names if name != "begun" or name in self.rates]
        return Measured(**{name: Counts.of(*self._of(name)) for name in told}, barriers=known)

    def candidates(self, prompt: int) -> dict[str, tuple[str, ...]]:
        found = {"rollouts": ("content", "ratio"), "scaffold": ("scaffold",)}
        if self.asked[prompt]:
            found |= {name: (name,) for name in ("begun", "placed", "finished", "placebo") if name in self.rates}
        return found

    def ask_teacher(self, prompts: np.ndarray) -> None:
        self.asked[prompts] = True
        self.spent[prompts] += TEACHER_TRIES

    def measure(self, name: str, prompts: np.ndarray, samples: int) -> None:
        self.spent[prompts] += samples
        right, wrong = self.accepts
        rate = self.rates["content" if name == "rollouts" else name][prompts]
        accepted = self.rng.binomial(samples, wrong + (right - wrong) * rate)
        if name == "rollouts":
            self._add("content", prompts, accepted, samples)
            self._add("strict", prompts, self.rng.binomial(accepted, self.rates["ratio"][prompts]), samples)
        else:
            self._add(name, prompts, accepted, samples)

    def _add(self, name: str, prompts, right, samples: int) -> None:
        successes, scored = self._of(name)
        successes[prompts] += right
        scored[prompts] += samples


def true_classes(rates: dict[str, np.ndarray], k: int = K) -> list[str]:
    """The rule on the rates themselves."""
    known = {**rates, "strict": rates["content"] * rates["ratio"], "better": rates["scaffold"]}
    if STEPS[0] in rates:
        known["several"] = several(Barriers(*(rates[name] for name in STEPS)), rates["begun"], rates["placed"])
    return [CLASSES[index] for index in classify(known, k)]


@dataclass
class Diagnosed:
    """Everything that was found of some prompts, and what is true of them."""

    calls: list[str]
    shares: np.ndarray
    true: list[str]
    spent: np.ndarray
    strict: Counts
    rate: np.ndarray  # of strict success

    @staticmethod
    def of(
        rates: dict[str, np.ndarray], rng, *, budget: int = BUDGET, k: int = K, accepts: Accepts = PERFECT,
        checker: Checker | None = None,
    ) -> Diagnosed:  # fmt: skip
        bench, rule = Coins(rates, rng, accepts=accepts), Rule()
        allocate(bench, budget, k, rule, checker=checker)
        found = posterior(bench.measured, k, rule, checker=checker)
        return Diagnosed(
            class_calls(found, rule), found.probabilities, true_classes(rates, k), bench.spent, bench.measured.strict,
            rates["content"] * rates["ratio"],
        )  # fmt: skip

    @property
    def scores(self) -> dict[str, float]:
        return scores(self.calls, self.shares, self.true, self.spent)

    @property
    def held(self) -> float:
        """Share of the intervals of tries until solved that hold the true number."""
        tries = [k_to_solve(int(c), int(n)) for c, n in zip(*self.strict, strict=True)]
        return float(np.mean([t.low <= p <= t.high for t, p in zip(tries, self.rate, strict=True)]))


def balanced(per_class: int, rng) -> dict[str, np.ndarray]:
    parts = [planted(kind, per_class, rng) for kind in PLANTED]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def together(parts: Sequence[Diagnosed]) -> Diagnosed:
    return Diagnosed(
        [call for part in parts for call in part.calls], np.concatenate([part.shares for part in parts]),
        [true for part in parts for true in part.true], np.concatenate([part.spent for part in parts]),
        Counts.of(*(np.concatenate([part.strict[i] for part in parts]) for i in (0, 1))),
        np.concatenate([part.rate for part in parts]),
    )  # fmt: skip


def in_tasks(rates: dict[str, np.ndarray], rng, size: int) -> Diagnosed:
    """Diagnosed so many prompts at a time: too few for a prior of their own."""
    order = rng.permutation(len(rates["content"]))
    return together([
        Diagnosed.of({name: rate[order[at : at + size]] for name, rate in rates.items()}, rng)
        for at in range(0, len(order), size)
    ])  # fmt: skip


def labelled(accepts: Accepts, number: int, rng) -> Checker:
    right, wrong = accepts
    return Checker(
        accepted_right=rng.binomial(number, right), right=number, accepted_wrong=rng.binomial(number, wrong),
        wrong=number,
    )  # fmt: skip


def scenario(name: str, per_class: int, seed: int) -> Diagnosed:
    rng = np.random.default_rng(seed)
    if name == "at the thresholds":
        return Diagnosed.of(rates_of(at_the_thresholds(per_class * len(PLANTED), rng)), rng)
    rates = rates_of(balanced(per_class, rng), restart=0.15 if "restarts" in name else 0.0)
    if name == "balanced, 60 prompts at a time":
        return in_tasks(rates, rng, 60)
    accepts = (0.8, 0.0) if "rejects" in name else (0.9, 0.1) if "accepts" in name else PERFECT
    checker = labelled(accepts, 400, rng) if "labels" in name else None
    return Diagnosed.of(rates, rng, accepts=accepts, checker=checker)


def mistaken(parts: Sequence[Diagnosed], true: str, call: str) -> tuple[float, str]:
    pairs = [pair for part in parts for pair in zip(part.true, part.calls, strict=True) if pair[0] == true]
    return sum(pair[1] == call for pair in pairs) / len(pairs), f"{len(pairs)} prompts"


def run(quick: bool) -> list[Finding]:
    per_class, seeds = (12, (0, 1)) if quick else (60, SEEDS)
    found = []
    for name, told in SCENARIOS.items():
        chosen = MORE_SEEDS if name == "at the thresholds" and not quick else seeds
        parts = [scenario(name, per_class, seed) for seed in chosen]
        found += findings(f"events, {name}", parts, told)
    return found


def findings(name: str, parts: Sequence[Diagnosed], told: Sequence[str]) -> list[Finding]:
    """The scores, one part per seed; where a checker has errors, also what they turn into what."""
    spent = np.concatenate([part.spent for part in parts])
    rows = over_seeds(name, [part.scores for part in parts], len(parts[0].calls), spent, told=told)
    rows = [row for row in rows if not row.told or row.what.endswith((ACCURACY, DECIDED))]
    if "checker" not in name:
        held = [part.held for part in parts]
        of = f"{len(held)} seeds, {min(held):.3f} to {max(held):.3f}"
        what = f"{name}: tries until solved, intervals that hold"
        return [*rows, Finding(what=what, value=float(np.mean(held)), relation=">=", bound=0.95, of=of)]
    for true in ("solved", "missing"):
        share, of = mistaken(parts, true, "ranking")
        rows.append(Finding(what=f"{name}: {true} called ranking", value=share, relation="<=", bound=0.05, of=of,
                            told="labels" not in name))  # fmt: skip
    return rows
