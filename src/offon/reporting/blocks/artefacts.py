"""What was measured of things that are no policy: data sets, reward models, process models, merges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from offon.reporting import metrics, words

PLOT = {"width": 232, "height": 226, "left": 40, "top": 8, "side": 178}
Row = tuple[str, str, str]  # name, value, interval or what it is to be held against
LARGEST_MARK = 6.5
UNRECORDED = "not recorded"  # the name of the producer of rows that say nothing of it


def artefacts(probes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A card per probe: its sentence, its numbers, and a picture where there is one."""
    return [
        {
            "name": probe.get("name") or probe["artefact"],
            "artefact": probe["artefact"],
            "sentence": probe.get("sentence", ""),
            "numbers": [*_of_data(probe), *_of_rewards(probe)],
            "reliability": reliability(probe.get("bins") or []),
            "steps": [
                {"step": one["step"], "n": one["n"], "accuracy": one["accuracy"]}
                for one in probe.get("by_position") or []
            ],
            "parents": (parents := _parents(probe.get("parents") or [])),
            "metrics": metrics.columns(parents),
            "warnings": list(probe.get("warnings") or []),
        }
        for probe in probes
    ]


def _of_data(probe: Mapping[str, Any]) -> Iterator[Row]:
    for name in ("rows", "prompts", "tokens"):
        if probe.get(name) is not None:
            yield name, f"{probe[name]:,}", ""
    for one in probe.get("producers") or []:
        who = one["producer"]
        yield (
            f"{'writer' if who == UNRECORDED else 'written by'} {who}",
            words.percent(one["share"]),
            f"{one['rows']:,} rows",
        )
    for name, called in (("duplicates", "repeated rows"), ("near_duplicates", "nearly repeated rows")):
        if one := probe.get(name):
            yield called, words.percent(one["share"]), f"{one['rows']:,} rows"
    for task, one in (probe.get("contamination") or {}).items():
        overlap = f"{one['rows']:,} rows, {one['prompts']} of {one['heldout']} prompts"
        yield f"ask what is held out of {task}", words.percent(one["share"]), overlap
    if right := probe.get("right"):
        known = f", {right['known']:,} judged" if "known" in right else ""
        yield "right answers", words.written(right, "share"), words.interval(right, "share") + known


def _of_rewards(probe: Mapping[str, Any]) -> Iterator[Row]:
    heldout = probe.get("heldout") or {}
    counts = [f"{heldout[name]:,} {name}" for name in ("pairs", "steps", "solutions", "prompts") if heldout.get(name)]
    if counts:
        yield "held out", words.listed(counts), f"from {heldout['from']}" if heldout.get("from") else ""
    if est := probe.get("accuracy"):
        yield "right on held-out rows", words.written(est, "share"), words.interval(est, "share")
    if probe.get("majority") is not None:
        yield "always the same answer", words.percent(probe["majority"]), ""
    if est := probe.get("ece"):
        honest = f", {probe['ece_of_perfect']:.3f} if it were honest" if probe.get("ece_of_perfect") is not None else ""
        yield "calibration error", words.written(est, "ratio"), words.interval(est, "ratio") + honest
    if est := probe.get("brier"):
        yield "Brier score", words.written(est, "ratio"), words.interval(est, "ratio")
    where = probe.get("first_error") or {}
    for name, called in (("found", "first wrong step found"), ("clean", "right solutions left alone")):
        if est := where.get(name):
            yield called, words.written(est, "share"), f"{words.interval(est, 'share')}, {where[f'n_{name}']} solutions"


def _parents(parents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A merge against each model it was made of: a row per task."""
    return [
        {
            "parent": one["parent"],
            "task": task,
            "before": entry["before"]["success"],
            "after": entry["after"]["success"],
            "change": entry["d1"]["total"],
            "expansion": entry["d1"]["soft"]["expansion"],
            "reshaping": entry["d1"]["soft"]["reshaping"],
            "attrition": words.negated(entry["d1"]["soft"]["attrition"]),
            **metrics.values(entry),
        }
        for one in parents
        for task, entry in one["tasks"].items()
    ]


def reliability(bins: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How sure a model was against how often it was right, a mark per bin, with the interval of the latter.

    bins: {"forecast", "right": Est, "n"} each; a mark's area is its bin's share, the diagonal an honest model.
    """
    if not bins:
        return None
    most = max(one["n"] for one in bins)
    marks = []
    for one in bins:
        est = one["right"]
        (x, y), (_, low), (_, high) = (_spot(one["forecast"], est[side]) for side in ("estimate", "low", "high"))
        title = f"{words.percent(one['forecast'])} sure, right in {words.percent(est['estimate'])}"
        title += f" ({words.percent_range(est)}) of {one['n']}"
        radius = max(2.0, LARGEST_MARK * (one["n"] / most) ** 0.5)
        marks.append({"x": x, "y": y, "low": low, "high": high, "title": title, "r": round(radius, 1)})
    (x0, y0), (x1, y1) = _spot(0, 0), _spot(1, 1)
    return PLOT | {"marks": marks, "diagonal": f"M{x0} {y0}L{x1} {y1}", "words": "; ".join(m["title"] for m in marks)}


def _spot(forecast: float, right: float) -> tuple[float, float]:
    left, top, side = PLOT["left"], PLOT["top"], PLOT["side"]
    return round(left + side * forecast, 1), round(top + side * (1 - right), 1)
