"""Comparing two checkpoints on one task: what was gained, what was lost, and what kind of change it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from offon import behavior
from offon.behavior.counts import count
from offon.behavior.decompose import SIGNS
from offon.behavior.relative import Scored, bits, coverage_profile, decompose_trajectories
from offon.behavior.role import stage_role
from offon.behavior.support import support_threshold
from offon.errors import ModelError
from offon.loops import artefacts as art
from offon.loops.holdings import same_vocabulary
from offon.loops.probe import outcomes, probe_key, prompt_infos, run_probe
from offon.loops.scoring import layout_of
from offon.models.model import Model
from offon.recipe.fields import Probe
from offon.tasks import open_task
from offon.types import RIGHT, Group, Trajectory

SCORED_TOKENS = 16_384  # response tokens of one forward pass


def compare_models(
    before: str,
    after: str,
    task: Any,
    *,
    prompts: int = 64,
    samples: int = 128,
    k: int = 32,
    temperature: float = 1.0,
    max_tokens: int = 512,
    seed: int = 0,
    progress: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, Any]:
    """Success, pass@k, calls and D1 of two checkpoints on the same held-out prompts, and the role of the change.

    Where both read the same token ids, every response is also scored by the other checkpoint: D1 by trajectory and D4
    need nothing but that, and are exactly 0 between identical checkpoints.
    """
    probe = Probe(prompts=prompts, samples=samples, k=k, temperature=temperature, max_tokens=max_tokens)
    opened = open_task(task)
    progress({"note": f"2 models x {prompts} prompts x {samples} samples of up to {max_tokens} tokens"})
    models, probed = [], []
    for side, source in (("before", before), ("after", after)):
        artefact = art.external(source)
        models.append(Model.load(artefact.path))

        def sampled(done: int, total: int, label=artefact.label) -> None:
            progress({"node": f"compare {label}", "task": opened.name, "generated": (done, total)})

        key = probe_key(probe, f"{artefact.hash}/{side}", task, seed)  # fresh samples, even of the same checkpoint
        probed.append(run_probe(models[-1], opened, probe, key, progress=sampled))
    early, late = (outcomes(groups) for groups in probed)
    sampler = {"temperature": temperature, "max_tokens": max_tokens}
    entry = behavior.task_handoff(early, late, prompt_infos(probed[0]), k=k, sampler=(sampler, sampler), seed=seed)
    measured = [i for i, rows in enumerate(zip(early, late, strict=True)) if all(_scored(row) >= 2 for row in rows)]
    counts = [count([rows[i] for i in measured]) for rows in (early, late)]
    entry |= {"role": stage_role(*counts, k, seed=seed).as_dict(), "before_model": before, "after_model": after}
    entry |= {"task": opened.name, "k": k}
    if _same_tokens(*models):
        entry["trajectories"] = by_trajectory(models, [[g[i] for i in measured] for g in probed], k, seed)
    return entry | {"sentence": sentence(entry)}


def by_trajectory(models: Sequence[Model], probed: Sequence[Sequence[Group]], k: int, seed: int) -> dict[str, Any]:
    """D1 by trajectory at factor 1 / eps_k, how much of the new successes was new, and D4 where both succeed."""
    n = 1 / support_threshold(k)
    early, late = ([_relative(models, group) for group in groups] for groups in probed)
    terms = decompose_trajectories(early, late, n=n)
    found: dict[str, Any] = {"factor": n, "d1": {name: est._asdict() for name, est in terms.items()}}
    if any(scored.success.any() for scored in late):
        found["new_successes"] = coverage_profile(late, n)._asdict()
    both = [(a.success.mean(), b) for a, b in zip(early, late, strict=True) if a.success.any() and b.success.any()]
    if both:
        parts = [bits(float(p0), scored) for p0, scored in both]
        found["bits"] = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        found["bits"]["prompts"] = len(both)
    return found


@torch.no_grad()
def _relative(models: Sequence[Model], group: Group) -> Scored:
    """Log-ratio, after over before, of every scored response, both checkpoints by the same code."""
    members = [m for m in group.members if m.signals["reward"] is not None]
    before, after = (_logp(model, members) for model in models)
    success = np.array([float(m.signals["reward"] >= RIGHT) for m in members])
    return Scored(after - before, success)


def _logp(model: Model, members: Sequence[Trajectory]) -> np.ndarray:
    """[n] log-prob of each response under the sampler's temperature."""
    totals: list[float] = []
    size = max(1, SCORED_TOKENS // max(map(len, members)))
    for first in range(0, len(members), size):
        part = members[first : first + size]
        layout = layout_of(part, "sample")
        temperature = torch.tensor([m.producer.sampling.temperature for m in part])[layout.sequence]
        logp = model.logp(layout, temperature=temperature).double().cpu()
        totals += [float(piece.sum()) for piece in logp.split(layout.lengths)]
    return np.array(totals)


def _same_tokens(one: Model, other: Model) -> bool:
    try:
        same_vocabulary(one.tokenizer, other.tokenizer, "after")
    except ModelError:
        return False
    return True


def _scored(row: Sequence[float | None]) -> int:
    return sum(value is not None for value in row)


def sentence(entry: dict[str, Any]) -> str:
    """The comparison in plain words."""
    calls, d1 = entry["calls"], entry["d1"]
    change, soft = d1["total"], d1["soft"]
    parts = [f"{number} {call}" for call, number in calls.items() if number]
    rates = [entry[when]["success"]["estimate"] for when in ("before", "after")]
    names = {"expansion": "expanded", "reshaping": "reshaped", "attrition": "lost", "diffuse": "diffuse"}
    told = ", ".join(f"{name} {100 * SIGNS[term] * soft[term]['estimate']:+.1f}" for term, name in names.items())
    role = entry["role"]["name"]
    verdict = {"no change": "no change beyond its interval", "mixed": "mixed"}.get(role, f"mostly {role}")
    return (
        f"success {rates[0]:.1%} -> {rates[1]:.1%} ({100 * change['estimate']:+.1f} points "
        f"[{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]): {told}; "
        f"of {entry['n_prompts']} prompts at {entry['k']} rollouts: {', '.join(parts)}; {verdict}"
    )
