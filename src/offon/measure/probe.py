"""Probing a model on a task: n samples of each of P held-out prompts, verified. What every measurement starts from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from offon.data import prompt_groups
from offon.engines.api import Engine, Request
from offon.engines.factory import create_engine
from offon.errors import DataError
from offon.models.model import Model
from offon.parts.context import Prompted
from offon.recipe.fields import Probe, sampling_of
from offon.runs.artefacts import described, task_files, without_places
from offon.tasks.api import require_some
from offon.train.context import trajectory
from offon.types import RIGHT, Group, Item, Producer, Source

PLAIN = "prompt"  # the view of an item that deployment sees


def probe_key(probe: Probe, model_hash: str, task: Any, seed: int, view: str = PLAIN) -> str:
    """Names a probe by everything it depends on: the same model, task and settings are never sampled twice. Files count
    by what they hold, not by where they lie: a project that is moved draws the same samples."""
    drawn = (probe.prompts, probe.samples, probe.temperature, probe.max_tokens)
    named = without_places(task) if isinstance(task, str | Mapping) else described(task)
    seen = () if view == PLAIN else (view,)
    return hashlib.sha256(repr((model_hash, named, drawn, seed, *seen, *task_files(task))).encode()).hexdigest()[:16]


def probed_items(task: Any, probe: Probe, view: str = PLAIN) -> list[Item]:
    """The held-out items a probe samples: the first of the task, of them those that have the view."""
    items = list(task.items("heldout"))[: probe.prompts]
    return [item for item in items if view == PLAIN or view in item.views]


def run_probe(
    model: Model,
    task: Any,
    probe: Probe,
    key: str,
    *,
    view: str = PLAIN,
    engine: Engine | None = None,
    progress: Callable[..., None] | None = None,
) -> list[Group]:
    """Sample and verify. Members carry the signals "reward" and "content" (None = unscored). view: the prompt sampled
    under; items without it are left out.

    Randomness is keyed by `key`, so samples of different models are independent and those of one model repeat.
    """
    items = probed_items(task, probe, view)
    if not items:
        raise DataError(f"task {task.name} has no held-out items to probe", fix="a larger data set, or another split")
    groups = prompt_groups(items, model.tokenizer)
    salt, sampling = int(key, 16), sampling_of(probe)
    asked = [
        (group, Prompted(group.views[view], sampling, (salt, index, sample)))
        for index, group in enumerate(groups)
        for sample in range(probe.samples)
    ]
    requests = [Request(prompt.seen, prompt.sampling, prompt.key) for _, prompt in asked]
    completions = (engine or create_engine()).generate(requests, model, progress=progress)
    producer = Producer(model=model.fingerprint())
    sampled = [
        trajectory(prompt, completion, Source.LEARNER, producer, model.tokenizer, _id(key, prompt))
        for (_, prompt), completion in zip(asked, completions, strict=True)
    ]
    verdicts = task.verify([(group.item, member.text) for (group, _), member in zip(asked, sampled, strict=True)])
    require_some(verdicts, f"task {task.name}")
    judged = iter(
        member.with_signals(reward=verdict.score, content=verdict.content)
        for member, verdict in zip(sampled, verdicts, strict=True)
    )
    return [
        group.replace(draw=index, members=tuple(islice(judged, probe.samples))) for index, group in enumerate(groups)
    ]


def _id(key: str, prompt: Prompted) -> str:
    return "/".join([f"probe-{key}", *map(str, prompt.key[1:])])


def outcomes(groups: Sequence[Group], signal: str = "reward") -> list[list[float | None]]:
    """[P][n]: 1 success, 0 failure, None unscored."""

    def outcome(score: float | None) -> float | None:
        return None if score is None else float(score >= RIGHT)

    return [[outcome(member.signals.get(signal)) for member in group.members] for group in groups]


def content_outcomes(groups: Sequence[Group]) -> list[list[float | None]] | None:
    """Verdicts with format ignored (what is right in form is right), or None where the task has no such verdict."""
    rows = outcomes(groups, "content")
    if not any(value is not None for row in rows for value in row):
        return None
    pairs = (zip(*sides, strict=True) for sides in zip(outcomes(groups), rows, strict=True))
    return [[1.0 if strict == 1 else content for strict, content in row] for row in pairs]


def cut_off(groups: Sequence[Group]) -> list[list[float]]:
    """[P][n]: 1 where a response reached the token limit without an end."""
    return [[float("truncated" in member.tags) for member in group.members] for group in groups]


def repeated(task: Any) -> list[str]:
    """What to say of rows that ask the same: a task asks each prompt once."""
    counts = getattr(task, "counts", {})
    again = counts.get("loaded", 0) - counts.get("distinct", 0)
    if not again:
        return []
    other = counts.get("conflicting", 0)
    conflict = f", {other} of them with another answer than the one that is kept" if other else ""
    return [f"{again} of {counts['loaded']} rows repeat a prompt and are asked once{conflict}"]


def prompt_infos(groups: Sequence[Group]) -> list[Mapping[str, str]]:
    def words(prompt) -> str:
        return prompt if isinstance(prompt, str) else " ".join(str(message.get("content", "")) for message in prompt)

    def info(group: Group) -> Mapping[str, str]:
        named = group.item.columns.get("cluster")
        known = {"id": group.item.id, "family": group.item.family, "prompt": words(group.item.prompt)}
        return known if named is None else {**known, "cluster": str(named)}

    return [info(group) for group in groups]
