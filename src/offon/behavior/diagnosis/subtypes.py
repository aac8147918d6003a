"""What kind of a called bottleneck a prompt has, where the same measurements tell.

    format    "checker rejects"  the form is right, by gold verdicts on it    "model's format"  it is wrong
    fragile   "scaffold"  helped by it                                        "lost"  an earlier checkpoint could
    ranking   "content only"  the content is within reach, what the checker accepts surely is not
              "route"  what it begins in failing is dead                      "steps"  alive, a later step fails
              (as unreachable and local are told apart, with success in reach)
    missing   "live"  what it begins is alive: a teacher can take over from the model's own states

A kind is named where the posterior gives it the rule's confidence, within the draws of the class that was called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from offon.behavior.change.support import support_threshold
from offon.behavior.diagnosis.bottleneck import CLASSES, Measured, Posterior, Rule, alive, earlier, starts_over
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import jeffreys_above

CHECKER_REJECTS, MODELS_FORMAT = "checker rejects", "model's format"
SCAFFOLD, LOST, ROUTE, STEPS, LIVE = "scaffold", "lost", "route", "steps", "live"
CONTENT_ONLY = "content only"


class Kind(NamedTuple):
    """sub: the kind, None where not told. since: for `lost`, the checkpoint that could."""

    sub: str | None = None
    since: str | None = None


def kinds(
    posteriors: Posterior,
    calls: Sequence[str],
    measured: Measured,
    k: int,
    rule: Rule = Rule(),
    *,
    proper: Counts | None = None,
    reference_rejected: Sequence[bool] | None = None,
    teacher_goes_on: bool = True,
) -> list[Kind]:
    """[P] kinds of the calls.

    proper: of a prompt's outputs with right content that the checker rejected, how many have the right form (gold).
    reference_rejected: where the checker says of the known good response that its content is right and its form is not.
    teacher_goes_on: False where a control says that what a teacher finishes tells nothing.
    """
    strict_DP, least = posteriors.rates["strict"], support_threshold(k, zeta=rule.zeta)
    alive_DP = alive(posteriors.rates, rule)
    dead_DP = ~alive_DP & ~starts_over(posteriors.rates, rule)
    competent_DP, begins_DP = (posteriors.rates[name] >= rule.competent for name in ("placed", "begun"))

    def kind(index: int, call: str) -> Kind:
        draws_D = posteriors.classes[:, index] == CLASSES.index(call) if call in CLASSES else np.zeros(0, bool)
        match call:
            case "format" if reference_rejected is not None and reference_rejected[index]:
                return Kind(CHECKER_REJECTS)
            case "format" if proper is not None:
                return Kind(_form(int(proper.successes[index]), int(proper.scored[index]), rule))
            case "fragile":
                return _better(posteriors, index, measured)
            case "ranking" if (strict_DP[:, index] < least).mean() >= rule.confidence:
                return Kind(CONTENT_ONLY)
            case "ranking" if teacher_goes_on:
                lives_D = (competent_DP & alive_DP)[draws_D, index]
                dies_D = (competent_DP & begins_DP & dead_DP)[draws_D, index]
                return Kind(_sure(lives_D.mean(), dies_D.mean(), rule))
            case "missing" if teacher_goes_on and alive_DP[draws_D, index].mean() >= rule.confidence:
                return Kind(LIVE)
        return Kind()

    return [kind(index, call) for index, call in enumerate(calls)]


def _form(proper: int, rejected: int, rule: Rule) -> str | None:
    mostly = float(jeffreys_above(proper, rejected, 0.5))
    return CHECKER_REJECTS if mostly >= rule.confidence else MODELS_FORMAT if 1 - mostly >= rule.confidence else None


def _better(posteriors: Posterior, index: int, measured: Measured) -> Kind:
    """The condition with the highest expected success."""
    tried = [name for name, counts in measured.conditions.items() if counts.scored[index]]
    best = max(tried, key=lambda name: posteriors.rates[name][:, index].mean())
    since = next((name for name in measured.previous if earlier(name) == best), None)
    return Kind(SCAFFOLD) if since is None else Kind(LOST, since)


def _sure(lives: float, dies: float, rule: Rule) -> str | None:
    return STEPS if lives >= rule.confidence else ROUTE if dies >= rule.confidence else None
