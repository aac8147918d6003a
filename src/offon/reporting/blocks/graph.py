"""The pipeline as a graph: boxes for artefacts, arrows for what one stage takes from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from offon.reporting import words

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
        tall = height if boxes[name]["regime"] or boxes[name]["kind"] == "train" else _SHORT_BOX
        place[name] = (column * (width + gap[0]) + 1, row * (height + gap[1]) + (height - tall) / 2 + 14, width, tall)

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
            around = (height / 2 + 30) if lane[source] == lane[target] and rank[target] - rank[source] > 1 else 0
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
