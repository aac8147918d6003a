"""Diagnosis where every rate is known: a response is a chain of events, and rollouts are coin flips.

    route, step 1 .. step 4, format        each right with a known probability; with a scaffold, the route has its own

    content = route * steps                strict = content * format
    placed    from a teacher's answer up to its last step:      step 4 * format
    finished  from the model's own route, by the teacher:       route * teacher
    placebo   from a wrong response to another prompt:          0 (or what a teacher that starts over gets)

The spender is `offon.loops.diagnose.spend`, as it runs on models.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from offon.behavior.bottleneck import CLASSES, Measured, Rule, class_calls, classify, posterior
from offon.behavior.counts import Counts
from offon.loops.spend import spend
TEACHER_TRIES=4
from studies.validation.findings import Finding
from studies.validation.scores import score

BUDGET, K = 224, 64
TEACHER = 0.95
RATES = ("content", "ratio", "scaffold", "placed", "finished", "placebo")


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
    finished = events["route"] * TEACHER
    return {
        "content": events["route"] * steps,
        "ratio": events["format"],
        "scaffold": events["hinted"] * steps * events["format"],
        "placed": events["step 4"] * events["format"],
        "finished": finished + (1 - finished) * restart,
        "placebo": np.full(len(steps), TEACHER * restart),
    }


@dataclass
class Coins:
    """What `spend` needs of a bench, with known rates in place of models."""

    rates: dict[str, np.ndarray]
    rng: np.random.Generator
    guided: bool = True
    successes: dict[str, np.ndarray] = field(default_factory=dict)
    scored: dict[str, np.ndarray] = field(default_factory=dict)
    costs: Counter = field(default_factory=Counter)

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
        names = ("strict", "content", "scaffold", "placed", "finished", "placebo")
        return Measured(**{name: Counts.of(*self._of(name)) for name in names})

    def candidates(self, prompt: int) -> dict[str, tuple[str, ...]]:
        found = {"rollouts": ("content", "ratio"), "scaffold": ("scaffold",)}
        if self.asked[prompt]:
            found |= {name: (name,) for name in ("placed", "finished", "placebo")}
        return found

    def ask_teacher(self, prompts: np.ndarray) -> None:
        self.asked[prompts] = True
        self.spent[prompts] += TEACHER_TRIES

    def measure(self, name: str, prompts: np.ndarray, samples: int) -> None:
        self.spent[prompts] += samples
        if name == "rollouts":
            content = self.rng.binomial(samples, self.rates["content"][prompts])
            self._add("content", prompts, content, samples)
            self._add("strict", prompts, self.rng.binomial(content, self.rates["ratio"][prompts]), samples)
        else:
            self._add(name, prompts, self.rng.binomial(samples, self.rates[name][prompts]), samples)

    def _add(self, name: str, prompts, right, samples: int) -> None:
        successes, scored = self._of(name)
        successes[prompts] += right
        scored[prompts] += samples


def true_classes(rates: dict[str, np.ndarray], k: int = K) -> list[str]:
    """The rule on the rates themselves."""
    known = {**rates, "strict": rates["content"] * rates["ratio"], "better": rates["scaffold"]}
    return [CLASSES[index] for index in classify(known, k)]


def diagnosed(name: str, rates: dict[str, np.ndarray], rng, *, budget: int = BUDGET, k: int = K) -> list[Finding]:
    bench, rule = Coins(rates, rng), Rule()
    spend(bench, budget, k, rule)
    found = posterior(bench.measured, k, rule).probabilities
    return score(name, class_calls(found, rule), found, true_classes(rates, k), bench.spent)


def run(quick: bool) -> list[Finding]:
    per_class, rng = (12 if quick else 150), np.random.default_rng(0)
    parts = [planted(kind, per_class, rng) for kind in CLASSES]
    events = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rates = rates_of(events)
    failed = np.mean(np.array(true_classes(rates)) != np.repeat(CLASSES, per_class))
    hard = rates_of(at_the_thresholds(per_class * 4, rng))
    return [
        *diagnosed("events, balanced", rates, rng),
        Finding(what="events, balanced: planting failed", value=float(failed), told=True,
                of="scored against the realised class"),
        *diagnosed("events, teacher restarts in 15%", rates_of(events, restart=0.15), rng),
        *diagnosed("events, at the thresholds", hard, rng),
    ]  # fmt: skip
