"""Exact instruments of a comparison: effective support by enumeration, D2 where the whole tree can be had.

Axes: H depths, N edges of a tree.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from offon.behavior.change.enumeration import Enumeration, most_evaluations
from offon.behavior.change.prefix_tree import CELLS, Tree, cells, coverage, mass_by_cell
from offon.behavior.change.state_action import decompose_states
from offon.engines.expansion import expand
from offon.models.model import Model
from offon.types import RIGHT, Group, Sampling
from offon.types.trajectory import Tokens

SIDES = ("before", "after")


def support_of(
    models: Sequence[Model], task: Any, groups: Sequence[Group], sampling: Sampling, eps: float, *, whole: bool
) -> dict[str, Any]:
    """E_eps of both checkpoints on some prompts: edges by what happened to them, occupancy, coverage by depth, D2.

    whole: enumerate every response, however rare, so that D2 can be told.
    """
    started = time.perf_counter()
    prompts, horizon = [group.prompt for group in groups], sampling.max_tokens
    enumerations = expand(models, prompts, sampling, eps=0.0 if whole else eps, horizon=horizon)
    seconds = time.perf_counter() - started
    depth = max(1, *(int(one.tree.depth.max(initial=0)) for one in enumerations))
    counted = sum((Counter(cells(one.tree, eps).tolist()) for one in enumerations), Counter())
    masses = [mass_by_cell(one.tree, eps, depth) for one in enumerations]
    return {
        "eps": eps,
        "horizon": depth,
        "prompts": len(enumerations),
        "evaluations": sum(one.evaluations for one in enumerations),
        "most_evaluations": len(enumerations)
        * most_evaluations(0.0 if whole else eps, horizon, models[0].vocabulary, 2),
        "seconds": seconds,
        "residual": {side: float(np.mean([one.residual[i] for one in enumerations])) for i, side in enumerate(SIDES)},
        "coverage": {
            side: np.mean([coverage(one.tree, eps, depth, i) for one in enumerations], axis=0).tolist()
            for i, side in enumerate(SIDES)
        },
        "edges": {cell: counted[cell] for cell in CELLS},
        "mass": {cell: np.mean([mass[cell] for mass in masses], axis=0).tolist() for cell in CELLS},
        "whole": whole,
        "d2": _d2(models[0], task, groups, enumerations, eps) if whole else None,
    }


def _d2(
    model: Model, task: Any, groups: Sequence[Group], enumerations: Sequence[Enumeration], eps: float
) -> dict[str, float]:
    rows = []
    for group, one in zip(groups, enumerations, strict=True):
        right = verdicts(model, task, group, one.tree)
        reward = np.array([float(bool(right.get(one.tree.path(edge)))) for edge in range(len(one.tree))])
        rows.append(decompose_states(one.tree, reward, eps))
    terms = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return terms | {"total": sum(terms.values())}


def verdicts(model: Model, task: Any, group: Group, tree: Tree) -> dict[Tokens, bool | None]:
    """Whether each response of a tree is right; None where it could not be scored."""
    responses = [tree.path(edge) for edge in np.flatnonzero(tree.ends)]
    if not responses:
        return {}
    texts = model.tokenizer.batch_decode(responses, skip_special_tokens=True)
    scores = [verdict.score for verdict in task.verify([(group.item, text) for text in texts])]
    return {y: None if score is None else score >= RIGHT for y, score in zip(responses, scores, strict=True)}
