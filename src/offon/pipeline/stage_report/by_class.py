"""What a stage changed at finer grains than prompts: by class, by response, and the branches of one prompt.

By class every sample counts. By response and in the branches the first `RESPONSES` of each prompt and side do, which
both models score: a quarter of a probe's tokens at the defaults, read without sampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offon.behavior.change.support import support_threshold
from offon.behavior.stage.task_entry import clusters_of
from offon.measure.model_distance import RESPONSES, ModelDistance
from offon.measure.paired_responses import pool
from offon.measure.probe import prompt_infos
from offon.measure.response_changes import by_class, by_trajectory, tree_of
from offon.tasks.api import response_classes
from offon.types import Group


def classes(task: Any, before: Sequence[Group], after: Sequence[Group], k: int) -> dict[str, Any]:
    """{"classes": ...}; nothing where the task names no classes of responses."""
    if response_classes(task) is None:
        return {}
    return {"classes": by_class(task, (before, after), None, k)}


def responses(
    pair: ModelDistance,
    task: Any,
    before: Sequence[Group],
    after: Sequence[Group],
    rows: Sequence[Mapping[str, Any]],
    k: int,
) -> dict[str, Any]:
    """{"trajectories", "tree", "surface"} of the prompts that both models have a scored response to; surface only where
    the task names classes. rows: the prompts' entries, with their calls."""
    sides = [[_first(group) for group in side] for side in (before, after)]
    measured = [i for i, row in enumerate(rows) if row["before"][1] and row["after"][1]]
    measured = [i for i in measured if all(side[i].members for side in sides)]
    if not measured:
        return {}
    sides = [[side[i] for i in measured] for side in sides]

    def read() -> dict[str, Any]:
        pooled = pool(pair.models, *sides)
        clusters = clusters_of(prompt_infos(sides[0]))
        shown = [rows[i] for i in measured]
        tree = tree_of(pair.models, task, sides, pooled, shown, support_threshold(k), None, exact=False)
        entry = {"trajectories": by_trajectory(pooled, k, clusters=clusters), "tree": tree}
        if response_classes(task) is not None:
            entry["surface"] = by_class(task, sides, pooled, k)["surface"]
        return entry

    return dict(pair.kept(f"responses {k}", [*sides[0], *sides[1]], read))


def _first(group: Group) -> Group:
    scored = [member for member in group.members if member.signals["reward"] is not None]
    return group.replace(members=tuple(scored[:RESPONSES]))
