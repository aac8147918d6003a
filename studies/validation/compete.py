"""Prompts that compete: does RLVR raise pass@1 and lower pass@k at large k (arXiv:2504.13837)?

The testbed's base answers prompts of `rare` by the route backward (45%), rotate (40%) or forward (15%), whatever the
program. Here the checker wants backward on most programs and forward on a minority of them, drawn by a hash of the
program: nothing in the prompt tells, so that one decision for a route serves all. What is rewarded on most prompts
takes the route away that the others need.

    grpo, and with entropy_bonus, kl_anchor, pass_at_k
    control     grpo where every program wants backward: nothing competes
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offon.behavior.statistics.intervals import Est, mean_over_prompts
from offon.models.model import Model
from offon.testbed import TestbedTask
from offon.testbed.grammar import RIGHT_FORMAT, Program, content_hash
from offon.testbed.oracle import exact
from offon.types import Item, Verdict
from studies.validation.findings import Finding

KS = (1, 4, 16, 64, 256, 1024, 4096)
EVEN = 1e-6  # a smaller change of pass@k is none
STAGE = {
    "method": "grpo", "group_size": 8, "prompts_per_step": 16, "max_tokens": 8, "learning_rate": 1e-4, "steps": 60,
}  # fmt: skip
ARMS: dict[str, list[Any]] = {
    "grpo": [],
    "grpo, entropy_bonus .01": [{"entropy_bonus": {"coef": 0.01}}],
    "grpo, kl_anchor .05": [{"kl_anchor": {"coef": 0.05}}],
    "grpo, kl_anchor .5": [{"kl_anchor": {"coef": 0.5}}],
    "grpo, pass_at_k 4": [{"pass_at_k": {"k": 4}}],
    "control, grpo": [],
}


@dataclass(frozen=True)
class Competing:
    """Prompts of `rare`; the right route is backward, and forward on a share of the programs. any_format: only the
    content is checked."""

    minority: float = 0.2
    any_format: bool = False
    train: int = 512
    heldout: int = 96

    @property
    def name(self) -> str:
        return f"competing {self.minority:g}" + (" in any format" if self.any_format else "")

    def items(self, split: str) -> list[Item]:
        found = TestbedTask("rare", train=self.train, heldout=self.heldout).items(split)
        return [self._asking(item) for item in found]

    def _asking(self, item: Item) -> Item:
        start, *ops = item.prompt.split()[1:5]
        program = Program(start, tuple(ops))
        few = content_hash("minority", start, *ops) % 1000 < 1000 * self.minority
        route = "forward" if few else "backward"
        trace = " ".join(program.trace(route))
        return dataclasses.replace(
            item, columns={"trace": trace, "few": few}, reference=f"{route} {trace} {RIGHT_FORMAT}"
        )

    def verify(self, pairs: Sequence[tuple[Item, str]]) -> list[Verdict]:
        verdicts = TestbedTask().verify(pairs)
        return [Verdict(v.content, content=v.content) for v in verdicts] if self.any_format else verdicts


def task_of(arm: str) -> Competing:
    return Competing(0.0 if arm.startswith("control") else 0.2)


def nodes(steps: int) -> dict[str, Any]:
    """One training node per arm, all from the base."""
    return {
        _node(arm): {**STAGE, "steps": steps, "init": "testbed:base", "task": task_of(arm), "with": added}
        for arm, added in ARMS.items()
    }


def _node(arm: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in arm)


def success(path: Path, task: Competing) -> list[float]:
    model = Model.load(path)
    return [row.success for row in exact(model.hf, model.tokenizer, task.items("heldout"))]


def measured(run: Path, base: Path) -> dict[str, dict[str, list[float]]]:
    """Exact success of each held-out prompt before and after each arm."""
    found = {}
    for arm in ARMS:
        task = task_of(arm)
        found[arm] = {
            "before": success(base, task), "after": success(run / "nodes" / _node(arm) / "final", task),
            "few": [float(item.columns["few"]) for item in task.items("heldout")],
        }  # fmt: skip
    return found


def within(p: np.ndarray, k: int) -> np.ndarray:
    """pass@k of each prompt from its exact probability."""
    return -np.expm1(k * np.log1p(-np.minimum(p, 1 - 1e-12)))


def crossover(before: np.ndarray, after: np.ndarray) -> float:
    """The smallest k of 1, 2, 4, ... 4096 at which the mean of pass@k fell; infinity if it never does."""
    ks = 2 ** np.arange(13)
    fell = [within(after, k).mean() < within(before, k).mean() - EVEN for k in ks]
    return float(ks[np.argmax(fell)]) if any(fell) else float("inf")


def findings(seeds: Sequence[Mapping[str, Mapping[str, Sequence[float]]]]) -> list[Finding]:
    found = []
    for arm, relations in {"grpo": (">=", "<="), "control, grpo": (">=", ">=")}.items():
        for k, relation in zip((1, 4096), relations, strict=True):
            est = change(seeds, arm, k)
            side = est.low if relation == ">=" else est.high
            found.append(
                Finding(what=f"{arm}: change of pass@{k}, the end of its interval nearer 0", value=float(side) + 0.0,
                        relation=relation, bound=-EVEN if relation == ">=" else 0.0, of=f"{est}, {len(seeds)} seeds")
            )  # fmt: skip
    return found


def table(seeds: Sequence[Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    """Change of pass@k by arm, and where it turns."""
    lines = [
        f"| change of pass@k, k = | {' | '.join(map(str, KS))} | first k with a fall, by seed | minority, success |",
        "|---" * (len(KS) + 3) + "|",
    ]
    first = _by_seed(seeds, "grpo", "before")
    lines.append(
        f"| before (pass@k) | {' | '.join(f'{within(first, k).mean():.3f}' for k in KS)} | | "
        f"{first[_by_seed(seeds, 'grpo', 'few') > 0].mean():.3f} |"
    )
    for arm in ARMS:
        after, few = (_by_seed(seeds, arm, what) for what in ("after", "few"))
        changes = [change(seeds, arm, k) for k in KS]
        turns = [crossover(np.array(seed[arm]["before"]), np.array(seed[arm]["after"])) for seed in seeds]
        told = ", ".join("never" if np.isinf(k) else f"{k:.0f}" for k in turns)
        left = f"{np.exp(np.log(after[few > 0]).mean()):.2g} (geometric mean)" if few.any() else "none"
        cells = [f"{c.estimate:+.3f} [{c.low:+.3f}, {c.high:+.3f}]" for c in changes]
        lines.append(f"| {arm} | {' | '.join(cells)} | {told} | {left} |")
    return "\n".join(lines)


def change(seeds, arm: str, k: int) -> Est:
    """Of pass@k; a prompt's mean over seeds is a row of the interval, since all seeds ask the same prompts."""
    before, after = (within(_by_seed(seeds, arm, what), k) for what in ("before", "after"))
    return mean_over_prompts((after - before).mean(axis=0))[0]


def _by_seed(seeds, arm: str, what: str) -> np.ndarray:
    """[seeds, prompts]"""
    return np.array([seed[arm][what] for seed in seeds])
