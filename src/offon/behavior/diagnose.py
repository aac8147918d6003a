"""The diagnosis of one model on one task: a call per prompt, shares with intervals, plain words, what would help.

The calls are those of `offon.behavior.bottleneck`. The map from call to method is the survey's (arXiv:2604.07941): a
prior for what to try first, each with the signature that would show it was right, and never a promise.

Axes: P prompts, n samples of each, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from offon.behavior.bottleneck import (
    BELOW_SUPPORT,
    CALLS,
    CLASSES,
    UNDECIDED,
    UNSUPPORTED,
    Measured,
    Rule,
    class_calls,
    posterior,
    samples_to_call_unsupported,
)
from offon.behavior.counts import Counts, count
from offon.behavior.intervals import mean_over_prompts
from offon.behavior.passk import mixed_group_probability
from offon.errors import DataError

Outcomes = Sequence[Sequence[float | None]]


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """words: the call in a sentence. methods: offon's names. signature: what the stage must show if the call was right.
    avoid: what the call speaks against."""

    words: str
    methods: tuple[str, ...] = ()
    reason: str = ""
    signature: str = ""
    avoid: str = ""


REMEDIES = {
    "solved": Remedy(
        words="solved",
        reason="nothing to train; keep them in the probe to see whether a later stage loses them",
        avoid="keep training on them",
    ),
    "format": Remedy(
        words="right but in the wrong format",
        methods=("sft",),
        reason="the content is right and the form is rejected: look at the checker first, then show the form in whole "
        "responses, a few demonstrations or the model's own put right; trained alone, its tokens are written where "
        "they do not belong",
        signature="strict success rises to content success, which stays; the change is reshaping",
        avoid="RL on a checker that rejects right answers",
    ),
    "fragile": Remedy(
        words="right only with help or at an earlier checkpoint",
        methods=("on_policy_distill", "kl_anchor"),
        reason="the skill is there under a scaffold, or was there before: distil the scaffolded model into itself, or "
        "replay and anchor what was lost",
        signature="success without the scaffold rises to success with it; retention returns to 1",
        avoid="more scaffold, or the stage that taught it once more",
    ),
    "ranking": Remedy(
        words="reachable at {k} rollouts",
        methods=("grpo", "raft", "dpo"),
        reason="success is within {k} rollouts, so rewards on the model's own rollouts (or pairs built from them) have "
        "something to move probability to",
        signature="the change is reshaping, expansion near 0; the share of useful groups falls; watch attrition",
        avoid="long demonstrations in another style",
    ),
    "local": Remedy(
        words="blocked at a step",
        methods=("on_policy_distill", "sequence_kd"),
        reason="the model gets to states from which a teacher succeeds, and fails at a later step: a teacher's targets "
        "or step rewards on its own states, or the teacher's traces; the reverse KL starts slowly where the model "
        "hardly ever takes the right step",
        signature="the gain lies in the suffix; the step's probability rises; its own states stay as alive as before",
        avoid="rewards for the outcome alone",
    ),
    "unreachable": Remedy(
        words="seldom on the right route",
        methods=("sft", "uft"),
        reason="placed on the route the model finishes, but it does not take it: demonstrations of the beginning, or "
        "prefixes that fade and are learned; a prefix that is only shown does not teach its first step",
        signature="expansion at the first steps; the gain lies in the prefix",
        avoid="plain RL, which has few successes or none to reinforce, and a teacher on its own dead states",
    ),
    "missing": Remedy(
        words="missing the skill",
        methods=("sft", "sequence_kd"),
        reason="even placed on the route the model does not finish: full demonstrations or a teacher's traces, then "
        "on-policy training",
        signature="large expansion; afterwards the prompts are reachable",
        avoid="RL alone: it would have to discover the skill",
    ),
    UNSUPPORTED: Remedy(
        words="not reached at {k} rollouts",
        methods=("sft", "sequence_kd", "uft"),
        reason="{k} rollouts rarely hold a success, so rewards have nothing to reinforce: demonstrations, teacher "
        "traces or prefixes first; a teacher (--teacher) tells a missing skill from a route not taken or a blocked "
        "step",
        signature="expansion",
        avoid="plain RL",
    ),
    UNDECIDED: Remedy(words="undecided", reason="their samples fit more than one class; more samples decide"),
}
NEEDS_DEMONSTRATIONS = ("missing", "unreachable", UNSUPPORTED)


def measured_outcomes(strict: Outcomes, content: Outcomes | None) -> Measured:
    """Counts from outcomes [P][n] of the same samples: 1, 0, None = unscored.

    `content` is None where the checker has no such verdict; a prompt with a gap in it is judged on strict alone.
    """
    counts = count(strict)
    return Measured(strict=counts, content=None if content is None else _content_counts(strict, content))


def diagnose(
    measured: Measured,
    prompts: Sequence[Mapping],
    *,
    k: int,
    model: str = "",
    task: str = "",
    rule: Rule = Rule(),
    group_size: int = 8,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> dict:
    """One entry of diagnosis.json.

    prompts: {"id", "family", "prompt"} each. k: the rollouts per prompt that the next on-policy stage could spend.
    `group_size`: for which the share of useful groups is estimated.
    """
    if len(prompts) != len(measured):
        raise DataError(f"{len(prompts)} prompts, {len(measured)} rows of outcomes", where=task)
    probabilities_PC = posterior(measured, k, rule).probabilities
    calls = class_calls(probabilities_PC, rule)
    families = [prompt.get("family", "") for prompt in prompts]
    summary = []
    for family in sorted(set(families)):
        rows = [index for index, name in enumerate(families) if name == family]
        summary.append(
            {"family": family, "n": len(rows)}
            | tally([calls[index] for index in rows])
            | {"prevalence": _prevalence(probabilities_PC[rows], seed)}
        )
    return {
        "model": model,
        "task": task,
        "k": k,
        "n_samples": int(np.median(measured.strict.scored)),
        "summary": summary,
        "prevalence": _prevalence(probabilities_PC, seed),
        "prompts": [
            {
                "id": prompt["id"],
                "family": prompt.get("family", ""),
                "prompt": prompt["prompt"],
                **_counts(measured, index),
                "call": calls[index],
                "probabilities": dict(zip(CLASSES, probabilities_PC[index].tolist(), strict=True)),
            }
            for index, prompt in enumerate(prompts)
        ],
        "sentence": sentence(calls, k),
        "suggestions": suggestions(calls, measured.strict, k, group_size=group_size, seed=seed),
        "notes": [*_notes(measured, calls, k, rule), *notes],
    }


def sentence(calls: Sequence[str], k: int) -> str:
    """The diagnosis in plain words: how many prompts of each call that occurs, and what can use them."""
    n = tally(calls)
    parts = [f"{n[call]} {REMEDIES[call].words.format(k=k)}" for call in CALLS if n[call]]
    clauses = [f"of {_number(len(calls), 'prompt')}: {', '.join(parts)}"]
    if n["solved"] < len(calls):
        clauses.append(f"on-policy RL can use {n['ranking'] or 'none'} of them")
    if n["format"]:
        clauses.append(f"{n['format']} {_need(n['format'])} the format taught or the checker fixed")
    if n["fragile"]:
        clauses.append(f"{n['fragile']} {_need(n['fragile'])} what they do with help made their own")
    if n["local"]:
        clauses.append(f"{n['local']} {_need(n['local'])} a teacher or step rewards on the model's own attempts")
    if demonstrations := sum(n[call] for call in NEEDS_DEMONSTRATIONS):
        clauses.append(f"{demonstrations} {_need(demonstrations)} demonstrations or hints")
    return "; ".join(clauses)


def suggestions(calls: Sequence[str], strict: Counts, k: int, *, group_size: int = 8, seed: int = 0) -> list[dict]:
    """[{"call", "prompts", "methods", "reason", "signature", "avoid"}], for the calls that occur, largest first."""
    found = []
    for call, number in sorted(tally(calls).items(), key=lambda pair: -pair[1]):
        remedy = REMEDIES[call]
        if number:
            reason = remedy.reason.format(k=k)
            reason += _useful_groups(calls, strict, group_size, seed) if call == "ranking" else ""
            found.append(
                {"call": call, "prompts": number, "methods": list(remedy.methods), "reason": reason}
                | {"signature": remedy.signature, "avoid": remedy.avoid}
            )
    return found


def tally(calls: Sequence[str]) -> dict[str, int]:
    return {name: sum(call == name for call in calls) for name in CALLS}


def _useful_groups(calls, strict: Counts, group_size: int, seed: int) -> str:
    chosen = (np.array(calls) == "ranking") & (strict.scored >= group_size)
    if not chosen.any():
        return ""
    mixed = mean_over_prompts(mixed_group_probability(strict.at(chosen), group_size), seed=seed)[0]
    return (
        f"; {mixed.estimate:.0%} of their groups of {group_size} would hold both a success and a failure "
        f"[{mixed.low:.0%}, {mixed.high:.0%}]"
    )


def _content_counts(strict: Outcomes, content: Outcomes) -> Counts:
    """Content counts over the samples with a strict verdict; 0 of 0 for a prompt where one of those has no content."""
    successes, scored = [], []
    for index, rows in enumerate(zip(strict, content, strict=True)):
        strict_row, content_row = (np.asarray(row, dtype=float).ravel() for row in rows)
        if len(strict_row) != len(content_row):
            sizes = f"{len(strict_row)} strict and {len(content_row)} content verdicts"
            raise DataError(sizes, where=f"prompt {index}", why="both judge the same samples")
        content_row = content_row[~np.isnan(strict_row)]
        if (content_row < strict_row[~np.isnan(strict_row)]).any():
            raise DataError(
                "a sample has strict success and content failure",
                where=f"prompt {index}",
                why="content ignores the format, so whatever passes the strict check passes this one",
            )
        known = not np.isnan(content_row).any()
        successes.append(int(content_row.sum()) if known else 0)
        scored.append(len(content_row) if known else 0)
    return Counts.of(successes, scored)


def _counts(measured: Measured, index: int) -> dict:
    """[successes, scored] of everything measured on one prompt; None where it was not."""

    def pair(counts: Counts | None) -> list[int] | None:
        known = counts is not None and counts.scored[index]
        return [int(counts.successes[index]), int(counts.scored[index])] if known else None

    found = {"strict": [int(measured.strict.successes[index]), int(measured.strict.scored[index])]}
    found["content"] = pair(measured.content)
    others = {name: pair(counts) for name, counts in vars(measured).items() if name not in found}
    return found | {name: value for name, value in others.items() if value}


def _prevalence(probabilities_PC: np.ndarray, seed: int) -> dict[str, dict]:
    """Mean class probability over prompts, undecided prompts included, with its interval."""
    shares = mean_over_prompts(probabilities_PC, seed=seed)
    return {name: share._asdict() for name, share in zip(CLASSES, shares, strict=True)}


def _notes(measured: Measured, calls: Sequence[str], k: int, rule: Rule) -> list[str]:
    """What these samples and this checker could not have shown."""
    notes, strict = [], measured.strict
    n_samples, needed = int(np.median(strict.scored)), samples_to_call_unsupported(k, rule)
    if n_samples < needed:
        notes.append(
            f"{n_samples} samples per prompt cannot show that a prompt is not reached at {k} rollouts: "
            f"that takes {needed} without a success"
        )
    if measured.content is None or not (measured.content.scored > 0).any():
        notes.append("the checker gives no verdict on content alone: a wrong format cannot be told from a wrong answer")
    if unscored := int((strict.scored == 0).sum()):
        notes.append(f"{_number(unscored, 'prompt')} without any scored sample: undecided")
    if measured.placed is None and UNSUPPORTED in calls:
        notes.append(f"without a teacher {', '.join(BELOW_SUPPORT[:-1])} and {BELOW_SUPPORT[-1]} are not told apart")
    return notes


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _need(n: int) -> str:
    return "needs" if n == 1 else "need"
