"""Geometry of the report's figures: numbers in, coordinates out. The page's templates only place them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from offon.report import words

Point = tuple[float, float]


def line(points: Sequence[Point]) -> str:
    """An SVG path through points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""


def band(upper: Sequence[Point], lower: Sequence[Point]) -> str:
    """An SVG path around the area between two lines."""
    return line([*upper, *reversed(lower)]) + "Z" if upper else ""


# ---- the pipeline as a graph

ACROSS = {"box": (186, 104), "gap": (90, 22)}  # wide screens: time runs to the right
DOWN = {"box": (162, 104), "gap": (16, 44)}  # phones: time runs down
_SHORT_BOX = 46
_BESIDE_CORNER = 8  # letters of a name that leave room for the number of steps beside it
_LETTER = 6.3  # mean width of a letter of the box's small text


def graph(nodes: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The pipeline drawn twice, across and down. An input that is no node (a path, a data set) gets a box of its own.

    A box's rank is the length of the longest chain that leads to it; a starting point stands one rank before its first
    use. Its lane is that of the node whose weights it continues, so that init edges run straight.
    """
    if not nodes:
        return None
    boxes, edges = _boxes_and_edges(nodes, {stage["name"]: stage for stage in stages})
    rank = _ranks(boxes, edges)
    lane = _lanes(boxes, edges, rank)
    return {
        "across": _draw(boxes, edges, rank, lane, **ACROSS),
        "down": _draw(boxes, edges, rank, lane, **DOWN, down=True),
    }


def _boxes_and_edges(nodes, stages) -> tuple[dict[str, dict], dict[tuple[str, str], list[str]]]:
    boxes = {node["name"]: _box(node, stages.get(node["name"])) for node in nodes}
    edges: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        for edge in node.get("inputs") or []:
            source = str(edge["from"]).removeprefix("$")
            kinds = {"data": "data", "reward": "reward"}
            boxes.setdefault(
                source,
                {
                    "name": PurePath(source).name or source,
                    "full": source,
                    "lines": [kinds.get(edge["kind"], "starting model")],
                    "kind": kinds.get(edge["kind"], "model"),
                    "regime": None,
                    "state": "done",
                    "href": "",
                    "corner": "",
                },
            )
            edges.setdefault((source, node["name"]), []).append(edge["kind"])
    return boxes, edges


def _box(node: Mapping[str, Any], stage: Mapping[str, Any] | None) -> dict[str, Any]:
    kind = node.get("kind", "train")
    box = {
        "name": node["name"],
        "full": node["name"],
        "kind": kind,
        "state": node.get("state"),
        "regime": None,
        "href": "",
        "corner": "",
    }
    if stage is None:
        return box | {"lines": [{"model": "starting model", "make": node.get("method") or "made"}.get(kind, kind)]}
    lines = [node["method"]] if node.get("method") not in (None, node["name"]) else []
    lines += [stage["interface"]] if stage["interface"] else []
    corner = f"{node['steps']} steps" if node.get("steps") and len(node["name"]) <= _BESIDE_CORNER else ""
    tasks = [row for row in stage["results"] if row["family"] is None]
    if len(tasks) == 1:
        success = tasks[0]["success"]
        lines.append(" → ".join(words.percent(success[when]["estimate"]) for when in ("before", "after")))
    elif tasks:
        lines.append(words.tally(tasks))
    elif stage["state"] != "done":
        lines.append(stage["state"] or "")
    return box | {"lines": lines, "regime": stage["regime"], "href": f"#stage-{node['name']}", "corner": corner}


def _ranks(boxes, edges) -> dict[str, int]:
    rank = dict.fromkeys(boxes, 0)
    for _ in boxes:
        for source, target in edges:
            rank[target] = min(max(rank[target], rank[source] + 1), len(boxes))
    for name in boxes:
        uses = [rank[target] for source, target in edges if source == name]
        if uses and not any(target == name for _, target in edges):
            rank[name] = min(uses) - 1
    return rank


def _lanes(boxes, edges, rank) -> dict[str, int]:
    """Weights first: a chain of init edges keeps its lane; data and teachers take the nearest free one."""
    weights = {target: source for (source, target), kinds in edges.items() if "init" in kinds}
    lane: dict[str, int] = {}
    taken: set[tuple[int, int]] = set()

    def place(name: str, wanted: int) -> None:
        while (rank[name], wanted) in taken:
            wanted += 1
        lane[name] = wanted
        taken.add((rank[name], wanted))

    chains = 0
    for name in sorted(boxes, key=lambda name: rank[name]):
        if name in weights and weights[name] in lane:
            place(name, lane[weights[name]])
        elif name in weights.values() or not any(source == name for source, _ in edges):
            place(name, chains)
            chains = max(chains, lane[name] + 1)
    for name in boxes:
        if name not in lane:
            users = [lane[target] for source, target in edges if source == name and target in lane]
            place(name, min(users, default=chains) + 1)
    return lane


def _draw(boxes, edges, rank, lane, box, gap, down=False) -> dict[str, Any]:
    width, height = box
    place = {}
    for name in boxes:
        column, row = (lane[name], rank[name]) if down else (rank[name], lane[name])
        own = height if boxes[name]["regime"] or boxes[name]["kind"] == "train" else _SHORT_BOX
        place[name] = (column * (width + gap[0]) + 1, row * (height + gap[1]) + (height - own) / 2 + 14, width, own)

    def edge(source, target, kinds):
        x0, y0, w0, h0 = place[source]
        x1, y1, w1, h1 = place[target]
        if down:
            start, end = (x0 + w0 / 2, y0 + h0), (x1 + w1 / 2, y1)
            bend = (end[1] - start[1]) / 2
            around = (w0 / 2 + 14) if lane[source] == lane[target] and rank[target] - rank[source] > 1 else 0
            controls = (start[0] + around, start[1] + bend), (end[0] + around, end[1] - bend)
        else:
            start, end = (x0 + w0, y0 + h0 / 2), (x1, y1 + h1 / 2)
            bend = (end[0] - start[0]) / 2
            around = (h0 / 2 + 30) if lane[source] == lane[target] and rank[target] - rank[source] > 1 else 0
            controls = (start[0] + bend, start[1] - around), (end[0] - bend, end[1] - around)
        (ax, ay), (bx, by) = controls
        level = abs(start[1] - end[1]) < 1 and not around  # a straight line keeps its label above it
        middle = ((start[0] + end[0]) / 8 + 3 * (ax + bx) / 8, (start[1] + end[1]) / 8 + 3 * (ay + by) / 8)
        path = f"M{start[0]:.0f} {start[1]:.0f}C{ax:.0f} {ay:.0f} {bx:.0f} {by:.0f} {end[0]:.0f} {end[1]:.0f}"
        main = next((kind for kind in ("init", "teacher", "data", "reward") if kind in kinds), "reference")
        return {
            "path": path,
            "kind": main,
            "label": " + ".join(kinds),
            "x": round(middle[0]),
            "y": round(middle[1]) - 9 * level,
        }

    drawn = [{**boxes[name], "x": x, "y": y, "w": w, "h": h} for name, (x, y, w, h) in place.items()]
    return {
        "letters": int((width - 24) / _LETTER),
        "width": max(b["x"] + b["w"] for b in drawn) + 1,
        "height": max(b["y"] + b["h"] for b in drawn) + 4,
        "boxes": drawn,
        "edges": [edge(source, target, kinds) for (source, target), kinds in edges.items()],
    }


# ---- success, pass@k

PANEL = {"width": 220, "height": 132, "left": 30, "right": 8, "top": 8, "bottom": 20}


def pass_at_k(curves: Mapping[str, Sequence[Mapping[str, float]]], k: int | None) -> dict[str, Any] | None:
    """Before and after as lines with 95% bands over k on a log axis; the y axis is 0 to 100% on every panel."""
    budgets = sorted({point["k"] for curve in curves.values() for point in curve})
    if len(budgets) < 2:
        return None
    low, high = math.log2(budgets[0]), math.log2(budgets[-1])
    wide = PANEL["width"] - PANEL["left"] - PANEL["right"]
    tall = PANEL["height"] - PANEL["top"] - PANEL["bottom"]

    def x(budget: float) -> float:
        return PANEL["left"] + wide * (math.log2(budget) - low) / (high - low)

    def y(share: float) -> float:
        return PANEL["top"] + tall * (1 - share)

    drawn = {}
    for when, curve in curves.items():
        sides = {side: [(x(p["k"]), y(p[side])) for p in curve] for side in ("estimate", "low", "high")}
        drawn[when] = {
            "line": line(sides["estimate"]),
            "band": band(sides["high"], sides["low"]),
            "end": sides["estimate"][-1] if curve else None,
        }
    ticks = [budget for budget in budgets[::2] if not k or abs(math.log2(budget / k)) > 0.2 * (high - low)]
    return PANEL | {
        **drawn,
        "x_ticks": [(x(budget), f"{budget}") for budget in ticks],
        "y_ticks": [(y(share), f"{share:.0%}") for share in (0, 0.5, 1)],
        "k": (x(k), k) if k and budgets[0] <= k <= budgets[-1] else None,
    }


# ---- where the change came from

SIGNED = {"expansion": 1, "reshaping": 1, "ambiguous": 1, "diffuse": 1, "attrition": -1}


def decomposition(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each row's terms stacked to the left and right of zero, for certified and soft, on one scale for all rows.

    Positions are in percent of the width. Gains stack to the right, losses to the left; they add up to the total.
    """
    rows = [row for row in rows if row["certified"] and row["success"]["change"]]
    if not rows:
        return []
    sums = [_signed_sums(row[weighting]) for row in rows for weighting in ("certified", "soft")]
    edges = [row["success"]["change"][side] for row in rows for side in ("low", "high")]
    low = min(0.0, *(negative for negative, _ in sums), *edges)
    high = max(0.0, *(positive for _, positive in sums), *edges)
    margin = 0.03 * (high - low) or 0.01
    low, high = low - margin, high + margin

    def at(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    def stacked(terms: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
        right, left, segments = 0.0, 0.0, []
        for term, sign in SIGNED.items():
            value = sign * terms[term]["estimate"] if term in terms else 0.0
            if value > 0:
                segments.append({"term": term, "left": at(right), "width": round(at(right + value) - at(right), 2)})
                right += value
            elif value < 0:
                left += value
                segments.append({"term": term, "left": at(left), "width": round(at(left - value) - at(left), 2)})
        return segments

    return [
        {
            "row": row,
            "zero": at(0),
            "bars": {weighting: stacked(row[weighting]) for weighting in ("certified", "soft")},
            "total": {side: at(value) for side, value in row["success"]["change"].items()},
        }
        for row in rows
    ]


def _signed_sums(terms: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    values = [SIGNED[term] * est["estimate"] for term, est in terms.items()]
    return sum(value for value in values if value < 0), sum(value for value in values if value > 0)


# ---- shares of a whole


def stacked(shares: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Parts of a whole, as percent of the width, in the order given; parts that are absent are left out."""
    whole = sum(value or 0 for value in shares.values())
    return [
        {"name": name, "value": value, "width": round(100 * value / whole, 2), "share": value / whole}
        for name, value in shares.items()
        if value
    ]


# ---- learning curves

CURVE = {"width": 220, "height": 84, "left": 4, "right": 4, "top": 8, "bottom": 6}
_MOST_POINTS = 110
_FIRST = (
    "loss/total",
    "reward",
    "rewards/accuracies",
    "rewards/margins",
    "frac_reward_zero_std",
    "completions/mean_length",
    "completions/clipped_ratio",
    "grad_norm",
    "off_policy/sampler_gap_nats",
    "ratio/clip_frac",
)
_NOT_CURVES = ("step", "time", "num_tokens")
MEANING = {
    "loss/total": "what the step minimises",
    "reward": "mean verdict of the step's rollouts",
    "reward_std": "spread of verdicts within a group",
    "rewards/accuracies": "pairs in which the chosen side scores higher",
    "rewards/margins": "how much higher the chosen side scores",
    "rewards/chosen": "score of the chosen side",
    "rewards/rejected": "score of the rejected side",
    "frac_reward_zero_std": "groups that agree, and so teach nothing",
    "completions/mean_length": "tokens per response",
    "completions/clipped_ratio": "responses cut off before their end",
    "grad_norm": "size of the gradient before clipping",
    "learning_rate": "size of a step",
    "off_policy/sampler_gap_nats": "distance from sampler to learner, nats per token",
    "sync/gap_nats": "distance from engine to learner at sampling, nats per token",
    "sync/max_logp_diff": "largest disagreement of engine and learner, nats",
    "ratio/mean": "mean probability ratio, learner over sampler",
    "ratio/clip_frac": "tokens held back by the trust region",
    "time/step_s": "seconds per step",
}


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A small line per metric over optimizer steps, the telling ones first. Constant metrics are left out."""
    names = dict.fromkeys(name for record in metrics for name in record if name not in _NOT_CURVES)
    order = sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    return [drawn for name in order if (drawn := _curve(name, metrics))]


def _curve(name: str, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    values = [(record["step"], record[name]) for record in metrics if isinstance(record.get(name), (int, float))]
    if len(values) < 2 or len({value for _, value in values}) == 1:
        return None
    size = math.ceil(len(values) / _MOST_POINTS)
    buckets = [values[i : i + size] for i in range(0, len(values), size)]
    steps = [sum(step for step, _ in bucket) / len(bucket) for bucket in buckets]
    means = [sum(value for _, value in bucket) / len(bucket) for bucket in buckets]
    lows, highs = ([side(value for _, value in bucket) for bucket in buckets] for side in (min, max))
    low, high = min(lows), max(highs)
    wide = CURVE["width"] - CURVE["left"] - CURVE["right"]
    tall = CURVE["height"] - CURVE["top"] - CURVE["bottom"]

    def at(step: float, value: float) -> Point:
        x = CURVE["left"] + wide * (step - steps[0]) / ((steps[-1] - steps[0]) or 1)
        return x, CURVE["top"] + tall * (1 - (value - low) / (high - low))

    return CURVE | {
        "name": name,
        "meaning": MEANING.get(name, ""),
        "line": line([at(*point) for point in zip(steps, means, strict=True)]),
        "band": band([at(*p) for p in zip(steps, highs, strict=True)], [at(*p) for p in zip(steps, lows, strict=True)])
        if size > 1
        else "",
        "end": at(steps[-1], means[-1]),
        "first": words.short(values[0][1]),
        "last": words.short(values[-1][1]),
        "low": words.short(low),
        "high": words.short(high),
        "steps": (values[0][0], values[-1][0]),
    }
