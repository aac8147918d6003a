"""Comparing two checkpoints on one task: what was gained, what was lost, and what kind of change it was.

Both are sampled on the same held-out prompts. What can be measured besides follows from what they are: see
`offon.behavior.change.applicability`. The instruments are in `offon.measure.response_changes`, `exact` and `hybrids`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offon import behavior
from offon.behavior.change.applicability import EXACT_SHARE, Facts, affordable, choose, in_words
from offon.behavior.change.success_decomposition import SIGNS
from offon.behavior.change.support import support_threshold
from offon.behavior.stage.role import stage_role
from offon.behavior.stage.task_entry import clusters_of
from offon.behavior.statistics.counts import count
from offon.engines.api import Engine
from offon.engines.factory import create_engine
from offon.engines.stops import stops_after
from offon.errors import ConfigError, ModelError
from offon.measure.cost_estimate import forecast
from offon.measure.enumerated_support import support_of
from offon.measure.paired_responses import pool
from offon.measure.prefix_swap import where
from offon.measure.probe import outcomes, probe_key, prompt_infos, repeated, run_probe
from offon.measure.response_changes import by_class, by_trajectory, place_of, solving, tree_of
from offon.models.model import Model
from offon.models.vocabulary import same_vocabulary
from offon.recipe.fields import Probe
from offon.runs import artefacts as art
from offon.tasks import open_task
from offon.tasks.api import response_classes
from offon.types import Group

SAME = (
    "the same model twice: the same weights, tokenizer and stops, so nothing was sampled and nothing can have changed "
    "(--null samples both, which shows the noise of sampling)"
)
Progress = Callable[[dict[str, Any]], None]


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
    prompt: str | None = None,
    null: bool = False,
    seed: int = 0,
    engine: Engine | None = None,
    progress: Progress = lambda event: None,
) -> dict[str, Any]:
    """Success, calls and D1 of two checkpoints on the same held-out prompts, the role of the change, and every further
    instrument that applies to them; those that do not are named with the reason.

    prompt: the id of the prompt whose tree is shown; the one with the largest certain change unless given.
    Two equal models (weights and tokenizer) are not sampled: every difference would be the noise of sampling. `null`
    samples them nevertheless, which shows that noise.
    """
    if samples < 2:
        raise ConfigError(f"samples is {samples}", why="one half judges a prompt, the other measures its change")
    started, engine = time.perf_counter(), engine or create_engine()
    probe = Probe(prompts=prompts, samples=samples, k=k, temperature=temperature, max_tokens=max_tokens)
    opened = open_task(task)
    ids = [item.id for item in list(opened.items("heldout"))[:prompts]]  # a task without any is refused here
    if prompt is not None:
        place_of(prompt, ids)
    sources = [art.external(source) for source in (before, after)]
    models = [Model.load(source.path) for source in sources]
    if not null and equal(models):
        progress({"note": SAME})
        return {
            "before_model": before, "after_model": after, "task": opened.name, "k": k, "same_weights": True,
            "sampled": False, "sentence": SAME, "cost": {"tokens_generated": 0, "tokens_scored": 0, "evaluations": 0},
        }  # fmt: skip
    salt = int(probe_key(probe, "/".join(source.hash for source in sources), task, seed), 16)
    probed, generated = _sampled(models, sources, opened, probe, task, salt, seed, engine, progress)

    rows = [outcomes(groups) for groups in probed]
    sampler = {"temperature": temperature, "max_tokens": max_tokens}
    infos = prompt_infos(probed[0])
    entry = behavior.task_handoff(*rows, infos, k=k, sampler=(sampler, sampler), groups=tuple(probed), seed=seed)
    measured = [i for i, pair in enumerate(zip(*rows, strict=True)) if all(_scored(row) >= 2 for row in pair)]
    counts = [count([side[i] for i in measured]) for side in rows]
    clusters = clusters_of([infos[i] for i in measured])
    role = stage_role(*counts, k, seed=seed, clusters=clusters).as_dict()
    entry |= {"role": role, "before_model": before, "after_model": after}
    entry |= {"task": opened.name, "k": k, "same_weights": len({m.fingerprint() for m in models}) == 1, "sampled": True}

    groups = tuple([side[i] for i in measured] for side in probed)
    facts = facts_of(models, groups, probe, opened, changed=entry["role"]["name"] != "no change")
    entry["instruments"] = [instrument.as_dict() for instrument in choose(facts)]
    session = CompareSession(models, opened, groups, measured, facts, k, salt, engine)
    progress({"note": in_words(entry["instruments"])})
    _measure(entry, session, prompt)
    entry["cost"]["tokens_generated"] += generated
    entry["cost"]["seconds"] = time.perf_counter() - started
    return entry | {"sentence": sentence(entry), "notes": [*repeated(opened), *caveats(entry)]}


def equal(models: Sequence[Model]) -> bool:
    """Whether two models write the same: the same weights, and the same tokens, prompts and stops."""
    first, second = models
    if first.fingerprint() != second.fingerprint() or first.stop_ids != second.stop_ids:
        return False
    vocabularies = [model.tokenizer.get_vocab() for model in models]
    templates = [getattr(model.tokenizer, "chat_template", None) for model in models]
    return vocabularies[0] == vocabularies[1] and templates[0] == templates[1]


def caveats(entry: Mapping[str, Any]) -> list[str]:
    """What the intervals of a comparison do not cover."""
    number = 6 * (1 + len(entry.get("families", {})))  # success, its change and four terms, of the task and each family
    return [
        "intervals are over prompts and samples of these two checkpoints: training again with another seed may move "
        "more than they show, and only several checkpoints of each kind measure that",
        f"each of about {number} intervals holds its truth in 95% of cases, so about {number / 20:.0f} of them may "
        "miss: one that is barely clear of 0 among many is no finding",
    ]


@dataclass(frozen=True, eq=False)
class CompareSession:
    """Two sampled models, [P] groups of each, and which of the entry's prompts these are."""

    models: Sequence[Model]
    task: Any
    groups: tuple[list[Group], list[Group]]
    measured: Sequence[int]
    facts: Facts
    k: int
    salt: int
    engine: Engine


def _sampled(
    models, sources, task, probe: Probe, named: Any, salt: int, seed: int, engine: Engine, progress: Progress
) -> tuple[list[list[Group]], int]:
    """The probe of each model, after saying what it will take, and the tokens that both took."""
    drawn = probe if probe.temperature else Probe(**{**vars(probe), "samples": 1})
    ahead = [forecast(model, task, drawn, salt, engine=engine) for model in models]
    tokens, seconds = sum(one.tokens for one in ahead), sum(one.seconds for one in ahead)
    n_prompts = len(list(task.items("heldout"))[: drawn.prompts])
    progress({
        "note": f"2 models x {n_prompts} prompts x {drawn.samples} samples: about {tokens:,} tokens (at most "
        f"{2 * n_prompts * drawn.samples * probe.max_tokens:,}), about {seconds:.0f} s; then scoring them, and "
        f"enumeration for at most {EXACT_SHARE:.0%} as much"
    })  # fmt: skip
    probed, generated = [], sum(one.pilot_tokens for one in ahead)
    for side, model, source in zip(("before", "after"), models, sources, strict=True):

        def sampled(done: int, total: int, label=source.label) -> None:
            progress({"node": f"compare {label}", "task": task.name, "generated": (done, total)})

        key = probe_key(drawn, f"{source.hash}/{side}", named, seed)  # fresh samples, even of the same checkpoint
        groups = run_probe(model, task, drawn, key, engine=engine, progress=sampled)
        generated += sum(len(member) for group in groups for member in group.members)
        repeats = probe.samples // drawn.samples  # a greedy response stands for all that could be drawn
        probed.append([group.replace(members=group.members * repeats) for group in groups])
    return probed, generated


def facts_of(
    models: Sequence[Model], groups: Sequence[Sequence[Group]], probe: Probe, task: Any, *, changed: bool
) -> Facts:
    """What the choice of instruments depends on, from the models and from how they answered."""
    members = [[member for group in side for member in group.members] for side in groups]
    logp = [[member.behavior_logp.astype(float) for member in side] for side in members]
    eps = support_threshold(probe.k)
    classes = response_classes(task)
    return Facts(
        k=probe.k,
        temperature=probe.temperature,
        parameters=tuple(sum(p.numel() for p in model.hf.parameters()) for model in models),
        other_tokens=_other_tokens(models, groups),
        same_stops=all(stops_after(models[0], g.prompt) == stops_after(models[1], g.prompt) for g in groups[0]),
        packed=all(model.packed for model in models),
        vocabulary=min(model.vocabulary for model in models),
        longest=probe.max_tokens,
        median_tokens=float(np.median([len(member) for side in members for member in side])),
        prompts=len(groups[0]),
        tokens=sum(len(member) for side in members for member in side),
        entropy=tuple(-sum(one.sum() for one in side) / sum(map(len, side)) for side in logp),
        inside=tuple(float(np.median([_inside(one, eps) for one in side])) for side in logp),
        evaluations=2 * sum(_prefixes(pair, eps) for pair in zip(*groups, strict=True)),
        classes=classes[0] if classes else None,
        changed=changed,
    )


def _inside(logp_T: np.ndarray, eps: float) -> float:
    """Tokens of a response up to which its reach is eps or more; inf where that is all of them."""
    within = int((np.cumsum(logp_T) >= np.log(eps)).sum())
    return np.inf if within == len(logp_T) else within


def _prefixes(groups: Sequence[Group], eps: float) -> int:
    """Sampled prefixes of a prompt, the empty one included, that were reached with eps or more and went on."""
    nodes: dict[tuple[int, int], int] = {}
    for member in (member for group in groups for member in group.members):
        reach, at = np.cumsum(member.behavior_logp, dtype=float), -1
        for token, log_reach in zip(member.tokens[:-1].tolist(), reach, strict=False):
            if log_reach < np.log(eps):
                break
            at = nodes.setdefault((at, token), len(nodes))
    return 1 + len(nodes)


def _other_tokens(models: Sequence[Model], groups: Sequence[Sequence[Group]]) -> str:
    """Why token ids, or the prompts made of them, are not the same to both models; empty where they are."""
    try:
        same_vocabulary(*(model.tokenizer for model in models), "after")
    except ModelError as error:
        return error.why
    other = sum(early.prompt != late.prompt for early, late in zip(*groups, strict=True))
    return f"{other} prompts are rendered differently, by another chat template" if other else ""


def _measure(entry: dict[str, Any], session: CompareSession, prompt: str | None) -> None:
    """Apply what applies, and count what it costs."""
    applies = {one["name"]: one["applies"] for one in entry["instruments"]}
    models, groups, k = session.models, session.groups, session.k
    entry["cost"] = {"tokens_generated": 0, "tokens_scored": 0, "evaluations": 0}
    pooled = None
    if applies["trajectories"]:
        pooled = pool(models, *groups)
        entry["cost"]["tokens_scored"] = 2 * sum(len(y) for one in pooled for y in one.responses)
        entry["trajectories"] = by_trajectory(
            pooled, k, passage=applies["first passage"], clusters=clusters_of(prompt_infos(groups[0]))
        )
    if applies["k to solve"]:
        for row, solved in zip(session.measured, solving(groups, pooled, k), strict=True):
            entry["prompts"][row] |= solved
    if applies["classes"]:
        entry["classes"] = by_class(session.task, groups, pooled, k)
    sampling, eps = groups[0][0].members[0].producer.sampling, support_threshold(k)
    if applies["exact support"]:
        chosen = groups[0][: affordable(session.facts)]
        entry["exact"] = support_of(models, session.task, chosen, sampling, eps, whole=applies["states (D2)"])
        entry["cost"]["evaluations"] += entry["exact"]["evaluations"]
    if applies["where (D3)"]:
        entry["where"] = where(models, session.task, *groups, session.salt, engine=session.engine)
        entry["cost"]["tokens_generated"] += entry["where"]["tokens_generated"]
    if applies["tree"]:
        shown = [entry["prompts"][row] for row in session.measured]
        entry["tree"] = tree_of(
            models, session.task, groups, pooled, shown, eps, prompt, exact=applies["exact support"]
        )


def _scored(row: Sequence[float | None]) -> int:
    return sum(value is not None for value in row)


def sentence(entry: dict[str, Any]) -> str:
    """The comparison in plain words."""
    calls, d1 = entry["calls"], entry["d1"]
    change, soft = d1["total"], d1["soft"]
    parts = [f"{number} {call}" for call, number in calls.items() if number]
    rates = [entry[when]["success"]["estimate"] for when in ("before", "after")]
    names = {"expansion": "expanded", "reshaping": "reshaped", "attrition": "lost", "diffuse": "diffuse"}
    terms = ", ".join(f"{name} {100 * SIGNS[term] * soft[term]['estimate']:+.1f}" for term, name in names.items())
    role = entry["role"]["name"]
    verdicts = {"no change": "no change beyond its interval", "mixed": "mixed"}
    verdict = verdicts.get(role, f"what was gained is mostly {role}")
    return (
        f"success {rates[0]:.1%} -> {rates[1]:.1%} ({100 * change['estimate']:+.1f} points "
        f"[{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]): {terms}; "
        f"of {entry['n_prompts']} prompts at {entry['k']} rollouts: {', '.join(parts)}; {verdict}"
    )
