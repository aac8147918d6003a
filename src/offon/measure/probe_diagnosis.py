"""The diagnosis of a model from its probes alone: what a run says of every model it starts from and that it makes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from offon import behavior
from offon.behavior.change.k_to_solve import rounded_down
from offon.measure.probe import content_outcomes, cut_off, outcomes, prompt_infos
from offon.runs import RunDirectory
from offon.types import RIGHT, Group

Probes = Mapping[str, list[Group]]  # probe task -> a group of responses for each of its prompts


def diagnosis(
    run: RunDirectory, model: str, probes: Probes, k: int, earlier: Mapping[str, Probes] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """diagnosis.json with this model's entries added (or replaced). earlier: probes of the checkpoints it comes from,
    by name, which tell what it lost."""
    before = run.read_json("diagnosis.json", [])
    kept = [entry for entry in before if entry["model"] != model]
    fresh = [
        behavior.diagnose(
            behavior.measured_outcomes(
                outcomes(groups),
                content_outcomes(groups),
                {label: outcomes(others[name]) for label, others in earlier.items() if name in others},
                cut=cut_off(groups),
            ),
            prompt_infos(groups),
            k=k,
            model=model,
            task=name,
            known=[known_successes(group) for group in groups],
        )
        for name, groups in probes.items()
    ]
    return kept + fresh


def known_successes(group: Group) -> dict[tuple[int, ...], float]:
    """The right responses of a probed prompt with the log-probs they were sampled with, without any that the checker
    also rejected."""
    reward = [
        (tuple(m.tokens.tolist()), m.signals.get("reward"), m) for m in group.members if m.behavior_logp is not None
    ]
    wrong = {tokens for tokens, score, _ in reward if score is not None and score < RIGHT}
    return {
        tokens: rounded_down(float(member.behavior_logp.sum(dtype="float64")), len(tokens))
        for tokens, score, member in reward
        if score is not None and score >= RIGHT and tokens not in wrong
    }
