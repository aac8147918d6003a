"""What one stage did on one task: the entry of a task in handoff.json.

Axes: P prompts (the same before and after, in one order), n samples of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from offon.behavior.change.success_decomposition import decompose
from offon.behavior.change.support import CHANGES, prompt_changes
from offon.behavior.stage.retention import retention, trainability
from offon.behavior.stage.role import stage_role
from offon.behavior.statistics.counts import Counts, count
from offon.behavior.statistics.pass_at_k import curve, mean_pass_at_k
from offon.errors import DataError

GROUP_SIZE = 8  # rollouts of one prompt in a later stage, for which the share of useful groups is told

Outcomes = Sequence[Sequence[float | None]]


def task_handoff(
    before: Outcomes,
    after: Outcomes,
    prompts: Sequence[Mapping],
    *,
    k: int,
    sampler: tuple[Mapping, Mapping] = ({}, {}),
    scaffolded: tuple[Outcomes, Outcomes] | None = None,
    seed: int = 0,
) -> dict:
    """Compare the outcomes [P][n] of two checkpoints on the same prompts: 1, 0, None = unscored.

    prompts: {"id", "family", "prompt"} each, and "cluster" where prompts have one in common (a template, a document):
    intervals are then over clusters. k: the rollouts per prompt the next on-policy stage can spend, declared
    beforehand. sampler: how before and after were drawn, kept beside the numbers they explain. scaffolded: outcomes of
    both on the same prompts under the scaffold, an empty row where a prompt has none; the role may be consolidation
    then.
    Success, calls and D1 use the same prompts, so success after - success before is D1's total: those with at least
    two scored samples on both sides; the others stay in "prompts" and are counted in "unmeasured". "families" repeats
    the numbers per family where there are several.
    """
    counts = count(before), count(after)
    sizes = {"prompts": len(prompts), "before": len(counts[0].scored), "after": len(counts[1].scored)}
    if len(set(sizes.values())) > 1:
        raise DataError(f"rows disagree: {sizes}", why="before and after are the same prompts in one order")
    measured = (counts[0].scored >= 2) & (counts[1].scored >= 2)
    if not measured.any():
        raise DataError("no prompt has two scored samples before and after", fix="look at why the checker scored none")

    helped = None if scaffolded is None else (count(scaffolded[0]), count(scaffolded[1]))
    calls = prompt_changes(*counts, k)
    families = np.array([prompt.get("family", "") for prompt in prompts])
    clusters = clusters_of(prompts)
    entry = {
        "n_prompts": len(prompts),
        "n_samples": int(min(np.median(side.scored) for side in counts)),
        "unmeasured": int((~measured).sum()),
        "unscored": {when: _unscored(rows) for when, rows in (("before", before), ("after", after))},
        **_measure(*counts, calls, measured, k, helped, seed, clusters),
        "prompts": [
            {
                "id": prompt["id"],
                "family": prompt.get("family", ""),
                "prompt": prompt["prompt"],
                **({} if prompt.get("cluster") is None else {"cluster": prompt["cluster"]}),
                "before": [int(counts[0].successes[index]), int(counts[0].scored[index])],
                "after": [int(counts[1].successes[index]), int(counts[1].scored[index])],
                "call": calls[index],
            }
            for index, prompt in enumerate(prompts)
        ],
    }
    entry["before"]["sampler"], entry["after"]["sampler"] = map(dict, sampler)
    names = sorted(set(families[measured]))
    if len(names) > 1:
        entry["families"] = {
            str(name): _measure(*counts, calls, measured & (families == name), k, helped, seed, clusters)
            for name in names
        }
    return entry


def _measure(
    before: Counts,
    after: Counts,
    calls: Sequence[str],
    chosen: np.ndarray,
    k: int,
    scaffolded: tuple[Counts, Counts] | None,
    seed: int,
    clusters: np.ndarray | None,
) -> dict:
    """Success, pass@k, calls, D1, role, retention and what a later on-policy stage would find, on some prompts."""
    before, after = before.at(chosen), after.at(chosen)
    clusters = None if clusters is None else clusters[chosen]
    helped = scaffolded and (scaffolded[0].at(chosen), scaffolded[1].at(chosen))
    chosen_calls = [call for call, keep in zip(calls, chosen, strict=True) if keep]
    return {
        "before": _performance(before, k, clusters),
        "after": _performance(after, k, clusters),
        "calls": {change: chosen_calls.count(change) for change in CHANGES},
        "d1": decompose(before, after, k=k, clusters=clusters).as_dict(),
        "role": stage_role(before, after, k, scaffolded=helped, seed=seed, clusters=clusters).as_dict(),
        "retention": retention(before, after, clusters=clusters)._asdict() if before.successes.any() else None,
        "trainability": {
            when: {name: est._asdict() for name, est in trainability(counts, k, GROUP_SIZE, clusters=clusters).items()}
            for when, counts in (("before", before), ("after", after))
            if (counts.scored >= max(k, GROUP_SIZE)).all()
        },
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
