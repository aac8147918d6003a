"""Diagnosing one model on one task: sample, verify, call each prompt, and say in words what would help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from offon import behavior
from offon.loops import artefacts as art
from offon.loops.probe import content_outcomes, outcomes, probe_key, prompt_infos, run_probe
from offon.models.model import Model
from offon.recipe.fields import Probe
from offon.tasks import open_task


def diagnose_model(
    model: str,
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
    """One entry of diagnosis.json: calls per prompt, the summary by family, and the sentence.

    k is the number of rollouts per prompt that the next on-policy stage could spend: what they would not find is
    called not reached.
    """
    probe = Probe(prompts=prompts, samples=samples, k=k, temperature=temperature, max_tokens=max_tokens)
    artefact, opened = art.external(model), open_task(task)
    key = probe_key(probe, artefact.hash, task, seed)

    def sampled(done: int, total: int) -> None:
        progress({"node": f"diagnose {artefact.label}", "task": opened.name, "generated": (done, total)})

    groups = run_probe(Model.load(artefact.path), opened, probe, key, progress=sampled)
    return behavior.diagnose(
        outcomes(groups), content_outcomes(groups), prompt_infos(groups), k=k, model=artefact.label, task=opened.name
    )
