"""The causal matrix: what is in its cells, which intervention did best in each class, and the signatures.

Axes: S seeds, P prompts. The prompts of all seeds are the same: a prompt's mean over seeds is one row of an interval,
and what single seeds say stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offon.behavior.change.support import support_threshold
from offon.behavior.stage.retention import ratio
from offon.behavior.statistics.intervals import Est, mean_over_prompts
from studies.validation.findings import Finding, Section

MARGIN = 0.02  # success; a difference that does not matter
CHOICE = {
    "solved": "nothing", "format": "format", "fragile": "scaffolded self", "ranking": "rl", "local": "teacher on own",
    "unreachable": "route", "missing": "demonstrations", "unsupported": "demonstrations",
}  # fmt: skip
MAPPED = {kind: call for kind, call in CHOICE.items() if kind not in ("fragile", "unsupported")} | {
    "scaffold": CHOICE["fragile"], "lost": "earlier self",
}  # fmt: skip
CORRECTED = MAPPED | {"format": "format, whole", "local": "teacher on own, forward"}  # after seeing the matrix


@dataclass(frozen=True)
class Verdict:
    """Of one intervention in one class: best, tied or worse than the best other, and by how much (other - this)."""

    word: str
    rival: str
    behind: Est

    @property
    def holds(self) -> bool:
        return self.word != "worse"


@dataclass
class Matrix:
    """cells[seed, class, intervention], before[seed, class], calls[seed]: as `causal` keeps them."""

    classes: tuple[str, ...]
    names: tuple[str, ...]
    k: int
    cells: dict[tuple[int, str, str], Mapping[str, Any]] = field(default_factory=dict)
    before: dict[tuple[int, str], Mapping[str, Any]] = field(default_factory=dict)
    calls: dict[int, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        return sorted(self.calls)

    def after(self, kind: str, name: str, what: str = "success", seeds: Sequence[int] | None = None) -> np.ndarray:
        """[S, P, ...]"""
        return np.array([self.cells[seed, kind, name]["after"][what] for seed in seeds or self.seeds])

    def guard(self, kind: str, name: str) -> np.ndarray:
        """Change of success on solved families, [S, P]."""
        before = [self.before[seed, "solved"]["student"]["success"] for seed in self.seeds]
        return np.array([self.cells[seed, kind, name]["guard"] for seed in self.seeds]) - np.array(before)

    def start(self, kind: str, what: str = "success") -> np.ndarray:
        return np.array([self.before[seed, kind]["student"][what] for seed in self.seeds])

    def other(self, kind: str, what: str) -> np.ndarray:
        return np.array([self.before[seed, kind][what] for seed in self.seeds])

    def verdict(self, kind: str, name: str, seeds: Sequence[int] | None = None) -> Verdict:
        means = {other: self.after(kind, other, seeds=seeds).mean() for other in self.names if other != name}
        rival = max(means, key=means.get)
        here, there = (self.after(kind, each, seeds=seeds) for each in (name, rival))
        behind = over_prompts(there - here)
        word = "best" if behind.estimate <= 0 else "tied" if behind.low <= MARGIN else "worse"
        return Verdict(word, rival, behind)

    def chosen(self, seed: int, kind: str) -> tuple[str, str]:
        """What most prompts of a class were called, and the intervention that names."""
        calls = self.calls[seed].get(kind, {})
        call = max(calls, key=calls.get, default="undecided")
        return call, CHOICE.get(call, "nothing")

    # --- signatures ----------------------------------------------------------------------------------------------

    def parts(self, kind: str, name: str) -> dict[str, np.ndarray]:
        """Exact terms of the change of each prompt, [S, P]: D1 by prompt at k, and D3 cut after the route word."""
        p0, p1 = self.start(kind), self.after(kind, name)
        eps = support_threshold(self.k)
        change = p1 - p0
        routes = [self.start(kind, "routes"), self.after(kind, name, "routes")]
        rest = [self.start(kind, "rest"), self.after(kind, name, "rest")]
        v = {(a, b): (routes[a] * rest[b]).sum(axis=-1) for a in (0, 1) for b in (0, 1)}
        return {
            "total": change,
            "expansion": change * ((p0 < eps) & (p1 >= eps)),
            "shared": change * ((p0 >= eps) & (p1 >= eps)),
            "prefix": (v[1, 0] - v[0, 0] + v[1, 1] - v[0, 1]) / 2,
            "suffix": (v[0, 1] - v[0, 0] + v[1, 1] - v[1, 0]) / 2,
        }

    def signature(self, kind: str) -> list[tuple[str, Est, str, float]]:
        """What the mapped intervention promised: (sentence, measured, relation, bound)."""
        name = MAPPED[kind]
        p0, p1, parts = self.start(kind), self.after(kind, name), self.parts(kind, name)

        def share(part: str) -> Est:
            return share_of(parts[part], parts["total"])

        match kind:
            case "format":
                content = self.after(kind, name, "content")
                return [
                    ("strict success over content", share_of(p1, content), ">=", 0.8),
                    ("fall of content", over_prompts(self.start(kind, "content") - content), "<=", 0.05),
                ]
            case "scaffold":
                hinted = self.other(kind, "hinted")
                return [("amortisation", share_of(p1 - p0, hinted - p0), ">=", 0.8)]
            case "lost":
                earlier = self.other(kind, "earlier")
                lost = share_of(np.maximum(earlier - p1, 0), earlier)
                return [("retention of the earlier checkpoint", Est(1 - lost[0], 1 - lost[2], 1 - lost[1]), ">=", 0.8)]
            case "ranking":
                return [("expansion of the change", share("expansion"), "<=", 0.1),
                        ("shared of the change", share("shared"), ">=", 0.9)]  # fmt: skip
            case "local":
                return [("prefix of the change", share("prefix"), "<=", 0.2)]
            case "unreachable":
                return [("prefix of the change", share("prefix"), ">=", 0.8)]
            case "missing":
                return [("expansion of the change", share("expansion"), ">=", 0.5)]
        return []

    # --- the page ------------------------------------------------------------------------------------------------

    def section(self) -> Section:
        return Section(self.findings(), tables=(self.successes(), self.guards(), self.judged(), self.costs()))

    def findings(self) -> list[Finding]:
        mapped = [self.verdict(kind, MAPPED[kind]) for kind in self.classes]
        mended = [self.verdict(kind, CORRECTED[kind]) for kind in self.classes]
        others = [self.verdict(kind, n).holds for kind in self.classes for n in self.names if n != MAPPED[kind]]
        own = [
            self.verdict(kind, self.chosen(seed, kind)[1], [seed]).holds for seed in self.seeds for kind in self.classes
        ]
        of = f"{len(self.classes)} classes x {len(self.names)} interventions, {len(self.seeds)} seeds"
        found = [
            Finding(what="the mapped intervention is best or tied, share of classes",
                    value=float(np.mean([verdict.holds for verdict in mapped])), relation=">=", bound=0.8,
                    of=f"{of}; best in {sum(verdict.word == 'best' for verdict in mapped)}"),
            Finding(what="the same with the map corrected on this matrix",
                    value=float(np.mean([verdict.holds for verdict in mended])), told=True,
                    of=", ".join(f"{kind}: {name}" for kind, name in CORRECTED.items() if name != MAPPED[kind])),
            Finding(what="an intervention the map does not name is best or tied, share of cells",
                    value=float(np.mean(others)), told=True, of=f"{len(others)} cells: what a guess would reach"),
            Finding(what="the intervention of the student's own diagnosis is best or tied, share of classes x seeds",
                    value=float(np.mean(own)), relation=">=", bound=0.8, of=f"{len(own)}, judged seed by seed"),
        ]  # fmt: skip
        seconds = sum(cell["seconds"] for cell in self.cells.values())
        prices = [cell["spent"]["price"] for cell in self.cells.values() if cell["spent"]["price"]]
        found.append(Finding(what="the cheapest cell's price over the dearest's", value=min(prices) / max(prices),
                             told=True, of=f"{len(self.cells)} cells, {seconds:.0f} CPU seconds"))  # fmt: skip
        for kind in self.classes:
            for what, est, relation, bound in self.signature(kind):
                of = f"[{est.low:.3f}, {est.high:.3f}] after {MAPPED[kind]}"
                what = f"signature of {kind}: {what}"
                found.append(Finding(what=what, value=est.estimate, relation=relation, bound=bound, of=of))
        return found

    def confirmation(self) -> list[Finding]:
        """The corrected map, on seeds it was not chosen on."""
        verdicts = {kind: self.verdict(kind, CORRECTED[kind]) for kind in self.classes}
        held = [kind for kind, verdict in verdicts.items() if verdict.holds]
        told = ", ".join(
            f"{kind} {over_prompts(self.after(kind, CORRECTED[kind])).estimate:.3f} {verdict.word}"
            for kind, verdict in verdicts.items()
        )
        return [
            Finding(what="the corrected map on a student it was not chosen on: best or tied, share of classes",
                    value=len(held) / len(self.classes), relation=">=", bound=0.8,
                    of=f"{len(self.seeds)} seeds; {told}")
        ]  # fmt: skip

    def successes(self) -> str:
        """Rows interventions, columns classes; the mapped one in bold."""
        return _grid(
            "success on held-out prompts after", self.names, self.classes,
            lambda name, kind: over_prompts(self.after(kind, name)), bold=lambda n, kind: MAPPED[kind] == n,
        )  # fmt: skip

    def guards(self) -> str:
        return _grid(
            "change on solved families", [name for name in self.names if name != "nothing"], self.classes,
            lambda name, kind: over_prompts(self.guard(kind, name)), bold=lambda n, kind: MAPPED[kind] == n,
            sign="+",
        )  # fmt: skip

    def judged(self) -> str:
        lines = [
            "| class | before | mapped | after | best other | best other - mapped | | seeds | own calls |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for kind in self.classes:
            name, verdict = MAPPED[kind], self.verdict(kind, MAPPED[kind])
            alone = sum(self.verdict(kind, name, [seed]).holds for seed in self.seeds)
            own = [self.chosen(seed, kind) for seed in self.seeds]
            told = ", ".join(f"{call} ({self.verdict(kind, choice, [seed]).word})"
                             for seed, (call, choice) in zip(self.seeds, own, strict=True))  # fmt: skip
            lines.append(
                f"| {kind} | {self.start(kind).mean():.3f} | {name} | {self.after(kind, name).mean():.3f} "
                f"| {verdict.rival} | {verdict.behind} | {verdict.word} | {alone} of {len(self.seeds)} | {told} |"
            )
        return "\n".join(lines)

    def costs(self) -> str:
        """What an intervention cost in its cells, the least and the most, and where it did well."""
        lines = [
            "| intervention | learning rate | steps | demonstrated tokens | price | CPU seconds | best or tied in |",
            "|---|---|---|---|---|---|---|",
        ]
        for name in self.names:
            cells = [self.cells[seed, kind, name] for seed in self.seeds for kind in self.classes]
            columns = [
                _span([cell["spent"].get(key, 0) for cell in cells]) for key in ("steps", "demonstrated", "price")
            ] + [_span([cell["seconds"] for cell in cells])]
            well = [kind for kind in self.classes if self.verdict(kind, name).holds]
            columns.append(f"{len(well)}: {', '.join(well)}" if well else "0")
            lines.append(f"| {name} | {cells[0]['rate']:g} | {' | '.join(columns)} |")
        return "\n".join(lines)


def over_prompts(rows_SP: np.ndarray) -> Est:
    return mean_over_prompts(rows_SP.mean(axis=0))[0]


def share_of(top_SP: np.ndarray, bottom_SP: np.ndarray) -> Est:
    return ratio(top_SP.mean(axis=0), bottom_SP.mean(axis=0))


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,.0f}" if round(low) == round(high) else f"{low:,.0f} to {high:,.0f}"


def _grid(title: str, rows: Sequence[str], columns: Sequence[str], value, *, bold, sign: str = "") -> str:
    lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        texts = []
        for column in columns:
            est = value(row, column)
            text = f"{est.estimate:{sign}.3f} [{est.low:{sign}.3f}, {est.high:{sign}.3f}]"
            texts.append(f"**{text}**" if bold(row, column) else text)
        lines.append(f"| {row} | {' | '.join(texts)} |")
    return "\n".join(lines)
