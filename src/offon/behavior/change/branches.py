"""A tree small enough to draw: the branches of one prompt that two checkpoints reach most, and what lies beside them.

Axes: N edges of a tree, B branches: edges joined where one follows the other almost always.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from offon.behavior.change.prefix_tree import Tree, cells
from offon.types.trajectory import Tokens

NODES = 60  # what a picture can hold
JOINED = 0.99  # of a beginning's reach, under every policy, that goes on with one token: drawn as one branch


def branches(
    tree: Tree,
    eps: float,
    *,
    text: Callable[[Tokens], str],
    right: Mapping[Tokens, bool | None],
    most: int = NODES,
    joined: float = JOINED,
) -> dict[str, Any]:
    """The `most` branches with the largest reach under either policy (before, after), parents first.

    {"nodes": [{"token", "tokens", "parent", "depth", "ends", "before", "after", "cell", "right", "rest"}], "residual"}

    A branch is a token, or several that follow each other with `joined` of the reach; its reach is that of the last.
    parent counts nodes, -1 is the root; depth is the first token's. rest: [before, after] reach of what goes on after a
    node without being drawn; with `root_rest` these sum to `residual`, so that drawn endings and residual are
    everything. right: the verdict on each whole response, by its tokens.
    """
    reach, cell, last = tree.reach, cells(tree, eps), _ends_of_branches(tree, joined)
    head = {int(edge): _first_of_branch(tree, last, int(edge)) for edge in np.unique(last)}
    tails = np.array([edge for edge, first in head.items() if _hangs_on_an_end(tree, head, first)], int)
    kept = np.sort(tails[np.argsort(-reach[tails].max(axis=1), kind="stable")[:most]])
    place = {int(edge): node for node, edge in enumerate(kept)}  # reach only falls: parents are among them
    nodes, rest = [], [reach[edge] * (not tree.ends[edge]) for edge in kept]
    root_rest = np.ones(reach.shape[1])
    for edge in kept:
        first = head[int(edge)]
        above = int(tree.parent[first])
        if above < 0:
            root_rest = root_rest - reach[edge]
        else:
            rest[place[above]] = rest[place[above]] - reach[edge]
        path, ends = tree.path(edge), bool(tree.ends[edge])
        tokens = path[int(tree.depth[first]) - 1 :]
        nodes.append({
            "token": text(tokens), "tokens": len(tokens), "parent": place.get(above, -1),
            "depth": int(tree.depth[first]), "ends": ends, "before": float(reach[edge, 0]),
            "after": float(reach[edge, 1]), "cell": str(cell[edge]),
            "right": right.get(path) if ends else None,
        })  # fmt: skip
    for node, left in zip(nodes, rest, strict=True):
        node["rest"] = _left(left)
    residual = _left(root_rest + sum(rest))
    return {
        "eps": eps,
        "nodes": nodes,
        "root_rest": _left(root_rest),
        "residual": dict(zip(("before", "after"), residual, strict=True)),
    }


def _ends_of_branches(tree: Tree, joined: float) -> np.ndarray:
    """[N] the last edge of the branch that each edge lies on: it goes on with a child that keeps its reach."""
    last = np.arange(len(tree))
    for edge in range(len(tree) - 1, -1, -1):  # children before parents
        above = tree.parent[edge]
        if above >= 0 and (tree.reach[edge] >= joined * tree.reach[above]).all():
            last[above] = last[edge]
    return last


def _first_of_branch(tree: Tree, last: np.ndarray, edge: int) -> int:
    while tree.parent[edge] >= 0 and last[tree.parent[edge]] == last[edge]:
        edge = int(tree.parent[edge])
    return edge


def _hangs_on_an_end(tree: Tree, head: Mapping[int, int], first: int) -> bool:
    """Whether a branch begins where others end, all the way up. What leaves another in its middle is not drawn."""
    while tree.parent[first] >= 0:
        if int(tree.parent[first]) not in head:
            return False
        first = head[int(tree.parent[first])]
    return True


def _left(mass: np.ndarray) -> list[float]:
    """Probabilities left over: rounding does not make them negative."""
    return [max(0.0, float(value)) for value in mass]
