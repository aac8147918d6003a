"""The diagnosis of one model on one task: a call per prompt, shares with intervals, plain words, what would help.

The calls are those of `offon.behavior.diagnosis.bottleneck`, their kinds those of `offon.behavior.diagnosis.subtypes`,
words and methods in `offon.behavior.diagnosis.remedies`.

Axes: P prompts, n samples of each, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from offon.behavior.change.k_to_solve import KToSolve, k_to_solve, known_mass
from offon.behavior.diagnosis import controls as control
from offon.behavior.diagnosis.bottleneck import (
    BELOW_SUPPORT,
    CALLS,
    CLASSES,
    UNDECIDED,
    UNSUPPORTED,
    Measured,
    Posterior,
    Rule,
    class_calls,
    posterior,
)
from offon.behavior.diagnosis.controls import Controls
from offon.behavior.diagnosis.information_gain import most_telling, samples_to_call_unsupported
from offon.behavior.diagnosis.remedies import sentence, suggestions, tally
from offon.behavior.diagnosis.rl_start import starts
from offon.behavior.diagnosis.subtypes import kinds
from offon.behavior.stage.task_entry import clusters_of
from offon.behavior.statistics.checker_errors import FEWEST_LABELS, Checker
from offon.behavior.statistics.counts import Counts, count
from offon.behavior.statistics.intervals import Est, mean_over_prompts, ratio, wilson
from offon.behavior.statistics.posterior import FEWEST_TO_POOL
from offon.errors import DataError

Outcomes = Sequence[Sequence[float | None]]
Known = Mapping[tuple[int, ...], float]  # right responses -> log-prob under the sampler


def measured_outcomes(
    strict: Outcomes,
    content: Outcomes | None,
    previous: Mapping[str, Outcomes] | None = None,
    *,
    cut: Outcomes | None = None,
) -> Measured:
    """Counts from outcomes [P][n] of the same samples: 1, 0, None = unscored.

    `content` is None where the checker has no such verdict; a prompt with a gap in it is judged on strict alone.
    previous: strict outcomes of earlier checkpoints on the same prompts, by name. cut: 1 where a response did not end
    by itself.
    """
    return Measured(
        cut=None if cut is None else _failures_cut(strict, cut),
        strict=count(strict),
        content=None if content is None else _content_counts(strict, content),
        previous={name: count(rows) for name, rows in (previous or {}).items()},
    )


def diagnose(
    measured: Measured,
    prompts: Sequence[Mapping],
    *,
    k: int,
    model: str = "",
    task: str = "",
    rule: Rule = Rule(),
    checker: Checker | None = None,
    controls: Controls = Controls(),
    proper: Counts | None = None,
    reference_rejected: Sequence[bool] | None = None,
    known: Sequence[Known] | None = None,
    group_size: int = 8,
    notes: Sequence[str] = (),
) -> dict:
    """One entry of diagnosis.json.

    prompts: {"id", "family", "prompt"} each. k: the rollouts per prompt that the next on-policy stage could spend.
    checker: its errors, where gold labels tell them; without, its verdicts are taken as they are.
    proper, reference_rejected: gold verdicts on the form (`kinds`). known: right responses of each prompt with their
    log-probs, which together are a success probability it surely has. `group_size`: for which the share of useful
    groups is estimated.
    """
    if len(prompts) != len(measured):
        raise DataError(f"{len(prompts)} prompts, {len(measured)} rows of outcomes", where=task)
    if known is not None:
        measured = replace(measured, at_least=np.array([known_mass(responses) for responses in known]))
    posteriors = posterior(measured, k, rule, checker=checker)
    judged = controls.entry(k, rule)
    blind = checker is not None and not checker.usable
    withheld = [call for call in CALLS if call != "format"] if blind else control.withheld(judged)
    calls, lucky = class_calls(posteriors, rule, withheld=withheld), 0
    if checker is None:
        calls, lucky = _without_luck(calls, control.rests_on_luck(judged, posteriors, k, rule))
    call_kinds = kinds(
        posteriors, calls, measured, k, rule, proper=proper, reference_rejected=reference_rejected,
        teacher_goes_on=not control.withheld(judged),
    )  # fmt: skip
    following = most_telling(posteriors, calls)
    tries = _tries(measured, posteriors, known, checker)
    families = [prompt.get("family", "") for prompt in prompts]
    clusters = clusters_of(prompts)
    cut = _share_cut(measured.cut, clusters)
    doubt = control.doubt(judged, k, lucky) if checker is None else ""
    start = starts(measured.strict, calls, families, k, checker=checker)
    shares_PC, summary = posteriors.probabilities, []
    for family in sorted(set(families)):
        rows = [index for index, name in enumerate(families) if name == family]
        summary.append(
            {"family": family, "n": len(rows)}
            | tally([calls[index] for index in rows])
            | {"prevalence": _prevalence(shares_PC[rows], None if clusters is None else clusters[rows])}
        )
    return {
        "model": model,
        "task": task,
        "k": k,
        "n_samples": int(np.median(measured.strict.scored)),
        "summary": summary,
        "prevalence": _prevalence(shares_PC, clusters),
        "prompts": [
            {
                "id": prompt["id"],
                "family": prompt.get("family", ""),
                "prompt": prompt["prompt"],
                **_counts(measured, index, call_kinds[index].since),
                "call": calls[index],
                "sub": call_kinds[index].sub,
                "since": call_kinds[index].since,
                "next": following[index],
                "k_to_solve": tries[index],
                "probabilities": dict(zip(CLASSES, shares_PC[index].tolist(), strict=True)),
            }
            for index, prompt in enumerate(prompts)
        ],
        "verifier": None if checker is None else _verifier(checker),
        "controls": judged,
        "truncated": cut and cut._asdict(),
        "rl_start": {family: one.entry() for family, one in start.items()},
        "sentence": sentence(calls, k, call_kinds, checker, starts=start, cut=cut, doubt=doubt),
        "suggestions": []
        if blind
        else suggestions(
            calls,
            measured.strict,
            k,
            call_kinds,
            families=families,
            starts={} if doubt else start,
            checker=checker,
            group_size=group_size,
        ),
        "notes": [*_notes(measured, calls, k, rule, checker), *control.sentences(judged), *notes],
    }


def _without_luck(calls: Sequence[str], rests: Mapping[str, np.ndarray]) -> tuple[list[str], int]:
    """The calls without those that rest on what a checker may accept of anything, and how many those were."""
    kept = [UNDECIDED if call in rests and rests[call][index] else call for index, call in enumerate(calls)]
    return kept, sum(one != other for one, other in zip(kept, calls, strict=True))


def _failures_cut(strict: Outcomes, cut: Outcomes) -> Counts:
    """Of each prompt's failures, those that were cut off."""
    return count(
        [[off for right, off in zip(*rows, strict=True) if right == 0] for rows in zip(strict, cut, strict=True)]
    )


def _share_cut(cut: Counts | None, clusters: np.ndarray | None) -> Est | None:
    """Of all failures, those that were cut off; the interval over prompts, and no shorter than that of one rate."""
    if cut is None or not cut.scored.any():
        return None
    share = ratio(cut.successes, cut.scored, clusters=clusters)
    low, high = wilson(cut.successes.sum(), cut.scored.sum())
    return Est(share.estimate, max(0.0, min(share.low, float(low))), min(1.0, max(share.high, float(high))))


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


def _counts(measured: Measured, index: int, since: str | None) -> dict:
    """[successes, scored] of everything measured on one prompt; None where it was not. Of earlier checkpoints the one
    since which it is lost, else the best."""

    def pair(counts: Counts | None) -> list[int] | None:
        known = counts is not None and counts.scored[index]
        return [int(counts.successes[index]), int(counts.scored[index])] if known else None

    pairs = {"strict": [int(measured.strict.successes[index]), int(measured.strict.scored[index])]}
    pairs["content"] = pair(measured.content)
    earlier = {name: pair(counts) for name, counts in measured.previous.items() if counts.scored[index]}
    best = since or max(earlier, key=lambda name: earlier[name][0] / earlier[name][1], default=None)
    others = {
        name: pair(getattr(measured, name)) for name in ("cut", "scaffold", "begun", "placed", "finished", "placebo")
    }
    if measured.cut is not None and not measured.cut.successes[index]:
        del others["cut"]
    return pairs | {name: value for name, value in {**others, "previous": earlier.get(best)}.items() if value}


def _tries(
    measured: Measured, posteriors: Posterior, known: Sequence[Known] | None, checker: Checker | None
) -> list[list[float | None]]:
    """[P] of [fewest, most] expected tries to a strict success, most None where it has no bound. What a checker with
    errors accepts is no success yet: then the interval is the posterior's."""

    def interval(index: int) -> KToSolve:
        if checker is not None:
            return KToSolve(*np.quantile(posteriors.rates["strict"][:, index], (0.025, 0.975)), 0.0)
        counts = (int(column[index]) for column in measured.strict)
        return k_to_solve(*counts, known=known[index] if known else None)

    tries = [interval(index).tries for index in range(len(measured))]
    return [[float(fewest), None if np.isinf(most) else float(most)] for fewest, most in tries]


def _verifier(checker: Checker) -> dict:
    parts = {"sensitivity": checker.sensitivity, "false_positive": checker.false_positive, "youden": checker.youden}
    labels = {"right": checker.right, "wrong": checker.wrong}
    return {name: est._asdict() for name, est in parts.items()} | {"labels": labels, "usable": checker.usable}


def _prevalence(probabilities_PC: np.ndarray, clusters: np.ndarray | None) -> dict[str, dict]:
    """Mean class probability over prompts, undecided prompts included, with its interval."""
    shares = mean_over_prompts(probabilities_PC, clusters=clusters)
    return {name: share._asdict() for name, share in zip(CLASSES, shares, strict=True)}


def _notes(measured: Measured, calls: Sequence[str], k: int, rule: Rule, checker: Checker | None) -> list[str]:
    """What these samples and this checker could not have shown, and what was taken for granted."""
    notes, strict = [], measured.strict
    n_samples, needed = int(np.median(strict.scored)), samples_to_call_unsupported(k, rule)
    if n_samples < needed and not (strict.scored >= needed).any():
        notes.append(
            f"{n_samples} samples per prompt cannot show that a prompt is not reached at {k} rollouts: "
            f"that takes {needed} without a success"
        )
    if measured.content is None or not (measured.content.scored > 0).any():
        notes.append("the checker gives no verdict on content alone: a wrong format cannot be told from a wrong answer")
    if unscored := int((strict.scored == 0).sum()):
        notes.append(f"{unscored} prompt{'s' * (unscored > 1)} without any scored sample: undecided")
    if measured.placed is None and UNSUPPORTED in calls:
        notes.append(
            f"without a right response to place the model on {', '.join(BELOW_SUPPORT[:-1])} and {BELOW_SUPPORT[-1]} "
            "are not told apart: bring a teacher (--teacher), or rows with a whole response (column completion or "
            "solution); a final answer only checks"
        )
    elif measured.finished is None and UNSUPPORTED in calls:
        notes.append("without a teacher local and unreachable are not told apart")
    if int((strict.scored > 0).sum()) >= FEWEST_TO_POOL:
        notes.append("the prior of success is estimated over all prompts: what is said of one depends on the others")
    if checker is None:
        notes.append(
            f"the checker's verdicts are taken as they are: {FEWEST_LABELS} labelled outputs would tell its errors"
        )
    return notes
