"""From a call to words and to methods: a prior for what to try first (the survey's, arXiv:2604.07941), each with the
signature that would show it was right, and never a promise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offon.behavior.diagnosis.bottleneck import CALLS, UNDECIDED, UNSUPPORTED
from offon.behavior.diagnosis.subtypes import CHECKER_REJECTS, LIVE, LOST, MODELS_FORMAT, ROUTE, STEPS, Kind
from offon.behavior.statistics.checker_errors import Checker
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import mean_over_prompts
from offon.behavior.statistics.pass_at_k import mixed_group_probability


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
        reason="{since} could: distil from it, replay what it could or anchor to it in the stage that lost it, or "
        "merge with it",
        signature="success returns to that of {since}; what the later stage gained stays",
        avoid="the stage that taught it once more",
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
        avoid="RL alone: it would have to discover the skill",
    ),
}
NEEDS_DEMONSTRATIONS = ("missing", "unreachable", UNSUPPORTED)


def remedy(call: str, kind: Kind = Kind()) -> Remedy:
    return KINDS.get((call, kind.sub), REMEDIES[call])


def sentence(calls: Sequence[str], k: int, kinds: Sequence[Kind] | None = None, checker: Checker | None = None) -> str:
    """The diagnosis in plain words: how many prompts of each call that occurs, and what can use them."""
    kinds = kinds or [Kind()] * len(calls)
    n, lost = tally(calls), sum(kind.sub == LOST for kind in kinds)
    order = sorted(zip(calls, kinds, strict=True), key=lambda pair: CALLS.index(pair[0]))
    words = Counter(remedy(*pair).words.format(k=k, since=pair[1].since) for pair in order)
    counted = ", ".join(f"{number} {described}" for described, number in words.items())
    clauses = [f"of {_number(len(calls), 'prompt')}: {counted}"]
    if checker is not None and not checker.usable:
        return "; ".join([_mend(checker), *clauses])
    if n["solved"] < len(calls):
        clauses.append(f"on-policy RL can use {n['ranking'] or 'none'} of them")
    needs = {
        "the format taught or the checker fixed": n["format"],
        "what they do with help made their own": n["fragile"] - lost,
        "what was lost replayed or distilled back": lost,
        "a teacher or step rewards on the model's own attempts": n["local"],
        "demonstrations or hints": sum(n[call] for call in NEEDS_DEMONSTRATIONS),
    }
    clauses += [f"{number} {'needs' if number == 1 else 'need'} {what}" for what, number in needs.items() if number]
    return "; ".join(clauses)


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
    group_size: int = 8,
) -> list[dict]:
    """[{"call", "sub", "since", "prompts", "methods", "reason", "signature", "avoid"}] for the calls and kinds that
    occur, largest first."""
    rows = []
    for (call, kind), number in Counter(zip(calls, kinds or [Kind()] * len(calls), strict=True)).most_common():
        one = remedy(call, kind)
        reason, signature = (text.format(k=k, since=kind.since) for text in (one.reason, one.signature))
        reason += _useful_groups(calls, strict, group_size) if call == "ranking" else ""
        rows.append(
            {"call": call, "sub": kind.sub, "since": kind.since, "prompts": number, "methods": list(one.methods)}
            | {"reason": reason, "signature": signature, "avoid": one.avoid}
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
