"""The probe of a reward model: its numbers on held-out rows, and what artefact.json says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from offon.behavior.stage import reward_calibration
from offon.models.model import Model
from offon.train.scoring import layout_of
from offon.types import Group, Trajectory


def reward_probe(
    model: Model, groups: Sequence[Group], label: str, *, source: str, micro_batch_tokens: int, seed: int
) -> dict[str, Any]:
    """artefact.json of a reward model, from held-out groups as its stage reads them: labelled steps where they have
    such spans, else comparisons. source: where the rows are from, in words."""
    members = [member for group in groups for member in group.members]
    by_step = any(span.name == "step" for member in members for span in member.spans)
    if not by_step and not any(group.comparisons for group in groups):
        return not_measured(label, "reward model", f"{source} hold no pair and no labelled step to measure on")
    numbers = dict(zip(map(id, members), _numbers(model, members, micro_batch_tokens), strict=True))
    report = (_of_steps if by_step else _of_pairs)(groups, numbers, seed)
    report["heldout"]["from"] = source
    return report | {"sentence": sentence(label, report)}


def not_measured(label: str, kind: str, why: str) -> dict[str, Any]:
    return {"artefact": kind, "heldout": None, "sentence": f"{label}: not measured, since {why}"}


def metrics(report: Mapping[str, Any]) -> dict[tuple[str, str | None], dict[str, float] | None]:
    values = {(name, None): report.get(name) for name in ("accuracy", "ece", "brier")}
    return values | {("first_error", None): (report.get("first_error") or {}).get("found")}


@torch.no_grad()
def _numbers(model: Model, members: Sequence[Trajectory], micro_batch_tokens: int) -> Iterator[np.ndarray]:
    """What the head says at each response token, [T] of each member."""
    batch: list[Trajectory] = []
    for member in [*members, None]:
        size = sum(len(m) + len(m.prefix("train")) for m in batch)
        if batch and (member is None or size + len(member) + len(member.prefix("train")) > micro_batch_tokens):
            layout = layout_of(batch, "train", "at")
            numbers = model.numbers(model.hidden(layout)).double().cpu()
            yield from (part.numpy() for part in numbers.split(layout.lengths))
            batch = []
        if member is not None:
            batch.append(member)


def _of_pairs(groups: Sequence[Group], numbers: Mapping[int, np.ndarray], seed: int) -> dict[str, Any]:
    """Every comparison is a pair; a reward is read at the last token that is trained."""
    margins, prompts = [], []
    for group in groups:
        rewards = [float(numbers[id(m)][np.flatnonzero(m.trainable)[-1]]) for m in group.members]
        margins += [rewards[pair.winner] - rewards[pair.loser] for pair in group.comparisons]
        prompts += [group.item.id] * len(group.comparisons)
    heldout = {"pairs": len(margins), "prompts": len(set(prompts))}
    return {"artefact": "reward model", "heldout": heldout, **reward_calibration.pairs(margins, prompts, seed=seed)}


def _of_steps(groups: Sequence[Group], numbers: Mapping[int, np.ndarray], seed: int) -> dict[str, Any]:
    """A step is scored at its last token; unlabelled ones only matter for where the first error is."""
    scores, labels, owners = [], [], []
    for group in groups:
        for member in group.members:
            spans = [span for span in member.spans if span.name == "step"]
            scores.append([float(numbers[id(member)][span.end - 1]) for span in spans])
            labels.append([span.signals["label"] for span in spans])
            owners.append(group.item.id)
    rows = [
        (score, label, position, owner)
        for step_scores, step_labels, owner in zip(scores, labels, owners, strict=True)
        for position, (score, label) in enumerate(zip(step_scores, step_labels, strict=True))
        if label is not None
    ]
    heldout = {"steps": len(rows), "solutions": len(scores), "prompts": len(set(owners))}
    measured = reward_calibration.steps(*zip(*rows, strict=True), seed=seed)
    where = reward_calibration.first_errors(scores, labels, owners)
    return {"artefact": "process model", "heldout": heldout, **measured, "first_error": where}


def sentence(label: str, report: Mapping[str, Any]) -> str:
    accuracy, heldout = report["accuracy"], report["heldout"]
    unit = "steps" if "steps" in heldout else "pairs"
    parts = [
        f"{label}: {accuracy['estimate']:.1%} [{accuracy['low']:.1%}, {accuracy['high']:.1%}] of {heldout[unit]} "
        f"held-out {unit} " + ("judged rightly" if unit == "steps" else "ranked as the data have them")
    ]
    if "majority" in report:
        parts.append(f"always the same answer would give {report['majority']:.1%}")
    parts.append(f"ECE {report['ece']['estimate']:.3f}, {report['ece_of_perfect']:.3f} if it were calibrated")
    where = report.get("first_error") or {}
    if where.get("found"):
        parts.append(f"finds the first wrong step in {where['found']['estimate']:.1%} of {where['n_found']} solutions")
    return "; ".join(parts)
