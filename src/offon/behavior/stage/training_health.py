"""When nothing is learned, say why, in words.

Each sentence: what was counted, what it means, what would mend it. Causes that make later ones meaningless come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from offon.behavior.statistics.intervals import Est


@dataclass(frozen=True, kw_only=True)
class StageStatistics:
    """What a stage counted while it ran; None or empty: does not apply, or was not counted.

    Shares are in [0, 1]. A group is all-fail or all-success when no member succeeds or all do: its members' advantages
    are then zero. `rewards`: mean reward of each step's rollouts, in order. `losses` are read where they are never
    negative: a policy gradient's has no level. `rows`: supervised rows (demonstrations, pairs); a row is `unsupervised`
    if truncation left it no supervised token.
    """

    steps: int
    skipped_steps: int = 0  # total weight or gradient zero
    rows: int | None = None
    rows_unsupervised: int = 0
    groups: int | None = None
    group_size: int | None = None
    all_fail: float | None = None  # share of groups
    all_success: float | None = None
    unscored: float | None = None  # share of responses
    unscored_reasons: str = ""  # "3 x killed after 5 s": what a sentence is due for, however small the share
    truncated: float | None = None
    clipped: float | None = None  # share of trained tokens whose ratio left the trust region
    sampler_gap_nats: float | None = None  # mean per token, behaviour to learner, before any update
    rewards: Sequence[float] = ()
    losses: Sequence[float] = ()  # of each step
    gradient_norms: Sequence[float] = ()  # of each step, before clipping
    lengths: Sequence[float] = ()  # mean tokens of a response, of each step's rollouts
    entropies: Sequence[float] = ()  # nats per token, of the same
    success_before: Est | None = None  # probe, held-out prompts
    success_after: Est | None = None
    success_change: Est | None = None  # paired by prompt


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """From where on a number is worth a sentence."""

    one_sided_groups: float = 0.5  # most of the compute is spent on groups without gradient
    rise: float = 0.8  # the first quarter's reward over the last's: below, the stage itself taught its prompts
    mixed_groups: float = 0.2  # below, four of five rollouts buy no gradient
    unscored: float = 0.05
    truncated: float = 0.25
    clipped: float = 0.3
    sampler_gap_nats: float = 1e-3  # beyond rounding: no longer on-policy
    skipped_steps: float = 0.1
    loss_times: float = 4.0  # what it was before the first update
    relapse_times: float = 10.0  # the best level it ever had
    loss_floor: float = 0.1  # a loss that starts at 0 (the teacher is the learner) is compared with this
    gradient_times: float = 100.0
    gradient_floor: float = 1.0  # the usual bound of clipping: below it a gradient is nothing to worry about
    collapse: float = 0.9  # share of the reward that is gone
    collapse_least: float = 0.1  # and how much of it, so that rare successes may come and go
    length_times: float = 3.0  # the last quarter's length over the first's
    length_least: float = 16.0  # and how many tokens more
    entropy_share: float = 0.1  # of the first quarter's entropy, below which responses are nearly alike
    entropy_reward: float = 0.8  # reward from where responses may be alike: they are right
    nothing_to_gain: float = 0.95  # success or reward from where standing still is no failure


def explain(stage: StageStatistics, alarm: Alarm = Alarm()) -> list[str]:
    """Warnings of one stage, most fundamental first; empty if nothing is wrong enough."""
    learning = (_diverged, _collapsed, _skipped)
    causes = (_supervision, *learning, _unscored, _truncated, _lengths, _groups, _entropy, _sampler, _clipped, _outcome)
    return [sentence for cause in causes for sentence in cause(stage, alarm)]


def trend(rewards: Sequence[float]) -> Est | None:
    """Mean of the last third minus mean of the first third, with a 95% Welch interval; None below 6 steps.

    Steps are treated as independent, which is kind to a slow drift.
    """
    rewards = np.asarray(rewards, float)
    size = len(rewards) // 3
    if size < 2:
        return None
    first, last = rewards[:size], rewards[-size:]
    variances = np.array([part.var(ddof=1) / size for part in (first, last)])
    change, error = last.mean() - first.mean(), np.sqrt(variances.sum())
    if error == 0:
        return Est(float(change), float(change), float(change))
    freedom = variances.sum() ** 2 / (variances**2 / (size - 1)).sum()
    reach = special.stdtrit(freedom, 0.975) * error
    return Est(float(change), float(change - reach), float(change + reach))


def _supervision(stage: StageStatistics, alarm: Alarm):
    if stage.rows and stage.rows_unsupervised == stage.rows:
        yield (
            "every row is truncated before its first supervised token: nothing was trained; "
            "raise max_length or shorten prompts"
        )
    elif stage.rows and stage.rows_unsupervised:
        yield (
            f"{_share(stage.rows_unsupervised / stage.rows)} of {stage.rows} rows are truncated before their first "
            f"supervised token and teach nothing; raise max_length or shorten prompts"
        )


def _diverged(stage: StageStatistics, alarm: Alarm):
    losses = np.asarray(stage.losses, float)
    if len(losses) >= 6 and losses.min() >= 0:
        *earlier, last = np.array_split(losses, 3)
        first, level = losses[0], float(np.median(last))
        best = min(first, *map(np.median, earlier))
        relapsed = last.min() > first and level >= alarm.relapse_times * max(best, alarm.loss_floor)
        if relapsed or last.min() >= alarm.loss_times * max(first, alarm.loss_floor):
            yield (
                f"loss diverged: {first:.3g} at the first step, {best:.3g} at its best, {level:.3g} over the last "
                f"third of {len(losses)} steps; a smaller learning rate, or warmup_steps"
            )
    norms = np.asarray(stage.gradient_norms, float)
    if len(norms) >= 6:
        first, _, last = np.array_split(norms, 3)
        begun = float(np.median(first))
        if last.min() >= alarm.gradient_times * max(begun, alarm.gradient_floor):
            yield (
                f"gradient norm grew from {begun:.3g} to {np.median(last):.3g} from the first to the last third of "
                f"{len(norms)} steps: training diverges; a smaller learning rate"
            )


def _collapsed(stage: StageStatistics, alarm: Alarm):
    rewards = np.asarray(stage.rewards, float)
    if len(rewards) < 6:
        return
    *earlier, last = np.array_split(rewards, 3)
    best, left = max(rewards[0], *map(np.mean, earlier)), last.mean()
    if best - left >= max(alarm.collapse * best, alarm.collapse_least):
        yield (
            f"reward collapsed: {best:.3f} at its best, {left:.3f} over the last third of {len(rewards)} steps; a "
            f"smaller learning rate, unless help (hints, easy prompts) was taken away meanwhile"
        )


def _skipped(stage: StageStatistics, alarm: Alarm):
    if stage.steps and stage.skipped_steps == stage.steps:
        yield (
            f"all {stage.steps} steps were skipped because nothing in them had a weight or an advantage: "
            f"the weights did not move"
        )
    elif stage.steps and stage.skipped_steps / stage.steps >= alarm.skipped_steps:
        yield (
            f"{stage.skipped_steps} of {stage.steps} steps were skipped because nothing in them had a weight or an "
            f"advantage"
        )


def _unscored(stage: StageStatistics, alarm: Alarm):
    if stage.unscored and (stage.unscored >= alarm.unscored or stage.unscored_reasons):
        why = stage.unscored_reasons or "the checker raised, hung or returned no number"
        yield (
            f"{_share(stage.unscored)} of responses are unscored: {why}; "
            f"they are neither right nor wrong and teach nothing; mend the checker first"
        )


def _truncated(stage: StageStatistics, alarm: Alarm):
    if stage.truncated is not None and stage.truncated >= alarm.truncated:
        yield (
            f"{_share(stage.truncated)} of responses reach max_tokens without ending: an answer that is cut off "
            f"counts as wrong; raise max_tokens, or teach the model to stop with demonstrations"
        )


def _lengths(stage: StageStatistics, alarm: Alarm):
    first, last = _ends(stage.lengths)
    if last >= alarm.length_times * first and last - first >= alarm.length_least:
        yield (
            f"responses grew from {first:.0f} to {last:.0f} tokens: read the longest; where held-out success did not "
            f"rise with them, length is what is rewarded"
        )


def _entropy(stage: StageStatistics, alarm: Alarm):
    first, last = _ends(stage.entropies)
    reward = _ends(stage.rewards)[1]
    if len(stage.entropies) >= 4 and last < alarm.entropy_share * first and reward < alarm.entropy_reward:
        yield (
            f"entropy fell from {first:.2g} to {last:.2g} nats a token with rewards at {reward:.2f}: responses are "
            f"nearly alike, so that groups teach little; entropy_bonus, a higher temperature, a smaller learning rate"
        )


def _groups(stage: StageStatistics, alarm: Alarm):
    if stage.all_fail is None or stage.all_success is None or stage.group_size == 1:
        return  # one response is no group: nobody compares it with others
    mixed = max(0.0, 1 - stage.all_fail - stage.all_success)
    if stage.all_fail >= alarm.one_sided_groups:
        yield (
            f"{_share(stage.all_fail)} of groups are all-fail at {stage.group_size} rollouts: the policy does not "
            f"reach these prompts; demonstrations, hints or easier data first"
        )
    elif stage.all_success >= alarm.one_sided_groups:
        share = f"{_share(stage.all_success)} of groups are all-success at {stage.group_size} rollouts"
        first, last = _ends(stage.rewards)
        if first < alarm.rise * last:
            yield (
                f"{share}: the stage came to solve its prompts (mean reward {first:.2f} in its first quarter, "
                f"{last:.2f} in its last) and then went on without gradient; fewer steps would do, or harder data next"
            )
        else:
            yield f"{share}: the policy already solved these prompts when the stage began; harder data, or stop here"
    elif mixed < alarm.mixed_groups:
        yield (
            f"only {_share(mixed)} of groups hold both a success and a failure at {stage.group_size} rollouts "
            f"({_share(stage.all_fail)} all-fail, {_share(stage.all_success)} all-success): few groups carry a "
            f"gradient; larger groups, or prompts of middling difficulty"
        )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """The means of the first and of the last quarter; zeros where there is nothing."""
    if not values:
        return 0.0, 0.0
    quarter = max(1, len(values) // 4)
    return sum(values[:quarter]) / quarter, sum(values[-quarter:]) / quarter


def _sampler(stage: StageStatistics, alarm: Alarm):
    if stage.sampler_gap_nats is not None and abs(stage.sampler_gap_nats) > alarm.sampler_gap_nats:
        yield (
            f"responses were sampled {abs(stage.sampler_gap_nats):.2g} nats per token away from the policy being "
            f"trained (rounding stays below {alarm.sampler_gap_nats:g}): engine and learner disagree on weights, "
            f"precision or sampler"
        )


def _clipped(stage: StageStatistics, alarm: Alarm):
    if stage.clipped is not None and stage.clipped >= alarm.clipped:
        yield (
            f"{_share(stage.clipped)} of trained tokens are clipped: the policy moves further per buffer than the "
            f"trust region allows; lower learning rate, or fewer epochs"
        )


def _outcome(stage: StageStatistics, alarm: Alarm):
    reward, success = trend(stage.rewards), stage.success_change
    collapsed = any(_collapsed(stage, alarm))
    if reward is not None and reward.low <= 0 and not collapsed and np.mean(stage.rewards) < alarm.nothing_to_gain:
        what = "fell" if reward.high < 0 else "shows no trend"
        yield f"reward {what} over {len(stage.rewards)} steps: {_change(reward)} from the first to the last third"
    if success is None:
        return
    levels = "" if stage.success_before is None else f" (from {stage.success_before} to {stage.success_after})"
    if success.high < 0:
        yield f"held-out success fell: {_change(success)}{levels}: look at the lost prompts before going on"
    elif success.low > 0 or (stage.success_before and stage.success_before.estimate >= alarm.nothing_to_gain):
        return
    elif reward is not None and reward.low > 0:
        yield (
            f"reward rose ({_change(reward)}) while held-out success did not: {_change(success)}{levels}; the policy "
            f"fits its training prompts, or the reward and the probe's checker disagree"
        )
    else:
        yield f"held-out success did not move beyond its interval: {_change(success)}{levels}"


def _share(share: float) -> str:
    """A percentage that never rounds to 0% or 100% what is not."""
    if 0 < share < 0.005:
        return "under 1%"
    if 0.995 <= share < 1:
        return "over 99%"
    return f"{share:.0%}"


def _change(change: Est) -> str:
    return f"{change.estimate:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
