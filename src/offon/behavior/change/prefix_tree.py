"""Prefix trees: which states and actions policies reach, with what probability, and how support changed between two.

    reach_i(s, a) = prod_{u <= t} pi_i(y_u | x, y_<u),  y_t = a        an edge of the tree, under policy i
    E_eps(pi_i)   = { (s, a): reach_i(s, a) >= eps }             effective support: a subtree, since reach only falls

Probabilities are those of the sampler, so membership of an edge that is in the tree is exact; what sampling leaves to
chance is only which edges were discovered.

Occupancy is d_H(s, a) = reach / H with a response's end repeated to the horizon H (arXiv:2604.07941, eq. 2, with
eta_t = 1/H): an ended response of length T stands for itself and H - T repetitions.

Axes: N edges (each names its child), I policies, H horizon, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from offon.errors import DataError
from offon.types.trajectory import Tokens

CELLS = ("expansion", "shared", "attrition", "diffuse")
AGREE = 1e-3  # nats: one edge scored twice under one policy


@dataclass(frozen=True, eq=False)
class Tree:
    """Edges in an order that puts parents before children.

    parent     [N] index of the edge above, -1 at the root
    token      [N] the action
    depth      [N] 1 for the first token
    ends       [N] whether a response ends with this token
    log_p      [N, I] log pi_i(a | s)
    log_reach  [N, I] its sum along the path
    """

    parent: np.ndarray
    token: np.ndarray
    depth: np.ndarray
    ends: np.ndarray
    log_p: np.ndarray
    log_reach: np.ndarray

    @staticmethod
    def of(responses: Iterable[tuple[Sequence[int], np.ndarray, bool]], policies: int = 1) -> Tree:
        """Merge responses (tokens, log-probs [T, I], whether it ended) of one prompt into their union tree."""
        index: dict[tuple[int, int], int] = {}
        parent, token, depth, ends, log_p = [], [], [], [], []
        for tokens, logp_TI, ended in responses:
            at = -1
            for position, (action, edge_I) in enumerate(zip(tokens, np.reshape(logp_TI, (-1, policies)), strict=True)):
                known = index.get((at, int(action)))
                if known is None:
                    known = index[at, int(action)] = len(parent)
                    parent.append(at)
                    token.append(int(action))
                    depth.append(position + 1)
                    ends.append(False)
                    log_p.append(edge_I)
                elif np.abs(log_p[known] - edge_I).max() > AGREE:
                    raise DataError(
                        f"one prefix has two log-probs, {log_p[known].tolist()} and {edge_I.tolist()}",
                        where=f"token {position} of {list(tokens)}",
                        why="every response of a tree must be scored under the same policies and sampler",
                    )
                at = known
            ends[at] = ends[at] or ended
        return Tree.from_edges(parent, token, depth, ends, np.reshape(log_p, (len(parent), policies)))

    @staticmethod
    def from_edges(parent, token, depth, ends, log_p_NI) -> Tree:
        parent = np.asarray(parent, dtype=np.int64)
        log_p_NI = np.asarray(log_p_NI, dtype=np.float64)
        log_reach = log_p_NI.copy()
        for edge, above in enumerate(parent):  # parents come first
            if above >= 0:
                log_reach[edge] += log_reach[above]
        return Tree(parent, np.asarray(token), np.asarray(depth), np.asarray(ends, bool), log_p_NI, log_reach)

    @property
    def reach(self) -> np.ndarray:
        return np.exp(self.log_reach)

    def __len__(self) -> int:
        return len(self.parent)

    def path(self, edge: int) -> Tokens:
        tokens = []
        while edge >= 0:
            tokens.append(int(self.token[edge]))
            edge = self.parent[edge]
        return tuple(reversed(tokens))


def support(tree: Tree, eps: float) -> np.ndarray:
    """[N, I] bool: which edges lie in each policy's E_eps."""
    return tree.reach >= eps


def cells(tree: Tree, eps: float, *, before: int = 0, after: int = 1) -> np.ndarray:
    """[N] what happened to each edge: expansion OUT -> IN, shared IN -> IN, attrition IN -> OUT, diffuse OUT -> OUT."""
    inside = support(tree, eps)
    was, now = inside[:, before], inside[:, after]
    return np.select([~was & now, was & now, was & ~now], CELLS[:3], CELLS[3])


def occupancy(tree: Tree, horizon: int) -> np.ndarray:
    """[N, I] d_H of each edge: reach / H, ended responses repeated to the horizon. Sums to 1 over a whole tree."""
    repeats = np.where(tree.ends, horizon - tree.depth + 1, 1)
    return tree.reach * (repeats / horizon)[:, None]


def mass_by_cell(tree: Tree, eps: float, horizon: int, *, before: int = 0, after: int = 1) -> dict[str, tuple]:
    """Occupancy (before, after) in each cell. Over a whole tree the changes sum to 0."""
    cell_of, mass = cells(tree, eps, before=before, after=after), occupancy(tree, horizon)
    return {cell: tuple(mass[cell_of == cell][:, [before, after]].sum(axis=0).tolist()) for cell in CELLS}


def _by_depth(tree: Tree, chosen_N: np.ndarray, policy: int, horizon: int) -> np.ndarray:
    """[H] reach in the chosen edges at each depth, responses that ended before counted as still there."""
    total = np.zeros(horizon)
    reach = np.where(chosen_N, tree.reach[:, policy], 0.0)
    np.add.at(total, tree.depth - 1, reach)
    ended = np.zeros(horizon + 1)
    np.add.at(ended, tree.depth[tree.ends], reach[tree.ends])
    return total + np.cumsum(ended)[:horizon]


def coverage(tree: Tree, eps: float, horizon: int, policy: int = 0) -> np.ndarray:
    """[H] probability that a response is still inside E_eps after t tokens. Statements about depth t want 0.5 or more:
    at entropy h a token, absolute support ends near depth log(1/eps) / h."""
    return _by_depth(tree, support(tree, eps)[:, policy], policy, horizon)
