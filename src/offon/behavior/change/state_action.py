"""D2 and D3: the change of success between two policies, split over states and actions, and over where in the response.

Axes: N edges of a whole tree (see `offon.behavior.change.prefix_tree`), P prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offon.behavior.change.prefix_tree import CELLS, Tree, cells
from offon.behavior.statistics.intervals import Est, mean_over_prompts
from offon.errors import DataError

WHOLE = 1e-6  # probability a tree may miss and still be called whole


def values(tree: Tree, reward_N: np.ndarray, policy: int) -> np.ndarray:
    """[N] V(s) after each edge: expected reward of the responses that go on from there under a policy.

    reward_N is read where a response ends.
    """
    value = np.where(tree.ends, reward_N, 0.0)
    p = np.exp(tree.log_p[:, policy])
    for edge in range(len(tree) - 1, -1, -1):  # children before parents
        if tree.parent[edge] >= 0:
            value[tree.parent[edge]] += p[edge] * value[edge]
    return value


def decompose_states(
    tree: Tree, reward_N: np.ndarray, eps: float, *, before: int = 0, after: int = 1
) -> dict[str, float]:
    """D2: performance difference, every action, by what happened to the support of each state-action pair.

        J1 - J0 = sum_s reach1(s) sum_a (pi1 - pi0)(a | s) [Q0(s, a) - V0(s)]

    expansion, shared and diffuse are sums over those cells. Pairs that left support are split by what their terms did:
    harmful (negative: mostly good actions made rare) and pruning (positive: mostly bad ones). All five sum to the
    change exactly. Kakade and Langford 2002. Needs the whole tree: enumerate with eps = 0.
    """
    for policy in (before, after):
        seen = tree.reach[tree.ends, policy].sum()
        if abs(seen - 1) > WHOLE:
            raise DataError(
                f"the tree holds {seen:.6f} of policy {policy}'s responses",
                why="values of states need every continuation",
                fix="enumerate_support(..., eps=0)",
            )
    p0, p1 = np.exp(tree.log_p[:, before]), np.exp(tree.log_p[:, after])
    above = tree.parent
    state_reach1 = np.where(above >= 0, tree.reach[above, after], 1.0)
    value0 = values(tree, reward_N, before)
    root_value0 = float((p0 * value0)[above < 0].sum())
    advantage = value0 - np.where(above >= 0, value0[above], root_value0)
    term = state_reach1 * (p1 - p0) * advantage
    cell_of = cells(tree, eps, before=before, after=after)
    parts = {cell: float(term[cell_of == cell].sum()) for cell in CELLS if cell != "attrition"}
    left = cell_of == "attrition"
    return parts | {
        "harmful": float(term[left & (term < 0)].sum()),
        "pruning": float(term[left & (term >= 0)].sum()),
    }


@dataclass(frozen=True)
class PrefixSuffix:
    """total = prefix + suffix; interaction > 0: the two gains need each other, < 0: either would do."""

    prefix: Est
    suffix: Est
    interaction: Est
    total: Est


def prefix_suffix(v00_P, v01_P, v10_P, v11_P) -> PrefixSuffix:
    """D3: Shapley values of the prefix and of the suffix, from success of hybrids of two policies at one cut.

        V_ab: the first part written by policy a, the rest by b
        prefix = 1/2 [(V10 - V00) + (V11 - V01)]
        suffix = 1/2 [(V01 - V00) + (V11 - V10)]
        interaction = V11 + V00 - V10 - V01

    Each is success by prompt, [P]; intervals over prompts.
    """
    v00, v01, v10, v11 = (np.asarray(v, float) for v in (v00_P, v01_P, v10_P, v11_P))
    rows = np.column_stack([
        (v10 - v00 + v11 - v01) / 2, (v01 - v00 + v11 - v10) / 2, v11 + v00 - v10 - v01, v11 - v00,
    ])  # fmt: skip
    return PrefixSuffix(*mean_over_prompts(rows))
