"""The responses to one prompt as a tree, under two checkpoints: where they part, and how often each way is taken.

Every token is a pair of ribbons, before above after, as thick as the probability that a response begins so. At a fork
the ribbons of the next tokens lie side by side within the ribbon they come from, so that what is missing there is what
was not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offon.reporting import words

THICK = 20.0  # of a ribbon that every response takes
THINNEST = 0.8  # so that what is taken at all can be seen
LABEL, SEAM, GAP = 17.0, 1.0, 7.0  # heights: of a label above its ribbons, between the two, of the room below them
TOP, LEFT, FORK = 2.0, 4.0, 44.0  # above the first row; before the root; for the curves of a fork
LETTER, LONGEST = 7.2, 22  # width of a letter of the label; letters shown of a token
ENDING = 140  # for the numbers behind a leaf
CELLS = {
    "expansion": "new: out of reach before",
    "shared": "within reach both times",
    "attrition": "gone: out of reach after",
    "diffuse": "out of reach both times",
}
WIDE = 880  # what a tree of few tokens is stretched to
SURE = 0.98  # of the responses at a token that take the next one: the two are then drawn as one


def tree(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Ribbons, labels and numbers behind the leaves, in pixels; None where there is nothing to draw."""
    nodes = _joined(_chains(entry["nodes"]))
    if not nodes:
        return None
    _place(nodes)
    return {
        "width": round(max(node["right"] for node in nodes) + ENDING),
        "height": round(max(node["top"] + node["tall"] for node in nodes) + 4),
        "nodes": nodes,
        "leaves": [node for node in nodes if not node["children"]],
        "cells": {name: meaning for name, meaning in CELLS.items() if any(node["cell"] == name for node in nodes)},
        "prompt": entry.get("prompt", ""),
        "why": entry.get("why", ""),
        "eps": entry.get("eps"),
        "residual": entry.get("residual"),
        "words": _in_words(nodes),
    }


def _chains(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The nodes that hang together with a root, with their children, from the root outwards."""
    children: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        children.setdefault(node["parent"], []).append(index)
    order, waiting = [], sorted(children.get(-1, []))
    while waiting:
        index = waiting.pop(0)
        order.append(index)
        waiting += children.get(index, [])
    at = {index: place for place, index in enumerate(order)}
    return [
        {
            **nodes[index],
            "tokens": [nodes[index]["token"]],
            "right_answer": nodes[index].get("right"),
            "parent": at.get(nodes[index]["parent"]),
            "children": [at[child] for child in children.get(index, [])],
        }
        for index in order
    ]


def _joined(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tokens that almost always follow each other become one label: a long response is then a few forks."""
    kept: list[dict[str, Any]] = []
    place: dict[int, int] = {}
    for index, node in enumerate(nodes):  # parents come first
        parent = nodes[node["parent"]] if node["parent"] is not None else None
        if parent is not None and len(parent["children"]) == 1 and _follows(node, parent):
            into = place[node["parent"]]
            whole = kept[into]
            kept[into] = whole | {"tokens": [*whole["tokens"], *node["tokens"]], "children": []}
            kept[into] |= {name: node[name] for name in ("ends", "right_answer", "before", "after", "cell")}
            place[index] = into
        else:
            place[index] = len(kept)
            kept.append(node | {"parent": None if parent is None else place[node["parent"]], "children": []})
    for index, node in enumerate(kept):
        if node["parent"] is not None:
            kept[node["parent"]]["children"].append(index)
    return kept


def _follows(node: Mapping[str, Any], parent: Mapping[str, Any]) -> bool:
    same = node["cell"] == parent["cell"] and not parent["ends"]
    return same and all(node[when] >= SURE * parent[when] for when in ("before", "after"))


def _place(nodes: list[dict[str, Any]]) -> None:
    """Columns by depth, as wide as their longest label; rows by leaf, the likeliest way on top."""
    roots = [index for index, node in enumerate(nodes) if node["parent"] is None]
    for index, node in enumerate(nodes):
        node["level"] = 0 if node["parent"] is None else nodes[node["parent"]]["level"] + 1
        node["label"] = words.cut(" ".join(map(_shown, node["tokens"])), LONGEST)
        node["children"].sort(key=lambda child: -_weight(nodes[child]))
        node["path"] = _path(nodes, index)
    widths: dict[int, float] = {}
    for node in nodes:
        widths[node["level"]] = max(widths.get(node["level"], 44.0), 10 + LETTER * len(node["label"]))
    spare = (WIDE - ENDING - sum(width + FORK for width in widths.values())) / len(widths)
    widths = {level: width + max(0.0, spare) for level, width in widths.items()}
    _rows(nodes, roots)
    for node in nodes:
        node["left"] = LEFT + sum(widths[level] + FORK for level in range(node["level"]))
        node["right"] = node["left"] + widths[node["level"]]
        node["title"] = _title(node)
        node["after_words"] = f"{words.percent(node['before'])} → {words.percent(node['after'])}"
    _ribbons(nodes, roots)


def _rows(nodes: list[dict[str, Any]], roots: Sequence[int]) -> None:
    """y of every node's middle line: room for its label and ribbons, and for everything that goes on from it."""
    for node in reversed(nodes):  # children come after their parents
        node["thick"] = {when: _thickness(node[when]) for when in ("before", "after")}
        height, below = sum(node["thick"].values()), sum(nodes[child]["tall"] for child in node["children"])
        node["tall"] = max(LABEL + SEAM + GAP + height, below)
    top = TOP
    for root in sorted(roots, key=lambda root: -_weight(nodes[root])):
        nodes[root]["top"] = top
        top += nodes[root]["tall"]
    for node in nodes:
        inside = node["tall"] - LABEL - SEAM - GAP - sum(node["thick"].values())
        node["y"] = node["top"] + inside / 2 + LABEL + SEAM / 2 + node["thick"]["before"]
        top = node["top"] + max(0.0, (node["tall"] - sum(nodes[c]["tall"] for c in node["children"])) / 2)
        for child in node["children"]:
            nodes[child]["top"] = top
            top += nodes[child]["tall"]


def _thickness(reach: float) -> float:
    return max(THINNEST, THICK * reach) if reach > 0 else 0.0


def _ribbons(nodes: list[dict[str, Any]], roots: Sequence[int]) -> None:
    """before: the ribbon above a node's middle line; after: below it. Each leaves its parent's where its share lies."""
    for node in nodes:
        for when in ("before", "after"):
            thick = node["thick"][when]
            top = node["y"] - SEAM / 2 - thick if when == "before" else node["y"] + SEAM / 2
            node[f"{when}_ribbon"] = {"thick": round(thick, 2), "middle": top + thick / 2, "top": top}
    for node in nodes:
        for when in ("before", "after"):
            filled = node[f"{when}_ribbon"]["top"]
            for child in (nodes[index] for index in node["children"]):
                ribbon = child[f"{when}_ribbon"]
                ribbon["from"] = filled + ribbon["thick"] / 2
                filled += ribbon["thick"]
    for node in nodes:
        for when in ("before", "after"):
            ribbon = node[f"{when}_ribbon"]
            ribbon["d"] = _ribbon(node, ribbon, nodes)


def _ribbon(node: Mapping[str, Any], ribbon: Mapping[str, float], nodes: Sequence[Mapping[str, Any]]) -> str:
    straight = f"{node['left']:.1f} {ribbon['middle']:.1f}H{node['right']:.1f}"
    if node["parent"] is None:
        return f"M{straight}"
    start, bend = nodes[node["parent"]]["right"], (node["left"] - nodes[node["parent"]]["right"]) / 2
    x, y = start, ribbon["from"]
    return f"M{x:.1f} {y:.1f}C{x + bend:.1f} {y:.1f} {x + bend:.1f} {ribbon['middle']:.1f} {straight}"


def _weight(node: Mapping[str, Any]) -> float:
    return max(node["before"], node["after"])


def _shown(token: str) -> str:
    """A token with its white space visible."""
    return token.strip(" ").replace("\n", "⏎").replace("\t", "⇥") or "␣"


def _path(nodes: Sequence[Mapping[str, Any]], index: int) -> str:
    tokens: list[str] = []
    at: int | None = index
    while at is not None:
        tokens = [*nodes[at]["tokens"], *tokens]
        at = nodes[at]["parent"]
    return " ".join(map(_shown, tokens))


def _title(node: Mapping[str, Any]) -> str:
    verdict = {True: ", right", False: ", wrong"}.get(node["right_answer"], "") if node["ends"] else ""
    shares = ", ".join(f"{words.percent(node[when])} of responses {when}" for when in ("before", "after"))
    return f"{words.cut(node['path'], 160)}{verdict}: {shares}; {CELLS.get(node['cell'], node['cell'])}"


def _in_words(nodes: Sequence[Mapping[str, Any]]) -> str:
    right = [node for node in nodes if node["ends"] and node["right_answer"]]
    shares = [words.percent(min(1.0, sum(node[when] for node in right))) for when in ("before", "after")]
    text = f"{len(nodes)} ways on. " + (f"Right endings drawn: {shares[0]} before, {shares[1]} after." if right else "")
    return text.strip()
