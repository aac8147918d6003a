"""What the samples of two checkpoints show besides success: by trajectory, by class, tries until a success, and a tree.

"before" and "after" are checkpoints 0 and 1; P prompts, of which lists hold one entry each.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from offon.behavior.change.branches import branches
from offon.behavior.change.by_class import (
    ClassCounts,
    class_calls,
    decompose_classes,
    distinct,
    largest_changes,
    surface_novelty,
)
from offon.behavior.change.k_to_solve import KToSolve, k_to_solve
from offon.behavior.change.relative_support import bits, coverage_profile, decompose_trajectories, first_passage
from offon.behavior.change.support import IN, OUT, UNDECIDED, support_threshold
from offon.behavior.stage.task_entry import clusters_of
from offon.behavior.statistics.intervals import Clusters, mean_over_prompts
from offon.engines.expansion import expand
from offon.errors import DataError
from offon.measure.enumerated_support import verdicts
from offon.measure.paired_responses import Pooled
from offon.measure.probe import prompt_infos
from offon.models.model import Model
from offon.tasks.api import response_classes
from offon.types import RIGHT, Group

SIDES = ("before", "after")
DEEPER = 4  # the tree shows branches down to this part of what counts as within reach
JOIN = " | "  # between the parts of a class: its route, its answer


def by_trajectory(
    pooled: Sequence[Pooled], k: int, *, passage: bool = True, clusters: Clusters = None
) -> dict[str, Any]:
    """D1 by trajectory at factor 1 / eps_k, how much of the new successes was new, where novelty starts, and D4 where
    both succeed. clusters: [P] what prompts have in common."""
    n = 1 / support_threshold(k)
    early, late = ([one.scored(side) for one in pooled] for side in (0, 1))
    terms = decompose_trajectories(early, late, n=n, clusters=clusters)
    report: dict[str, Any] = {"factor": n, "d1": {name: est._asdict() for name, est in terms.items()}}
    report["scorer_gap"] = max(one.gap for one in pooled)
    if any(scored.success.any() for scored in late):
        report["new_successes"] = coverage_profile(late, n, clusters=clusters)._asdict()
    if passage and (starts := _starts(pooled, n)):
        starts, places = zip(*starts, strict=True)
        first = np.array([np.mean(row == 1) for row in starts])
        low, middle, high = np.quantile(np.concatenate(starts), [0.25, 0.5, 0.75])
        report["first_passage"] = {
            "median_token": float(middle), "quartiles": [float(low), float(high)],
            "share_at_first_token": mean_over_prompts(first, clusters=_at(clusters, places))[0]._asdict(),
            "responses": sum(map(len, starts)), "prompts": len(starts),
        }  # fmt: skip
    both = [i for i, (a, b) in enumerate(zip(early, late, strict=True)) if a.success.any() and b.success.any()]
    if both:
        parts = [bits(float(early[i].success.mean()), late[i]) for i in both]
        rows = np.array([[part[name] for name in parts[0]] for part in parts])
        report["bits"] = {name: float(mean) for name, mean in zip(parts[0], rows.mean(axis=0), strict=True)}
        report["bits"]["intervals"] = {
            name: est._asdict()
            for name, est in zip(parts[0], mean_over_prompts(rows, clusters=_at(clusters, both)), strict=True)
        }
        report["bits"]["prompts"] = len(both)
    return report


def _at(clusters: Clusters, places: Sequence[int]) -> Clusters:
    return None if clusters is None else [clusters[i] for i in places]


def _starts(pooled: Sequence[Pooled], n: float) -> list[tuple[np.ndarray, int]]:
    """Of each prompt with new responses: the token, counted from 1, at which each of them became new; its place."""
    starts = []
    for place, one in enumerate(pooled):
        ratios = [ratio for ratio in one.log_ratios(1) if ratio.sum() >= np.log(n)]
        if ratios:
            starts.append((np.array([1 + first_passage(ratio, n) for ratio in ratios]), place))
    return starts


def by_class(task: Any, groups: Sequence[Sequence[Group]], pooled: Sequence[Pooled] | None, k: int) -> dict[str, Any]:
    """D1 over answers, or over answers by route, how many there are, and what was new only on the surface."""
    kind, name = response_classes(task)
    sides = [[_classified(group, name) for group in side] for side in groups]
    counts = ClassCounts.of(*sides, clusters=clusters_of(prompt_infos(groups[0])))
    d1 = decompose_classes(counts, k=k)
    plain = {part: {term: est._asdict() for term, est in d1[part].items()} for part in ("certified", "soft")}
    report = {
        "map": kind,
        "d1": plain | {"total": d1["total"]._asdict()},
        **class_calls(counts, k),
        "distinct": {
            when: {what: est._asdict() for what, est in row.items()} for when, row in distinct(counts).items()
        },
        "top": largest_changes(counts, _labels(counts, kind)),
    }
    if pooled is not None:
        limit = -np.log(support_threshold(k))
        new = [one.scored(1).log_ratio >= limit for one in pooled]
        report["surface"] = surface_novelty(counts, sides[1], new, k)._asdict()
    return report


def _classified(group: Group, name: Callable) -> list[tuple[str, bool]]:
    known: dict[str, str] = {}
    rows = []
    for member in group.members:
        if (score := member.signals["reward"]) is None:
            continue
        if member.text not in known:
            known[member.text] = JOIN.join(name(group.item, member.text))
        rows.append((known[member.text], score >= RIGHT))
    return rows


def _labels(counts: ClassCounts, kind: str) -> list[str]:
    """A route means the same on every prompt; an answer does not, and is told as right or wrong."""
    if kind == "route":
        return [name.split(JOIN)[0] or "no route" for name in counts.name]
    right = counts.right[0] + counts.right[1] > 0
    return ["no answer" if not name else "right answers" if ok else "wrong answers"
            for name, ok in zip(counts.name, right, strict=True)]  # fmt: skip


def solving(groups: Sequence[Sequence[Group]], pooled: Sequence[Pooled] | None, k: int) -> list[dict[str, Any]]:
    """Of each prompt: tries until a success and whether it is within reach, before and after."""
    eps = support_threshold(k)
    rows = []
    for index in range(len(groups[0])):
        intervals = [
            pooled[index].k_to_solve(side) if pooled else _from_counts(groups[side][index])
            for side in range(len(SIDES))
        ]
        tries = [[float(one.tries[0]), float(one.tries[1]) if np.isfinite(one.tries[1]) else None] for one in intervals]
        calls = [IN if one.low >= eps else OUT if one.high < eps else UNDECIDED for one in intervals]
        rows.append({
            "k_to_solve": dict(zip(SIDES, tries, strict=True)), "support": dict(zip(SIDES, calls, strict=True))
        })  # fmt: skip
    return rows


def _from_counts(group: Group) -> KToSolve:
    scores = [m.signals["reward"] for m in group.members if m.signals["reward"] is not None]
    return k_to_solve(sum(score >= RIGHT for score in scores), len(scores))


def tree_of(
    models: Sequence[Model],
    task: Any,
    groups: Sequence[Sequence[Group]],
    pooled: Sequence[Pooled],
    rows: Sequence[Mapping[str, Any]],
    eps: float,
    prompt: str | None,
    *,
    exact: bool,
) -> dict[str, Any]:
    """The union tree of one prompt: all of its effective support where that can be enumerated, else what was sampled,
    with the exact reach of both. rows: the prompts' entries with their calls."""
    index, why = _chosen(rows, prompt)
    group = groups[0][index]
    if exact:
        sampling = group.members[0].producer.sampling
        [enumeration] = expand(models, [group.prompt], sampling, eps=eps / DEEPER, horizon=sampling.max_tokens)
        tree, right = enumeration.tree, verdicts(models[0], task, group, enumeration.tree)
    else:
        tree, right = pooled[index].tree(), pooled[index].verdicts
    drawn = branches(tree, eps, text=models[0].tokenizer.decode, right=right)
    source = "enumerated" if exact else "sampled"
    return {"prompt_id": rows[index]["id"], "prompt": rows[index]["prompt"], "why": why, "source": source, **drawn}


def _chosen(rows: Sequence[Mapping[str, Any]], prompt: str | None) -> tuple[int, str]:
    """The prompt to show, and why this one."""
    if prompt is not None:
        return place_of(prompt, [row["id"] for row in rows]), "asked for"
    change = [abs(row["after"][0] / row["after"][1] - row["before"][0] / row["before"][1]) for row in rows]
    certain = [index for index, row in enumerate(rows) if row["call"] in ("gained", "lost")]
    if certain:
        index = max(certain, key=lambda i: change[i])
        return index, f"the largest change among prompts certain to be {rows[index]['call']}"
    return int(np.argmax(change)), "the largest change; no prompt is certain to be gained or lost"


def place_of(prompt: str, ids: Sequence[str]) -> int:
    if prompt not in ids:
        near = difflib.get_close_matches(prompt, ids, n=1)
        raise DataError(
            f"no prompt {prompt!r} among the {len(ids)} that are measured",
            fix=f"did you mean {near[0]}?" if near else f"an id of --json's prompts, such as {ids[0]}",
        )
    return ids.index(prompt)
