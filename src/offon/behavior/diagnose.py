"""Why does one model fail on one task, prompt by prompt, and which kind of stage would help?

From plain rollouts and their verdicts alone. Strict success is what the task rewards; content success is the verdict
with format ignored, where the checker can tell. First match, on the success probabilities p_strict <= p_content:

    solved        p_strict >= .8
    format        p_content >= .25 and p_strict < .5 p_content
    reachable     p_content >= eps_k         some of k rollouts succeed: probability is there, in the wrong place
    not_reached   otherwise                  k rollouts hold no success to learn from

The last class holds prompts that need different cures (a missing skill, a dead prefix, one blocked step); telling them
apart takes continuations by a teacher, which rollouts alone do not give.

Axes: P prompts; D posterior draws; C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from offon.behavior.counts import Counts, count
from offon.behavior.intervals import jeffreys_above, jeffreys_quantile, mean_over_prompts
from offon.behavior.passk import mixed_group_probability
from offon.behavior.support import ZETA, support_threshold
from offon.errors import DataError

CLASSES = ("solved", "format", "reachable", "not_reached")
UNDECIDED = "undecided"
_DRAWS = 500
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The thresholds of the rule above, and how sure a call must be."""

    solved: float = 0.8
    format_content: float = 0.25
    format_ratio: float = 0.5
    zeta: float = ZETA
    confidence: float = 0.9


def class_probabilities(strict: Counts, content: Counts | None, k: int, rule: Rule = Rule()) -> np.ndarray:
    """[P, C] posterior probability of each class.

    p_content ~ Beta(c + 1/2, n - c + 1/2), p_strict = p_content * ratio, the ratio Jeffreys too, on the content
    successes; the rule is applied to every draw. Draws are a fixed lattice of quantiles (i + 1/2)/D x frac(i * golden
    ratio), so a prompt's answer depends on its counts alone, neither on a seed nor on the other prompts.
    Where there is no content verdict (None, or 0 scored) p_strict stands in for p_content and format cannot occur.
    """
    content = Counts.of(np.zeros_like(strict.successes), 0) if content is None else content
    knows_P = content.scored > 0
    if (content.scored != strict.scored)[knows_P].any():
        raise DataError("content and strict verdicts cover different samples", why="their ratio is per sample")
    successes_P = np.where(knows_P, content.successes, strict.successes)

    at_D = np.arange(_DRAWS)
    p_content_DP = jeffreys_quantile(successes_P, strict.scored, ((at_D + 0.5) / _DRAWS)[:, None])
    ratio_DP = jeffreys_quantile(strict.successes, successes_P, ((at_D + 1) * _GOLDEN % 1)[:, None])
    p_strict_DP = p_content_DP * np.where(knows_P, ratio_DP, 1.0)

    rules = {
        "solved": p_strict_DP >= rule.solved,
        "format": (p_content_DP >= rule.format_content) & (p_strict_DP < rule.format_ratio * p_content_DP),
        "reachable": p_content_DP >= support_threshold(k, zeta=rule.zeta),
    }
    class_DP = np.select(list(rules.values()), [CLASSES.index(name) for name in rules], CLASSES.index("not_reached"))
    return (class_DP[:, :, None] == np.arange(len(CLASSES))).mean(axis=0)


def class_calls(probabilities_PC: np.ndarray, rule: Rule = Rule()) -> list[str]:
    """[P] the most probable class where its probability reaches the rule's confidence, else undecided."""
    best_P = probabilities_PC.argmax(axis=1)
    return [
        CLASSES[best] if row[best] >= rule.confidence else UNDECIDED
        for row, best in zip(probabilities_PC, best_P, strict=True)
    ]


def samples_to_call_not_reached(k: int, rule: Rule = Rule()) -> int:
    """The fewest samples after which no success at all is called `not_reached` (about .45 k)."""
    n = np.arange(1, 2 * k + 2)
    return int(n[np.argmax(1 - jeffreys_above(0, n, support_threshold(k, zeta=rule.zeta)) >= rule.confidence)])


def diagnose(
    strict: Sequence[Sequence[float | None]],
    content: Sequence[Sequence[float | None]] | None,
    prompts: Sequence[Mapping],
    *,
    k: int,
    model: str = "",
    task: str = "",
    rule: Rule = Rule(),
    group_size: int = 8,
    seed: int = 0,
) -> dict:
    """The diagnosis of one model on one task, as one entry of diagnosis.json.

    strict, content: outcomes [P][n] of the same samples (1, 0, None = unscored). `content` is None where the checker
    has no such verdict; a prompt with a gap in it is judged on strict alone, and its "content" is None.
    prompts: {"id", "family", "prompt"} each. `group_size`: for which the share of useful groups is estimated.
    """
    strict_counts = count(strict)
    content_counts = None if content is None else _content_counts(strict, content)
    if len(prompts) != len(strict_counts.scored):
        raise DataError(f"{len(prompts)} prompts, {len(strict_counts.scored)} rows of outcomes", where=task)
    probabilities_PC = class_probabilities(strict_counts, content_counts, k, rule)
    calls = class_calls(probabilities_PC, rule)

    families = [prompt.get("family", "") for prompt in prompts]
    summary = []
    for family in sorted(set(families)):
        rows = [index for index, name in enumerate(families) if name == family]
        summary.append(
            {"family": family, "n": len(rows)}
            | _tally([calls[index] for index in rows])
            | {"prevalence": _prevalence(probabilities_PC[rows], seed)}
        )
    knows_format = content_counts is not None and bool((content_counts.scored > 0).any())
    n_samples = int(np.median(strict_counts.scored))
    return {
        "model": model,
        "task": task,
        "k": k,
        "n_samples": n_samples,
        "summary": summary,
        "prevalence": _prevalence(probabilities_PC, seed),
        "prompts": [
            {
                "id": prompt["id"],
                "family": prompt.get("family", ""),
                "prompt": prompt["prompt"],
                "strict": _pair(strict_counts, index),
                "content": _pair(content_counts, index) if knows_format and content_counts.scored[index] else None,
                "call": calls[index],
                "probabilities": dict(zip(CLASSES, probabilities_PC[index].tolist(), strict=True)),
            }
            for index, prompt in enumerate(prompts)
        ],
        "sentence": sentence(calls, k),
        "suggestions": suggestions(calls, strict_counts, k, group_size=group_size, seed=seed),
        "notes": _notes(strict_counts, n_samples, k, rule, knows_format),
    }


def sentence(calls: Sequence[str], k: int) -> str:
    """The diagnosis in plain words: how many prompts of each class that occurs, and what can use them."""
    n = _tally(calls)
    words = {
        "solved": "solved",
        "format": "right but in the wrong format",
        "reachable": f"reachable at {k} rollouts",
        "not_reached": "not reached",
        UNDECIDED: "undecided",
    }
    parts = [f"{n[name]} {meaning}" for name, meaning in words.items() if n[name]]
    clauses = [f"of {_number(len(calls), 'prompt')}: {', '.join(parts)}"]
    if n["solved"] < len(calls):
        clauses.append(f"on-policy RL can use {n['reachable'] or 'none'} of them")
    if n["format"]:
        clauses.append(f"{n['format']} {_need(n['format'])} the format taught or the checker fixed")
    if n["not_reached"]:
        clauses.append(f"{n['not_reached']} {_need(n['not_reached'])} demonstrations or hints")
    return "; ".join(clauses)


def suggestions(calls: Sequence[str], strict: Counts, k: int, *, group_size: int = 8, seed: int = 0) -> list[dict]:
    """[{"call", "prompts", "methods", "reason"}], for the classes that occur, largest first; offon method names.

    The map from class to method is the survey's (arXiv:2604.07941): a prior for what to try first, not a promise.
    """
    methods = {
        "solved": [],
        "format": ["sft"],
        "reachable": ["grpo", "raft", "dpo"],
        "not_reached": ["sft", "sequence_kd", "grpo with hints"],
        UNDECIDED: [],
    }
    reasons = {
        "solved": "nothing to train; keep them in the probe to see whether a later stage loses them",
        "format": "the content is right and the form is rejected: look at the checker first, then show the form in a "
        "few demonstrations",
        "reachable": f"success is within {k} rollouts, so rewards on the model's own rollouts (or pairs built from "
        f"them) have something to move probability to{_useful_groups(calls, strict, group_size, seed)}",
        "not_reached": f"{k} rollouts rarely hold a success, so rewards have nothing to reinforce: demonstrations, "
        "teacher traces or hints first; on_policy_distill only if the teacher can finish what this model begins",
        UNDECIDED: "their samples fit more than one class; more samples per prompt decide",
    }
    present = [(name, number) for name, number in _tally(calls).items() if number]
    return [
        {"call": name, "prompts": number, "methods": methods[name], "reason": reasons[name]}
        for name, number in sorted(present, key=lambda pair: -pair[1])
    ]


def _useful_groups(calls, strict: Counts, group_size: int, seed: int) -> str:
    chosen = (np.array(calls) == "reachable") & (strict.scored >= group_size)
    if not chosen.any():
        return ""
    mixed = mean_over_prompts(mixed_group_probability(strict.at(chosen), group_size), seed=seed)[0]
    return (
        f"; {mixed.estimate:.0%} of their groups of {group_size} would hold both a success and a failure "
        f"[{mixed.low:.0%}, {mixed.high:.0%}]"
    )


def _content_counts(strict, content) -> Counts:
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


def _prevalence(probabilities_PC: np.ndarray, seed: int) -> dict[str, dict]:
    """Mean class probability over prompts, undecided prompts included, with its interval."""
    shares = mean_over_prompts(probabilities_PC, seed=seed)
    return {name: share._asdict() for name, share in zip(CLASSES, shares, strict=True)}


def _notes(strict: Counts, n_samples: int, k: int, rule: Rule, knows_format: bool) -> list[str]:
    """What these samples and this checker could not have shown."""
    notes = []
    needed = samples_to_call_not_reached(k, rule)
    if n_samples < needed:
        notes.append(
            f"{n_samples} samples per prompt cannot show that a prompt is not reached at {k} rollouts: "
            f"that takes {needed} without a success"
        )
    if not knows_format:
        notes.append("the checker gives no verdict on content alone: a wrong format cannot be told from a wrong answer")
    unscored = int((strict.scored == 0).sum())
    if unscored:
        notes.append(f"{_number(unscored, 'prompt')} without any scored sample: undecided")
    notes.append("why a prompt is not reached (missing skill, route never taken, one blocked step) is not told apart")
    return notes


def _tally(calls: Sequence[str]) -> dict[str, int]:
    return {name: sum(call == name for call in calls) for name in (*CLASSES, UNDECIDED)}


def _pair(counts: Counts, index: int) -> list[int]:
    return [int(counts.successes[index]), int(counts.scored[index])]


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _need(n: int) -> str:
    return "needs" if n == 1 else "need"
