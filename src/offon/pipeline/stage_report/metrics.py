"""What one stage did: probes before and after, provenance and cost of what it trained on, and warnings in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from offon import behavior
from offon.behavior import StageStatistics
from offon.measure.probe import outcomes, prompt_infos
from offon.measure.probe_diagnosis import Probes
from offon.recipe import ResolvedRecipe
from offon.runs import NodeDirectory, RunDirectory, ledger
from offon.runs.holes import holes
from offon.tasks.unscored import in_words, is_news
from offon.types import Group

ON_POLICY_GAP_NATS = 1e-3  # sampler and learner agree to rounding
MOSTLY = 0.99
WORTH_A_WORD = 0.005  # success; a smaller fall may be certain and still not worth a warning


def handoff(
    run: RunDirectory,
    node: NodeDirectory,
    before_label: str,
    before: Probes,
    after: Probes,
    recipe: ResolvedRecipe,
    *,
    scaffolded: tuple[Probes, Probes] = ({}, {}),
) -> dict[str, Any]:
    """handoff.json of one stage: behaviour per probe task, provenance and cost from the stage's counters.

    scaffolded: probes before and after under the scaffold, of the items that have it.
    """
    record = node.read_json("node.json", {})
    counters = record["counters"]
    probe = recipe.probe
    tasks = changes(before, after, recipe, scaffolded)
    off_policy, regime = provenance(counters["off_policy"])
    return {
        "node": node.name,
        "before": before_label,
        "after": node.name,
        "k": probe.k if probe else None,
        "tasks": tasks,
        "tokens_by_source": dict(counters["tokens_by_source"]),
        "fates": fates(run, node.name),
        "off_policy": off_policy,
        "regime": regime,
        "cost": dict(counters["cost"]),
        "warnings": warnings(node, record, tasks),
    }


def changes(
    before: Probes, after: Probes, recipe: ResolvedRecipe, scaffolded: tuple[Probes, Probes] = ({}, {})
) -> dict[str, dict[str, Any]]:
    """The entry of each probe task between two probed models."""
    probe = recipe.probe
    sampler = {} if probe is None else {"temperature": probe.temperature, "max_tokens": probe.max_tokens}
    return {
        name: behavior.task_handoff(
            outcomes(before[name]),
            outcomes(after[name]),
            prompt_infos(after[name]),
            k=probe.k,
            sampler=(sampler, sampler),
            scaffolded=_rows_under_scaffold(after[name], name, scaffolded),
            groups=(before[name], after[name]),
            seed=recipe.seed,
        )
        for name in after
    }


def _rows_under_scaffold(groups: Sequence[Group], name: str, scaffolded: tuple[Probes, Probes]) -> Any:
    """Outcomes [P][n] before and after under the scaffold, an empty row for a prompt without it; None where there is no
    such probe."""
    if name not in scaffolded[0]:
        return None
    sides = ({g.item.id: row for g, row in zip(s[name], outcomes(s[name]), strict=True)} for s in scaffolded)
    before, after = ([rows.get(group.item.id, []) for group in groups] for rows in sides)
    return before, after


def provenance(sums: Mapping[str, float]) -> tuple[dict[str, float | None], str]:
    """How off-policy the trained tokens were, measured: age, conditioning, sampler gap; and the regime in one word.

    mean_age           learner updates between sampling and training, over the learner's own tokens
    conditioned_share  of them, sampled under another view than trained
    sampler_gap_nats   KL(behaviour || learner) per token when the buffer was fresh
    """
    by_learner = sums.get("own_tokens", 0)
    gaps = [
        sums[f"{name}/sum"] / sums[f"{name}/count"]
        for name in ("sync/gap_nats", "off_policy/sampler_gap_nats")
        if sums.get(f"{name}/count")
    ]
    numbers = {
        "mean_age": sums.get("age", 0) / by_learner if by_learner else None,
        "conditioned_share": sums.get("conditioned", 0) / by_learner if by_learner else None,
        "sampler_gap_nats": gaps[0] if gaps else None,
    }
    fresh = sums.get("on_policy", 0) / sums["tokens"] if sums.get("tokens") else 0.0
    if numbers["sampler_gap_nats"] is not None and numbers["sampler_gap_nats"] > ON_POLICY_GAP_NATS:
        fresh = 0.0
    regime = "on-policy" if fresh >= MOSTLY else "off-policy" if fresh <= 1 - MOSTLY else "mixed"
    return numbers, regime


def fates(run: RunDirectory, node: str) -> dict[str, int]:
    table = ledger.query(
        run.path,
        f"select fate, count(*) as n from trajectories where node = '{node}' and fate != 'probe' group by fate",
    )
    return dict(zip(table.column("fate").to_pylist(), table.column("n").to_pylist(), strict=True))


def flaws(node: NodeDirectory) -> list[str]:
    """What did not work while a stage was trained or is missing of its record, whatever the stage did to the model."""
    counters = node.read_json("node.json")["counters"]
    return [*holes(node, counters), *behavior.explain(StageStatistics(steps=0, **_unscored(counters)))]


def _unscored(counters: Mapping[str, Any]) -> dict[str, Any]:
    """The share of responses without a number, and why they are."""
    groups, reasons = counters["groups"], Counter(counters.get("unscored", {}))
    asked = groups.get("asked", groups.get("members", 0))
    share = groups.get("unscored", 0) / asked if asked else None
    return {"unscored": share, "unscored_reasons": in_words(reasons) if is_news(reasons) else ""}


def warnings(node: NodeDirectory, record: Mapping[str, Any], tasks: Mapping[str, Any]) -> list[str]:
    """Why nothing was learned, or what to look at, one sentence each; probe tasks are judged one by one."""
    counters, groups = record["counters"], record["counters"]["groups"]
    judged = sum(groups.get(kind, 0) for kind in ("all_fail", "all_pass", "mixed"))
    members = groups.get("members", 0)
    metrics = node.metrics()
    gap = provenance(counters["off_policy"])[0]["sampler_gap_nats"]

    def of(name: str) -> list[float]:
        return [line[name] for line in metrics if line.get(name) is not None]

    clipped = of("ratio/clip_frac")
    rolled_out = judged > 0
    common = StageStatistics(
        steps=counters["step"],
        skipped_steps=counters["skipped_steps"],
        groups=judged or None,
        group_size=record.get("group_size"),
        all_fail=groups.get("all_fail", 0) / judged if rolled_out else None,
        all_success=groups.get("all_pass", 0) / judged if rolled_out else None,
        **_unscored(counters),
        truncated=groups.get("truncated", 0) / members if members else None,
        clipped=sum(clipped) / len(clipped) if clipped else None,
        sampler_gap_nats=gap,
        rewards=of("reward"),
        losses=of("loss/total"),
        gradient_norms=of("grad_norm"),
        lengths=of("completions/mean_length"),
        entropies=of("entropy"),
    )
    sentences = [*holes(node, counters), *behavior.explain(common)]
    for name, entry in tasks.items():
        unscored = entry.get("unscored") or {}
        if any(unscored.values()):
            counts = " and ".join(f"{count} {when}" for when, count in unscored.items())
            sentences.append(
                f"{name}: responses of the probe are unscored: {counts}; its numbers are those of the rest"
            )
        change = entry["d1"]["total"]
        if change["high"] < 0 and change["estimate"] < -WORTH_A_WORD:
            lost = f"{-change['estimate']:.3f} [{-change['high']:.3f}, {-change['low']:.3f}]"
            sentences.append(f"{name}: held-out success fell by {lost}: look at the lost prompts before going on")
    return sentences
