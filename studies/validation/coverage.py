"""How often a 95% interval holds the truth: prompts drawn anew each time, the truth from the rates of 200,000 of them.

The truth is exact (`offon` estimates nothing in it): a term of D1 is the change on the prompts whose rates lie in its
cell. Its interval is of what the calls leave open, as wide as they leave it, and is judged by at least .93.

Of other quantities, three things keep an interval out of the band whatever it does, and are told apart:

    exact    the estimate equals the truth in more than 98% of samples. Every interval that holds its own estimate then
             covers in more than 98%. So: at least .93, and no width where no prompt showed anything but 0.
    few      a share q of prompts carries half of what sets the mean apart from the median, and (1 - q)^P > .07 of the
             samples hold none of them. Such a sample looks like one of a population without them: an interval that is
             short there misses here. Judged by the band, in rows of their own.
    others   judged by the band.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from offon.behavior.statistics.bayesian_bootstrap import mean_bounds, ratio_bounds
from studies.validation.findings import Finding
from studies.validation.labels import limits, roles
from studies.validation.populations import CHOSEN, HELD_OUT, RATIOS, SIDES, Rates, exact, measured

LOW, HIGH = 0.93, 0.98
TRUTH, REPEATS = 200_000, 400
PARTS = {top for top, _ in RATIOS.values()} | {bottom for _, bottom in RATIOS.values()} - {"success"}
SIZES = [(64, 128), (200, 128)]  # prompts, samples: every population
MORE = [(20, 128), (500, 128), (64, 16), (64, 256)]  # some of them
SOME = ("null, 40% at 0, Beta(.3, 1)", "changed", "null, nearly solved", "losing")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One quantity of one population at one size. Width: median, over what a known spread would give. `low_passes`:
    the truth lies below the interval, so a minimum at the truth passes wrongly; `high_passes`: above."""

    what: str
    population: str
    prompts: int
    samples: int
    covered: float
    low_passes: float
    high_passes: float
    width: float
    exact: float  # Pr(estimate = truth)
    unseen: float  # Pr(no prompt of those that carry half)
    wide_at_nothing: int  # repeats with a width although every prompt showed 0

    @property
    def kind(self) -> str:
        if re.match(r"(class )?(certified|soft) ", self.what):
            return "open"
        return "exact" if self.exact > HIGH else "few" if self.unseen > 1 - LOW else "others"

    @property
    def row(self) -> str:
        """What it is summed up with: terms by their kind, pass@k over k."""
        for kind in ("class certified", "class soft", "certified", "soft", "trajectory"):
            if self.what.startswith(kind):
                level = {"c": "class", "t": "trajectory"}[kind[0]] if kind.startswith(("class", "traj")) else "prompt"
                return f"D1 by {level}, {kind.split()[-1]} terms" if level != "trajectory" else "D1 by trajectory"
        return re.sub(r"pass@\d+", "pass@k", self.what)

    @property
    def in_band(self) -> bool:
        return LOW <= self.covered <= HIGH


def cells(name: str, rates: Rates, prompts: int, samples: int, repeats: int, *, truth: int = TRUTH) -> Iterator[Cell]:
    """Every quantity's cell. Less than half an outcome among all samples is no miss."""
    rng, slack = np.random.default_rng(0), 0.5 / (prompts * samples)
    whole = exact(rates, truth, samples, rng)
    drawn = {
        what: values.reshape(repeats, prompts).T
        for what, values in measured(rates, prompts * repeats, samples, rng).items()
    }

    def cell(what, bounds, estimates, wanted, rest_PR, slack, nothing_PR) -> Cell:
        (low, high), rows = bounds, rest_PR.ravel()[:truth]
        return Cell(
            what=what, population=name, prompts=prompts, samples=samples,
            covered=float(((low - slack <= wanted) & (wanted <= high + slack)).mean()),
            low_passes=float((low - slack > wanted).mean()), high_passes=float((high + slack < wanted).mean()),
            width=float(np.median(high - low) * np.sqrt(prompts) / (2 * 1.96 * max(rows.std(), 1e-12))),
            exact=float((np.abs(estimates - wanted) <= slack).mean()), unseen=(1 - carriers(rows)) ** prompts,
            wide_at_nothing=int(((high > low) & (np.ptp(nothing_PR, axis=0) == 0)).sum()),
        )  # fmt: skip

    for what, rows_PR in drawn.items():
        if what in PARTS or what not in whole:
            continue
        bounds = in_blocks(mean_bounds, rows_PR)
        if opening := re.match(r"(class )?(?:certified|soft) (.*)", what):
            level, term = opening.groups(default="")
            ends = [in_blocks(mean_bounds, drawn[f"{level}{side} {term}"]) for side in SIDES]
            bounds = np.stack([np.minimum(bounds[0], ends[0][0]), np.maximum(bounds[1], ends[1][1])])
        yield cell(what, bounds, rows_PR.mean(axis=0), float(whole[what].mean()), rows_PR, slack, rows_PR)
    for what, (top, bottom) in RATIOS.items():
        if whole[bottom].mean() < slack:  # nothing gained
            continue
        some = drawn[bottom].sum(axis=0) > 0
        top_PR, bottom_PR = drawn[top][:, some], drawn[bottom][:, some]
        wanted = float(whole[top].mean() / whole[bottom].mean())
        found = in_blocks(ratio_bounds, top_PR, bottom_PR), top_PR.sum(axis=0) / bottom_PR.sum(axis=0), wanted
        rest = (top_PR - wanted * bottom_PR) / whole[bottom].mean()
        yield cell(what, *found, rest, slack / whole[bottom].mean(), top_PR)


def in_blocks(bounds, *rows_PR: np.ndarray, size: int = 250) -> np.ndarray:
    """Intervals of many samples, as many at once as a processor's cache holds."""
    blocks = range(0, rows_PR[0].shape[1], size)
    return np.concatenate([bounds(*(rows[:, start : start + size] for rows in rows_PR)) for start in blocks], axis=1)


def carriers(rows: np.ndarray) -> float:
    """The smallest share of prompts that carries half of the sum of |row - median|."""
    sizes = np.sort(np.abs(rows - np.median(rows)))[::-1]
    return float(np.searchsorted(np.cumsum(sizes), sizes.sum() / 2) + 1) / len(rows) if sizes.any() else 1.0


def run(quick: bool) -> list[Finding]:
    found: list[Cell] = []
    for name, rates in {**CHOSEN, **HELD_OUT}.items():
        for prompts, samples in SIZES[:1] if quick else SIZES + MORE * (name in SOME):
            found += cells(name, rates, prompts, samples, 200 if quick else REPEATS)
    return [*summary(found), *limits(found), *roles(20 if quick else 120)]


def summary(found: list[Cell]) -> list[Finding]:
    """One row per quantity and kind of population, with the range over its cells."""
    rows = []
    titles = {"others": "", "few": "carried by few: ", "open": "", "exact": "equal to the truth: "}
    for kind, title in titles.items():
        for row in dict.fromkeys(cell.row for cell in found if cell.kind == kind):
            of_it = [cell for cell in found if cell.kind == kind and cell.row == row]
            for null in (True, False) if kind in ("others", "open") else (None,):
                chosen = [cell for cell in of_it if null is None or cell.population.startswith("null") == null]
                where = {True: "; nothing changed", False: "; changed", None: ""}[null]
                rows += [band(f"{title}{row}{where}", chosen, kind)] if chosen else []
    exact = [cell for cell in found if cell.kind == "exact"]
    rows.append(
        Finding(what="equal to the truth: samples of zeros with an interval of some width",
                value=sum(cell.wide_at_nothing for cell in exact), of=f"{len(exact)} cells")
    )  # fmt: skip
    for title, populations in (("chosen on", CHOSEN), ("held out", HELD_OUT)):
        chosen = [cell for cell in found if cell.population in populations and cell.kind == "others"]
        if not chosen:
            continue
        below, above = sum(cell.covered < LOW for cell in chosen), sum(cell.covered > HIGH for cell in chosen)
        of = f"{len(chosen)} cells: {below} below the band, {above} above; median width {width(chosen)}"
        share = 1 - (below + above) / len(chosen)
        rows.append(Finding(what=f"share of cells in the band, populations {title}", value=share, of=of, told=True))
    return rows


def band(what: str, chosen: list[Cell], kind: str) -> Finding:
    covered, inside = [cell.covered for cell in chosen], sum(cell.in_band for cell in chosen)
    lowest = min(chosen, key=lambda cell: cell.covered)
    at_least = kind in ("exact", "open")
    enough = f"{sum(cell.covered >= LOW for cell in chosen)} of {len(chosen)} cells"
    of = enough if at_least else f"{inside} of {len(chosen)} cells in the band"
    of += f"; width {width(chosen)}; lowest: {lowest.what}, {lowest.population}, {lowest.prompts} x {lowest.samples}"
    return Finding(
        what=what, value=min(covered), upto=max(covered), relation=">=", bound=LOW, of=of,
        high=None if at_least else HIGH, cells=tuple(asdict(cell) for cell in chosen),
    )  # fmt: skip


def width(chosen: list[Cell]) -> str:
    """Tenth, half and nine tenths of the cells' widths."""
    return "/".join(f"{bound:.2f}" for bound in np.quantile([cell.width for cell in chosen], [0.1, 0.5, 0.9]))
