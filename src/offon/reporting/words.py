"""How numbers and calls are written: the same way on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Est = Mapping[str, float]  # {"estimate", "low", "high"}, a 95% interval
MINUS = "\u2212"
CALLS = {  # of a prompt, between two checkpoints
    "gained": "gained: out of reach, now within",
    "kept": "within reach both times",
    "lost": "lost: within reach, now out",
    "never": "out of reach both times",
    "undecided": "undecided",
}
CALL_NAMES = {name: {"never": "out of reach"}.get(name, name) for name in CALLS}
SOURCES = {  # of a token
    "external": "from a data set",
    "teacher": "from a teacher",
    "learner": "from the model itself",
    "environment": "from the environment",
}
CLASSES = {  # of a prompt, of one model
    "solved": "solved",
    "truncated": "cut off",
    "format": "wrong format",
    "fragile": "only with help",
    "ranking": "within reach",
    "local": "blocked at a step",
    "unreachable": "route not taken",
    "missing": "skill missing",
    "unsupported": "not reached",
    "undecided": "undecided",
}


def percent(share: float | None) -> str:
    """A share in [0, 1] as 41.2%. What is neither 0 nor 1 is never written as such."""
    if share is None:
        return "–"
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return "0%" if share == 0 else "100%" if share == 1 else f"{share:.1%}".replace("-", MINUS)


def points(change: float | None) -> str:
    """A change of a share in percentage points, signed: +12.3."""
    if change is None:
        return "–"
    text = f"{100 * change:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def percent_range(est: Est | None) -> str:
    """38.1 to 44.0, for the interval of a share; with more digits where one would show no interval at all."""
    if est is None:
        return ""
    low, high = 100 * est["low"], 100 * est["high"]
    digits = next((n for n in (1, 2, 3) if f"{low:.{n}f}" != f"{high:.{n}f}"), 1)
    return f"{low:.{digits}f} to {high:.{digits}f}".replace("-", MINUS)


def points_range(est: Est | None) -> str:
    """−1.2 to +3.4, for the interval of a change."""
    return "" if est is None else f"{points(est['low'])} to {points(est['high'])}"


def written(est: Est | None, unit: str) -> str:
    """The estimate in its unit: share, points, ratio, nats, tokens or seconds."""
    return "–" if est is None else _in_unit(est["estimate"], unit)


def interval(est: Est | None, unit: str) -> str:
    """The interval in the same unit; an end that nothing bounds is said to have no bound."""
    if est is None:
        return ""
    if unit == "share" and all(map(_known, (est["low"], est["high"]))):
        return percent_range(est)
    return " to ".join("no bound" if not _known(est[end]) else _in_unit(est[end], unit) for end in ("low", "high"))


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _in_unit(value: float | None, unit: str) -> str:
    if not _known(value):
        return "–"
    if unit == "seconds":
        return f"{MINUS}{duration(-value)}" if value < 0 else duration(value)
    writers = {"share": percent, "points": points, "tokens": tokens}
    return writers[unit](value) if unit in writers else short(float(value))


def k_to_solve(tries: Sequence[float | None] | None) -> str:
    """2 to 5 · 150 or more: how many rollouts show a success, as an interval; nothing where it was not measured."""
    if not tries:
        return ""
    fewest, most = tries
    low = compact(math.floor(fewest)) if _known(fewest) else "1"
    if not _known(most):
        return f"{low} or more"
    high = compact(math.ceil(most))
    return low if low == high else f"{low} to {high}"


def negated(est: Est | None) -> Est | None:
    """A loss, stored as a positive number, as the negative change that it is."""
    if est is None:
        return None
    return {"estimate": -est["estimate"], "low": -est["high"], "high": -est["low"]}


def is_nothing(est: Est) -> bool:
    """A change that is 0.0 points, and so is its whole interval."""
    return all(points(value) == "0.0" for value in est.values())


def compact(count: float | None) -> str:
    """1,234 · 56.1k · 2.3M."""
    if count is None:
        return "–"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(count) >= size:
            return f"{count / (1e3 if unit == 'k' else size):.1f}{unit}"
    return f"{count:,.0f}"


def tokens(count: float) -> str:
    """A mean number of tokens: 4.32 · 41.7 · 1,234."""
    size = abs(count)
    text = compact(count) if size >= 99.95 else f"{count:.1f}" if size >= 9.995 else f"{count:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", MINUS)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def cost(spent: Mapping[str, Any]) -> str:
    """What something took: time and tokens, as far as they are known."""
    parts = [duration(spent["seconds"])] if spent.get("seconds") else []
    for name, what in (
        ("tokens_generated", "tokens generated"),
        ("teacher_tokens", "of the teacher's"),
        ("tokens_trained", "trained"),
        ("tokens_scored", "scored"),
    ):
        if spent.get(name):
            parts.append(f"{compact(spent[name])} {what}")
    return " · ".join(parts)


def short(value: Any) -> str:
    """A metric's value in at most six characters or so."""
    if not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    if value == 0 or (isinstance(value, int) and abs(value) < 1e5):
        return f"{value:g}"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits}e{int(exponent)}".replace("-", MINUS)
    return f"{value:.3g}".replace("-", MINUS)


def cut(text: str, most: int) -> str:
    """The beginning of a text, with … where it was cut."""
    return text if len(text) <= most else text[: most - 1] + "…"


def listed(names: Sequence[str], most: int = 6) -> str:
    """a, b and c; a, b, c and 4 more."""
    names = list(names)
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


SHOWN = 0.0005  # of success: less reads as 0.0 points


def direction(change: Est | None) -> str:
    """Which way a number moved, where its interval leaves no doubt and its first decimal is not 0."""
    if change is None:
        return "unknown"
    if abs(change.get("estimate", 1.0)) < SHOWN:
        return "unclear"
    return "rose" if change["low"] > 0 else "fell" if change["high"] < 0 else "unclear"


def tally(results: Sequence[Mapping[str, Any]]) -> str:
    """rose on 3, fell on 1: the outcome where there is no room for names."""
    ways = [direction(row["success"]["change"]) for row in results]
    counted = [f"{way} on {ways.count(way)}" for way in ("rose", "fell") if way in ways]
    return ", ".join(counted) or "no clear change"


def outcome(results: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: on what success rose, fell or did not clearly move."""
    rows = [row for row in results if row["family"]] or list(results)
    names = {
        way: [row["family"] or row["task"] for row in rows if direction(row["success"]["change"]) == way]
        for way in ("rose", "fell", "unclear")
    }
    clauses = [f"{way} on {listed(names[way])}" for way in ("rose", "fell") if names[way]]
    if names["unclear"]:
        clauses.append(f"did not move beyond its interval on {listed(names['unclear'])}")
    return f"Success {'; '.join(clauses)}." if clauses else ""
