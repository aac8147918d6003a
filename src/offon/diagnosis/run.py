"""Diagnosing one model on one task: measure where it tells most, call each prompt, say what would help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from offon import behavior
from offon.behavior.change.support import support_threshold
from offon.behavior.diagnosis.bottleneck import Rule
from offon.behavior.statistics.counts import Counts
from offon.data import prompt_groups
from offon.diagnosis.allocation import FIRST, MORE, Progress, allocate
from offon.diagnosis.exact_successes import references
from offon.diagnosis.gold_labels import Labelled, read_labels
from offon.diagnosis.measurements import DiagnosisSampler
from offon.engines.api import Engine
from offon.engines.factory import create_engine
from offon.errors import DataError
from offon.measure.probe import probe_key, prompt_infos, repeated
from offon.models.model import Model
from offon.models.vocabulary import same_vocabulary
from offon.recipe.fields import Probe
from offon.runs import artefacts as art
from offon.tasks import open_task
from offon.types import Group, Sampling

OTHERS, OTHERS_PER_EPS = 256, 16  # responses to other prompts that the checker is given; of 0 accepted, below eps / 4
PILOT = 8  # prompts whose first rollouts tell the pace


def diagnose_model(
    model: str,
    task: Any,
    *,
    teacher: str | None = None,
    earlier: Sequence[str] = (),
    labels: Any = None,
    prompts: int = 64,
    budget: int = 128,
    k: int = 32,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_tokens: int = 512,
    seed: int = 0,
    rule: Rule = Rule(),
    engine: Engine | None = None,
    progress: Progress = lambda event: None,
) -> dict[str, Any]:
    """One entry of diagnosis.json: calls per prompt, the summary by family, the sentence, and what it cost.

    k is the number of rollouts per prompt that the next on-policy stage could allocate. budget: the most rollouts of
    one prompt, the teacher's and earlier checkpoints' included. teacher: a model with the same vocabulary that solves
    the task; items' references stand in for its answers where it has none, and without either, prompts below support
    are not told apart. earlier: checkpoints that may have been able to do what this one cannot. labels: gold verdicts
    on 100 or more outputs (`offon.diagnosis.gold_labels`), from which the checker's errors are estimated and undone.
    temperature, top_p: the sampler that every rate is about.
    """
    artefact, opened = art.external(model), open_task(task)
    items = list(opened.items("heldout"))[:prompts]
    if not items:
        raise DataError(f"task {opened.name} has no held-out items", fix="a larger data set, or another split")
    labelled = read_labels(labels, opened) if labels is not None else None
    learner = Model.load(artefact.path)
    load = partial(_sharing_tokens, learner)
    probe = Probe(prompts=prompts, samples=budget, k=k, temperature=temperature, max_tokens=max_tokens)

    def sampled(done: int, total: int) -> None:
        progress({"node": f"diagnose {artefact.label}", "task": opened.name, "generated": (done, total)})

    sampler = DiagnosisSampler(
        learner, load(teacher) if teacher else None, opened, prompt_groups(items, learner.tokenizer),
        Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens),
        salt=int(art.digest([probe_key(probe, artefact.hash, task, seed), top_p]), 16), progress=sampled,
        rule=rule,
        earlier={name: cache(partial(load, source)) for name, source in _names(earlier).items()},
        engine=engine or create_engine(),
    )  # fmt: skip
    checker = labelled.checker if labelled else None
    plan = pilot(sampler, budget)
    progress({"note": plan})
    allocate(sampler, budget, k, rule, checker=checker)
    sampler.judge_others(max(OTHERS, math.ceil(OTHERS_PER_EPS / support_threshold(k, zeta=rule.zeta))))
    known_good = references(opened, sampler.groups, learner.tokenizer)
    entry = behavior.diagnose(
        sampler.measured, prompt_infos(sampler.groups), k=k, model=artefact.label, task=opened.name, rule=rule,
        checker=checker, controls=sampler.controls, proper=_proper(labelled, sampler.groups),
        reference_rejected=known_good.rejected, known=sampler.known_successes(known_good.right),
        notes=[*repeated(opened), *sampler.notes, *([labelled.note] if labelled and labelled.note else [])],
    )  # fmt: skip
    settings = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    asked = {"teacher": teacher, "earlier": list(earlier), "budget": budget, "sampler": settings, "plan": plan}
    return entry | asked | {"cost": sampler.costs}


def pilot(sampler: DiagnosisSampler, budget: int) -> str:
    """What is to be spent, from the pace of the first rollouts of a few prompts, which count."""
    sampler.measure("rollouts", np.arange(min(PILOT, len(sampler.groups))), min(MORE, budget))
    prompts, rollouts = len(sampler.groups), int(sampler.costs["rollouts"])
    per_rollout = sampler.costs["tokens_generated"] / rollouts
    seconds = sampler.costs["seconds"] / rollouts
    return (
        f"{prompts} prompts x {min(FIRST, budget)} rollouts first, {budget} at most: "
        + " to ".join(
            f"{n:,} rollouts, {n * per_rollout:,.0f} tokens, {_time(n * seconds)}"
            for n in dict.fromkeys((prompts * min(FIRST, budget), prompts * budget))
        )
        + f" (by {rollouts} rollouts of a pilot, {per_rollout:.0f} tokens each)"
    )


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _sharing_tokens(learner: Model, source: str) -> Model:
    other = Model.load(art.external(source).path)
    same_vocabulary(learner.tokenizer, other.tokenizer, source)
    return other


def _names(sources: Sequence[str]) -> dict[str, str]:
    """Short names of checkpoints: their labels where they differ, else what they were given as."""
    labels = [art.external(source).label for source in sources]
    return dict(zip(labels if len(set(labels)) == len(labels) else sources, sources, strict=True))


def _proper(labelled: Labelled | None, groups: Sequence[Group]) -> Counts | None:
    """Each prompt's gold verdicts on rejected forms: its family's."""
    if labelled is None or not labelled.forms:
        return None
    return Counts.of(*zip(*(labelled.forms.get(group.item.family, (0, 0)) for group in groups), strict=True))
