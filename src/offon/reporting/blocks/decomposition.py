"""Where the change of success came from (D1): terms that add up to it, as bars, at every granularity measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offon.reporting import words
from offon.reporting.drawing import across

SIGNED = {"expansion": 1, "recovered": 1, "reshaping": 1, "ambiguous": 1, "diffuse": 1, "attrition": -1}
NAMES = {
    "expansion": "expanded",
    "recovered": "recovered",
    "reshaping": "reshaped",
    "attrition": "lost",
    "ambiguous": "uncertain",
    "diffuse": "out of reach",
}
WEIGHTINGS = ("certified", "soft")
CLASS_MAPS = {"answer": "by answer", "route": "by route"}


def decomposition(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each row's terms stacked to the left and right of zero, for certified and soft, on one scale for all rows.

    Positions are in percent of the width. Gains stack to the right, losses to the left; they add up to the total.
    """
    rows = [row for row in rows if row["soft"] and row["success"]["change"]]
    if not rows:
        return []
    sums = [end for row in rows for weighting in WEIGHTINGS if row[weighting] for end in signed_sums(row[weighting])]
    at = across([*sums, *(row["success"]["change"][side] for row in rows for side in ("low", "high"))])
    return [_drawn(row, at) for row in rows]


def _drawn(row: Mapping[str, Any], at) -> dict[str, Any]:
    bars = {weighting: stacked_terms(row[weighting], at) for weighting in WEIGHTINGS if row[weighting]}
    for weighting, stacked in bars.items():
        for bar in stacked:
            terms, term = row[weighting], bar["term"]
            bar["title"] = f"{_in_words(terms, term)} ({_range(terms, term)}), {weighting}"
    return {
        "row": row,
        "label": row["label"],
        "zero": at(0),
        "bars": bars,
        "total": {side: at(value) for side, value in row["success"]["change"].items()},
        "words": "; ".join(_in_words(row["soft"], bar["term"]) for bar in bars["soft"]),
    }


def stacked_terms(terms: Mapping[str, words.Est], at, start: float = 0.0) -> list[dict[str, Any]]:
    """Gains to the right of `start` and losses to its left, end to end, in percent of the width."""
    right, left, segments = start, start, []
    for term, sign in SIGNED.items():
        value = sign * terms[term]["estimate"] if term in terms else 0.0
        if value > 0:
            segments.append({"term": term, "left": at(right), "width": round(at(right + value) - at(right), 2)})
            right += value
        elif value < 0:
            left += value
            segments.append({"term": term, "left": at(left), "width": round(at(left - value) - at(left), 2)})
    return segments


def signed_sums(terms: Mapping[str, words.Est]) -> tuple[float, float]:
    """What the losses and the gains of a row add up to, each on its own."""
    values = [SIGNED[term] * est["estimate"] for term, est in terms.items()]
    return sum(value for value in values if value < 0), sum(value for value in values if value > 0)


def _in_words(terms: Mapping[str, words.Est], term: str) -> str:
    return f"{NAMES[term]} {words.points(SIGNED[term] * terms[term]['estimate'])} points"


def _range(terms: Mapping[str, words.Est], term: str) -> str:
    return words.points_range(words.negated(terms[term]) if SIGNED[term] < 0 else terms[term])


# ---- one change at three granularities


def granularities(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same change split by prompt, by class of answers, and by response; None where only prompts were measured.

    A response that is new while its answer was within reach before is a new wording of an old answer: expansion by
    response beyond expansion by answer (or by prompt, where answers were not told apart).
    """
    rows = [row | {"label": "by prompt"}]
    if by_class := (row.get("classes") or {}).get("d1"):
        name = CLASS_MAPS.get(row["classes"].get("map", ""), "by class")
        rows.append(_granular(name, by_class["total"], by_class["soft"], by_class.get("certified", {})))
    if by_response := (row.get("trajectories") or {}).get("d1"):
        terms = {name: est for name, est in by_response.items() if name in SIGNED}
        rows.append(_granular("by response", by_response["total"], terms, {}))
    if len(rows) == 1 or not (drawn := decomposition(rows)):
        return None
    return {"rows": drawn, "surface": _surface((row.get("classes") or {}).get("surface"), rows)}


def _granular(label: str, total: words.Est, soft: Mapping, certified: Mapping) -> dict[str, Any]:
    return {"label": label, "success": {"change": total}, "soft": soft, "certified": certified, "certifiable": True}


def _surface(measured: words.Est | None, rows: Sequence[Mapping[str, Any]]) -> str:
    """In words, whether responses are newer than what they answer: as measured, else as far as the intervals tell."""
    if measured:
        return (
            f"Newly worded: {words.points(measured['estimate'])} points ({words.points_range(measured)}) lie in right "
            "responses that are new while what they answer was within reach before."
        )
    finest, coarser = rows[-1], rows[-2]
    if finest["label"] != "by response":
        return ""
    new, known = finest["soft"]["expansion"], coarser["soft"]["expansion"]
    what = {"by prompt": "prompts that were out of reach"}.get(coarser["label"], "answers that were out of reach")
    if new["low"] > known["high"]:
        return (
            f"Responses are newer than what they say: {words.points(new['estimate'])} points come from new responses, "
            f"{words.points(known['estimate'])} from {what}. The difference is a new wording, not a new skill."
        )
    return ""
