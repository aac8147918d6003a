"""From a call to words and to methods: a prior for what to try first (the survey's, arXiv:2604.07941), each with the
signature that would show it was right, and never a promise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from offon.behavior.diagnosis.bottleneck import CALLS, UNDECIDED, UNSUPPORTED
from offon.behavior.diagnosis.rl_start import Start
from offon.behavior.diagnosis.subtypes import (
    CHECKER_REJECTS,
    CONTENT_ONLY,
    LIVE,
    LOST,
    MODELS_FORMAT,
    ROUTE,
    STEPS,
    Kind,
)
from offon.behavior.statistics.checker_errors import Checker
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import Est, mean_over_prompts
from offon.behavior.statistics.pass_at_k import mixed_group_probability


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """words: the call in a sentence. methods: offon's names. signature: what the stage must show if the call was right.
    avoid: what the call speaks against; without_start: what it does where RL has no success to start from."""

    words: str
    methods: tuple[str, ...] = ()
    reason: str = ""
    signature: str = ""
    avoid: str = ""
    without_start: str = ""


REMEDIES = {
    "solved": Remedy(
        words="solved",
        reason="nothing to train; keep them in the probe to see whether a later stage loses them",
        avoid="keep training on them",
    ),
    "truncated": Remedy(
        words="cut off before the end",
        methods=("sft",),
        reason="responses are cut off before they end, so nothing can be said of what else is missing: raise the limit "
        "(--max-tokens); if they still do not end, show whole responses with their end, and check that what ends them "
        "is among the stop tokens",
        signature="the share of responses that end by themselves rises; then diagnose again",
        avoid="reading these failures as a missing skill",
    ),
    "format": Remedy(
        words="right but in the wrong format",
        methods=("sft",),
        reason="the content is right and the form is rejected: look at the checker first, then show the form in whole "
        "responses, a few demonstrations or the model's own put right; trained alone, its tokens are written where "
        "they do not belong",
        signature="strict success rises to content success, which stays; the change is reshaping",
        avoid="long demonstrations of the content, which is right already",
    ),
    "fragile": Remedy(
        words="right only with help",
        methods=("context_distill", "context_opd"),
        reason="the skill is there under a scaffold: distil the scaffolded model into the plain one",
        signature="success without the scaffold rises to success with it",
        avoid="more scaffold",
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
        without_start="rewards for the outcome alone",
    ),
    "unreachable": Remedy(
        words="seldom on the right route",
        methods=("sft", "uft"),
        reason="placed on the route the model finishes, but it does not take it: demonstrations of the beginning, or "
        "prefixes that fade and are learned; a prefix that is only shown does not teach its first step",
        signature="expansion at the first steps; the gain lies in the prefix",
        avoid="a teacher on its own dead states",
        without_start="plain RL",
    ),
    "missing": Remedy(
        words="missing the skill",
        methods=("sft", "sequence_kd"),
        reason="even placed on the route the model does not finish: full demonstrations or a teacher's traces, then "
        "on-policy training",
        signature="large expansion; afterwards the prompts are reachable",
        without_start="RL alone: it would have to discover the skill",
    ),
    UNSUPPORTED: Remedy(
        words="not reached at {k} rollouts",
        methods=("sft", "sequence_kd", "uft"),
        reason="{k} rollouts of one of them rarely hold a success: demonstrations, teacher traces or prefixes; a "
        "teacher (--teacher), or rows with whole responses, tell a missing skill from a route not taken or a "
        "blocked step",
        signature="the change is expansion: prompts come into reach",
        without_start="plain RL",
    ),
    UNDECIDED: Remedy(words="undecided", reason="their samples fit more than one class; more samples decide"),
}
# What a kind changes; where none is listed, the call's own remedy stands.
KINDS = {
    ("format", CHECKER_REJECTS): Remedy(
        words="right, and in a right format that the checker rejects",
        reason="the checker rejects right forms: mend it, the model needs nothing",
        signature="strict success rises to content success without any training",
        avoid="any stage on this checker",
    ),
    ("format", MODELS_FORMAT): Remedy(
        words="right but in the wrong format",
        methods=("sft",),
        reason="the form is the model's mistake: a few demonstrations, or its own responses put right, that show it in "
        "whole responses",
        signature="strict success rises to content success, which stays; the change is reshaping",
        avoid="long demonstrations of the content, which is right already",
    ),
    ("fragile", LOST): Remedy(
        words="lost since {since}",
        methods=("sequence_kd", "replay", "kl_anchor", "merge_linear"),
        reason="the earlier model {since} could: distil from it, replay what it could or anchor to it in the stage "
        "that lost it, or merge with it",
        signature="success returns to that of {since}; what the later stage gained stays",
        avoid="the stage that taught it once more",
    ),
    ("ranking", CONTENT_ONLY): Remedy(
        words="right in content within {k} rollouts, hardly ever in form",
        methods=("sft",),
        reason="the content is right now and then, and what is rewarded hardly ever: show the form in whole responses, "
        "or mend a checker that rejects it, and the successes within {k} rollouts can be rewarded",
        signature="strict success rises to content success; then rewards find them",
        without_start="plain RL",
    ),
    ("ranking", ROUTE): Remedy(
        words="reachable at {k} rollouts, lost by the route",
        methods=("dpo", "grpo", "raft"),
        reason="success is within {k} rollouts, and failures begin on a route nobody can save: rewards, or pairs of "
        "routes from its own rollouts",
        signature="the gain lies in the prefix; expansion near 0; watch attrition",
        avoid="a teacher on its own dead states",
    ),
    ("ranking", STEPS): Remedy(
        words="reachable at {k} rollouts, lost at a step",
        methods=("grpo", "vineppo", "on_policy_distill"),
        reason="success is within {k} rollouts, and failures begin well: credit for steps, or a teacher on the model's "
        "own states",
        signature="the gain lies in the suffix; expansion near 0; watch attrition",
        avoid="long demonstrations in another style",
    ),
    ("missing", LIVE): Remedy(
        words="missing the skill, on states a teacher can save",
        methods=("on_policy_distill", "sft", "sequence_kd"),
        reason="the model does not finish even when placed, but a teacher finishes what it begins: a teacher on the "
        "model's own states, or full demonstrations",
        signature="large expansion; afterwards the prompts are reachable",
        without_start="RL alone: it would have to discover the skill",
    ),
}
RL, STARTS_AS_WELL = "grpo", ("format", UNSUPPORTED)  # where RL is tried, too, if it has successes to start from
OTHERWISE = ("ranking", "fragile", "truncated")  # calls whose advice does not hang on where RL could start
OFTEN_CUT = 0.25  # of all failures: from there on it is what fails, and is said first
NEEDS_DEMONSTRATIONS = ("missing", "unreachable", UNSUPPORTED)


def remedy(call: str, kind: Kind = Kind()) -> Remedy:
    return KINDS.get((call, kind.sub), REMEDIES[call])


def sentence(
    calls: Sequence[str],
    k: int,
    kinds: Sequence[Kind] | None = None,
    checker: Checker | None = None,
    *,
    starts: Mapping[str, Start] = MappingProxyType({}),
    cut: Est | None = None,
    doubt: str = "",
) -> str:
    """The diagnosis in plain words, what has to be mended first before all: a checker, responses that do not end. Then
    how many prompts of each call that occurs, whether RL has successes to start from, and what else they need.

    starts: by family. cut: the share of failures that were cut off. doubt: why the checker cannot be believed.
    """
    kinds = kinds or [Kind()] * len(calls)
    n, lost = tally(calls), sum(kind.sub == LOST for kind in kinds)
    order = sorted(zip(calls, kinds, strict=True), key=lambda pair: CALLS.index(pair[0]))
    words = Counter(remedy(*pair).words.format(k=k, since=pair[1].since) for pair in order)
    counted = ", ".join(f"{number} {described}" for described, number in words.items())
    clauses = [doubt] * bool(doubt)
    if checker is not None and not checker.usable:
        clauses.append(_mend(checker))
    if n["truncated"] and cut is not None and cut.estimate >= OFTEN_CUT:
        clauses.append(
            f"{cut.estimate:.0%} of all failures [{cut.low:.0%}, {cut.high:.0%}] were cut off before the response ended"
        )
    clauses.append(f"of {_number(len(calls), 'prompt')}: {counted}")
    if checker is not None and not checker.usable:
        return "; ".join(clauses)
    if starts and not doubt:
        clauses += start_clauses(starts)
    needs = {
        "a higher limit, or to learn to end": n["truncated"],
        "the format taught or the checker fixed": n["format"],
        "what they do with help made their own": n["fragile"] - lost,
        "what was lost replayed or distilled back": lost,
        "a teacher or step rewards on the model's own attempts": n["local"],
        "demonstrations or hints": sum(n[call] for call in NEEDS_DEMONSTRATIONS),
    }
    clauses += [f"{number} {'needs' if number == 1 else 'need'} {what}" for what, number in needs.items() if number]
    return "; ".join(clauses)


def start_clauses(starts: Mapping[str, Start]) -> list[str]:
    """On which families RL has successes to start from, and what is known of the others."""
    can = [name for name, start in starts.items() if start.sure]
    if len(starts) == 1:
        [start] = starts.values()
        return [f"RL {start.verb} to start from: {start.words}"]
    clauses = []
    if can:
        every = len(can) == len(starts)
        where = "every family" if every else " and ".join([", ".join(can[:-1])] * (len(can) > 1) + can[-1:])
        expected, rollouts = (sum(getattr(starts[name], part) for name in can) for part in ("expected", "rollouts"))
        clauses.append(
            f"RL has successes to start from on {where}: about {expected:,.0f} in the {rollouts:,} rollouts of a stage"
        )
    return clauses + [f"on {name} it {start.verb}: {start.words}" for name, start in starts.items() if not start.sure]


def _mend(checker: Checker) -> str:
    right, wrong = checker.sensitivity, checker.false_positive
    return (
        f"mend the checker first: it accepts {right.estimate:.0%} [{right.low:.0%}, {right.high:.0%}] of right answers "
        f"and {wrong.estimate:.0%} [{wrong.low:.0%}, {wrong.high:.0%}] of wrong ones, too alike to call but format"
    )


def suggestions(
    calls: Sequence[str],
    strict: Counts,
    k: int,
    kinds: Sequence[Kind] | None = None,
    *,
    families: Sequence[str] = (),
    starts: Mapping[str, Start] = MappingProxyType({}),
    checker: Checker | None = None,
    group_size: int = 8,
) -> list[dict]:
    """[{"call", "sub", "since", "prompts", "methods", "reason", "signature", "avoid"}] for the calls and kinds that
    occur, largest first. RL is spoken against only where a stage may meet no success."""
    kinds, rows = kinds or [Kind()] * len(calls), []
    families = families or [""] * len(calls)
    for (call, kind), number in Counter(zip(calls, kinds, strict=True)).most_common():
        one = remedy(call, kind)
        reason, signature = (text.format(k=k, since=kind.since) for text in (one.reason, one.signature))
        methods, against = list(one.methods), [one.avoid] * bool(one.avoid)
        reason += _useful_groups(calls, strict, group_size) if call == "ranking" and kind.sub != CONTENT_ONLY else ""
        mine = {f for c, s, f in zip(calls, kinds, families, strict=True) if (c, s) == (call, kind) and f in starts}
        if mine and methods and (call not in OTHERWISE or kind.sub == CONTENT_ONLY) and kind.sub != CHECKER_REJECTS:
            together = np.isin(families, list(mine)) & (np.array(calls) != "solved")
            start = Start.of(strict.at(together), k, checker=checker)
            share = "" if together.sum() == number else f" over all {int(together.sum())} unsolved prompts like them"
            reason += f"; RL {start.verb} to start from: {start.words}{share}"
            methods += [RL] * (start.sure and RL not in methods and call in STARTS_AS_WELL)
            against += [one.without_start] * (bool(one.without_start) and start.unlikely)
        elif one.without_start:
            against.append(one.without_start)
        rows.append(
            {"call": call, "sub": kind.sub, "since": kind.since, "prompts": number, "methods": methods}
            | {"reason": reason, "signature": signature, "avoid": "; ".join(against)}
        )
    return rows


def tally(calls: Sequence[str]) -> dict[str, int]:
    return {name: sum(call == name for call in calls) for name in CALLS}


def _useful_groups(calls, strict: Counts, group_size: int) -> str:
    chosen = (np.array(calls) == "ranking") & (strict.scored >= group_size)
    if not chosen.any():
        return ""
    mixed = mean_over_prompts(mixed_group_probability(strict.at(chosen), group_size))[0]
    return (
        f"; {mixed.estimate:.0%} of their groups of {group_size} would hold both a success and a failure "
        f"[{mixed.low:.0%}, {mixed.high:.0%}]"
    )


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
