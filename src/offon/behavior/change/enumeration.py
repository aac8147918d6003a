"""Effective support without sampling: the response trees of several policies on many prompts, expanded together.

Axes: P prompts, I policies, H horizon, V vocabulary; F rows of a level (prefixes to be expanded), C children of them
that are kept, N edges of one tree.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from offon.behavior.change.prefix_tree import Tree
from offon.types.trajectory import Tokens


class Policy(Protocol):
    """A policy on some prompts, expanded level by level. `extend` continues rows of the level before, so that a model
    can keep its keys and values; `log_p` is read a few rows at a time, so that [F, V] need not exist."""

    @property
    def vocabulary(self) -> int: ...

    def __len__(self) -> int:
        """How many prompts."""

    def root(self, prompts: Sequence[int]) -> None:
        """Begin anew: one row for each of these prompts."""

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> None:
        """Row j of the next level is row rows[j] of this one and then tokens[j]."""

    def log_p(self, rows: slice) -> np.ndarray:
        """[n, V] log-probs of the next token of some rows."""


@dataclass(frozen=True, eq=False)
class Enumeration:
    """tree: every edge that some policy reaches with eps or more; residual [I]: probability of all responses that were
    cut off; evaluations: next-token distributions computed for it."""

    tree: Tree
    residual: np.ndarray
    evaluations: int


def most_evaluations(eps: float, horizon: int, vocabulary: int, policies: int = 1) -> int:
    """The most that one prompt can cost: every policy on every row, I sum_t min(I / eps, V^t) over t < H.

    At one depth a policy reaches at most 1 / eps prefixes with probability eps, the union of I policies I / eps.
    """
    widest = policies / eps if eps > 0 else math.inf
    return int(policies * sum(min(widest, vocabulary**depth) for depth in range(horizon)))


def enumerate_support(
    policies: Sequence[Policy],
    *,
    eps: float,
    stop: Collection[int],
    horizon: int,
    follow: Sequence[Iterable[Tokens]] | None = None,
    rows: int = 4096,
    logits: int = 2**22,
) -> list[Enumeration]:
    """E_eps of every policy on every prompt, exactly, by pruned breadth-first expansion of the union trees.

    Reach never grows along a path: a child below eps under every policy has no descendant in any E_eps, and is cut,
    unless it begins one of `follow`'s responses (a collection per prompt), which are kept however rare. eps = 0
    enumerates everything.

    All prompts advance together, a level at a time, by at most `rows` rows, of which at most `logits` probabilities
    exist at once. Prompts that would make a level wider wait for another pass; one that is wider by itself goes on.
    """
    walk = _Walk(policies, eps, tuple(stop), horizon, follow or [()] * len(policies[0]), rows, logits)
    waiting, size, trees = list(range(len(policies[0]))), rows, {}
    while waiting:
        done = walk.expand(waiting[:size])
        waiting, size = [prompt for prompt in waiting if prompt not in done], min(rows, 2 * len(done))
        trees |= done
    return [trees[prompt] for prompt in sorted(trees)]


@dataclass(frozen=True, eq=False)
class _Rows:
    """Prefixes to be expanded: of which prompt, after which edge (-1 at the root), at which node of the followed
    responses (-1 off them), and their log-reach [F, I]."""

    prompt: np.ndarray
    edge: np.ndarray
    node: np.ndarray
    log_reach: np.ndarray


@dataclass(frozen=True, eq=False)
class _Edges:
    """The children kept at one depth: their row, and what a `Tree` says of an edge. `parent` counts all prompts' edges
    from the first level on."""

    row: np.ndarray
    prompt: np.ndarray
    parent: np.ndarray
    token: np.ndarray
    depth: np.ndarray
    ends: np.ndarray
    log_p: np.ndarray


class _Walk:
    """Breadth-first passes over some of the prompts. Evaluations are counted over all passes."""

    def __init__(self, policies, eps, stop, horizon, follow, rows, logits):
        self.policies, self.eps, self.stop, self.horizon, self.most_rows = policies, eps, stop, horizon, rows
        self.vocabulary = min(policy.vocabulary for policy in policies)  # what only one has beyond stands for no token
        self.chunk = max(1, logits // (self.vocabulary * len(policies)))
        self.nodes, self.first_node = _followed(follow)
        self.evaluations = np.zeros(len(follow), int)

    def expand(self, prompts: Sequence[int]) -> dict[int, Enumeration]:
        """Those of the prompts whose levels fit together, at least the first."""
        for policy in self.policies:
            policy.root(prompts)
        policies, size = len(self.policies), len(prompts)
        rows = _Rows(np.array(prompts), np.full(size, -1), self.first_node[prompts], np.zeros((size, policies)))
        residual_PI = np.zeros((len(self.evaluations), policies))
        levels, edges, wide = [], 0, set()
        for depth in range(1, self.horizon + 1):
            np.add.at(self.evaluations, rows.prompt, policies)
            level = self._children(rows, depth, residual_PI)
            levels.append(level)
            going = np.flatnonzero(~level.ends)
            prompt, count = np.unique(level.prompt[going], return_counts=True)
            wide |= set(prompt[1:][np.cumsum(count)[1:] > self.most_rows].tolist())
            going = going[~np.isin(level.prompt[going], list(wide))]
            if not len(going):
                break
            above, token = level.row[going], level.token[going]
            on_path = zip(rows.node[above], token.tolist(), strict=True)
            node = np.array([self.nodes[n].get(t, -1) if n >= 0 else -1 for n, t in on_path])
            log_reach = rows.log_reach[above] + level.log_p[going]
            rows = _Rows(level.prompt[going], edges + going, node, log_reach)
            edges += len(level.token)
            for policy in self.policies:
                policy.extend(above, token)
        trees = _trees(levels, [prompt for prompt in prompts if prompt not in wide])
        return {p: Enumeration(tree, residual_PI[p], int(self.evaluations[p])) for p, tree in trees}

    def _children(self, rows: _Rows, depth: int, residual_PI: np.ndarray) -> _Edges:
        """The children to keep, some rows at a time; the probability of the others goes to `residual_PI`."""
        kept = []
        for start in range(0, len(rows.prompt), self.chunk):
            part = slice(start, start + self.chunk)
            next_fVI = np.stack([policy.log_p(part)[:, : self.vocabulary] for policy in self.policies], axis=-1)
            reach_fVI = np.exp(rows.log_reach[part, None] + next_fVI)
            kept_fV = (reach_fVI >= self.eps).any(-1)
            for row in np.flatnonzero(rows.node[part] >= 0):
                kept_fV[row, list(self.nodes[rows.node[start + row]])] = True
            np.add.at(residual_PI, rows.prompt[part], np.where(kept_fV[..., None], 0.0, reach_fVI).sum(axis=1))
            row, token = np.nonzero(kept_fV)
            kept.append((row + start, token, next_fVI[row, token]))
        row, token, log_p = (np.concatenate(column) for column in zip(*kept, strict=True))
        ends = np.isin(token, self.stop) | (depth == self.horizon)
        return _Edges(row, rows.prompt[row], rows.edge[row], token, np.full(len(row), depth), ends, log_p)


def _followed(follow: Sequence[Iterable[Tokens]]) -> tuple[list[dict[int, int]], np.ndarray]:
    """The responses of each prompt as a trie: for every node {token: node}, and [P] where each prompt begins."""
    nodes: list[dict[int, int]] = []
    first = []
    for responses in follow:
        first.append(len(nodes))
        nodes.append({})
        for response in responses:
            at = first[-1]
            for token in response:
                at = nodes[at].setdefault(int(token), len(nodes))
                if at == len(nodes):
                    nodes.append({})
    return nodes, np.array(first)


def _trees(levels: Sequence[_Edges], prompts: Sequence[int]) -> Iterator[tuple[int, Tree]]:
    """(prompt, its tree) from the levels of all prompts together."""
    names = ("prompt", "parent", "token", "depth", "ends", "log_p")
    prompt, parent, *others = (np.concatenate([getattr(level, name) for level in levels]) for name in names)
    order = np.argsort(prompt, kind="stable")
    begin, end = (np.searchsorted(prompt[order], prompts, side=side) for side in ("left", "right"))
    place = np.empty(len(prompt), int)
    for each, first, last in zip(prompts, begin, end, strict=True):
        edges = order[first:last]
        place[edges] = np.arange(len(edges))
        above = np.where(parent[edges] < 0, -1, place[parent[edges]])
        yield each, Tree.from_edges(above, *(column[edges] for column in others))
