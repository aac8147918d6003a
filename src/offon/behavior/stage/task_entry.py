"""What one stage did on one task: the entry of a task in handoff.json.

Axes: P prompts (the same before and after, in one order), n samples of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from offon.behavior.change.success_decomposition import decompose
from offon.behavior.change.support import CHANGES, prompt_changes
from offon.behavior.metrics import registry
from offon.behavior.metrics.metric import Groups, Sides
from offon.behavior.stage.role import stage_role
from offon.behavior.statistics.counts import Counts, count
from offon.behavior.statistics.pass_at_k import curve, mean_pass_at_k
from offon.errors import DataError

Outcomes = Sequence[Sequence[float | None]]


def task_handoff(
    before: Outcomes,
    after: Outcomes,
    prompts: Sequence[Mapping],
    *,
    k: int,
    sampler: tuple[Mapping, Mapping] = ({}, {}),
    scaffolded: tuple[Outcomes, Outcomes] | None = None,
    groups: tuple[Groups, Groups] | None = None,
    seed: int = 0,
) -> dict:
    """Compare the outcomes [P][n] of two checkpoints on the same prompts: 1, 0, None = unscored.

    prompts: {"id", "family", "prompt"} each, and "cluster" where prompts have one in common (a template, a document):
    intervals are then over clusters. k: the rollouts per prompt the next on-policy stage can spend, declared
    beforehand. sampler: how before and after were drawn, kept beside the numbers they explain. scaffolded: outcomes of
    both on the same prompts under the scaffold, an empty row where a prompt has none; the role may be consolidation
    then. groups: the responses that these are the outcomes of, for the metrics that look at them.
    Success, calls and D1 use the same prompts, so success after - success before is D1's total: those with at least
    two scored samples on both sides; the others stay in "prompts" and are counted in "unmeasured". "families" repeats
    the numbers per family where there are several.
    """
    counts = count(before), count(after)
    sizes = {"prompts": len(prompts), "before": len(counts[0].scored), "after": len(counts[1].scored)}
    if groups is not None:
        sizes |= {f"groups {when}": len(side) for when, side in zip(("before", "after"), groups, strict=True)}
    if len(set(sizes.values())) > 1:
        raise DataError(f"rows disagree: {sizes}", why="before and after are the same prompts in one order")
    for when, side in zip(("before", "after"), groups or (), strict=False):
        other = [(p["id"], g.item.id) for p, g in zip(prompts, side, strict=True) if p["id"] != g.item.id]
        if other:
            raise DataError(
                f"{len(other)} groups {when} are of other prompts", where="prompt {}, group of {}".format(*other[0])
            )
    measured = (counts[0].scored >= 2) & (counts[1].scored >= 2)
    if not measured.any():
        raise DataError("no prompt has two scored samples before and after", fix="look at why the checker scored none")

    helped = None if scaffolded is None else (count(scaffolded[0]), count(scaffolded[1]))
    clusters = clusters_of(prompts)
    sides = Sides(
        before=counts[0], after=counts[1], k=k, seed=seed, scaffolded=helped, groups=groups, clusters=clusters
    )
    calls = np.array(prompt_changes(*counts, k))
    families = np.array([prompt.get("family", "") for prompt in prompts])
    entry = {
        "n_prompts": len(prompts),
        "n_samples": int(min(np.median(side.scored) for side in counts)),
        "unmeasured": int((~measured).sum()),
        "unscored": {when: _unscored(rows) for when, rows in (("before", before), ("after", after))},
        **_measure(sides.at(measured), calls[measured].tolist()),
        "prompts": [
            {
                "id": prompt["id"],
                "family": prompt.get("family", ""),
                "prompt": prompt["prompt"],
                **({} if prompt.get("cluster") is None else {"cluster": prompt["cluster"]}),
                "before": [int(counts[0].successes[index]), int(counts[0].scored[index])],
                "after": [int(counts[1].successes[index]), int(counts[1].scored[index])],
                "call": str(calls[index]),
            }
            for index, prompt in enumerate(prompts)
        ],
    }
    entry["before"]["sampler"], entry["after"]["sampler"] = map(dict, sampler)
    names = sorted(set(families[measured]))
    if len(names) > 1:
        chosen = {str(name): measured & (families == name) for name in names}
        entry["families"] = {name: _measure(sides.at(mask), calls[mask].tolist()) for name, mask in chosen.items()}
    return entry


def _measure(sides: Sides, calls: Sequence[str]) -> dict[str, Any]:
    """Success, pass@k, calls, D1 and role on some prompts, and every metric of behaviour under its key."""
    before, after, k = sides.before, sides.after, sides.k
    return {
        "before": _performance(before, k, sides.clusters),
        "after": _performance(after, k, sides.clusters),
        "calls": {change: calls.count(change) for change in CHANGES},
        "d1": decompose(before, after, k=k, clusters=sides.clusters).as_dict(),
        "role": stage_role(
            before, after, k, scaffolded=sides.scaffolded, seed=sides.seed, clusters=sides.clusters
        ).as_dict(),
        **{metric.key: metric.measure(sides) for metric in registry.METRICS},
    }


def clusters_of(prompts: Sequence[Mapping]) -> np.ndarray | None:
    """[P] the cluster of each prompt, its own where it names none; None where none does."""
    if all(prompt.get("cluster") is None for prompt in prompts):
        return None
    alone = [f"prompt {prompt['id']}" for prompt in prompts]
    return np.array([str(prompt.get("cluster") or single) for prompt, single in zip(prompts, alone, strict=True)])


def _performance(counts: Counts, k: int, clusters: np.ndarray | None) -> dict:
    return {
        "success": mean_pass_at_k(counts, 1, clusters=clusters)._asdict(),
        "pass_at_k": curve(counts, declared=(k,), clusters=clusters),
    }


def _unscored(rows: Outcomes) -> int:
    return sum(len(row) for row in rows) - int(count(rows).scored.sum())
