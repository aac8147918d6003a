"""Filtering and replay: likelihood of responses that were sampled, or found, and then selected."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from offon.catalogue.registry import method
from offon.collect import add_demo, demonstrations, gate, keep_best, right, rollouts, shown, verify
from offon.collect.shape.filter import distinct
from offon.collect.shape.targets import as_targets
from offon.collect.signals.perplexity import (
    ALONE,
    by_prompt,
    instruction_following,
    mean_logp,
    top_share,
    without_prompt,
)
from offon.collect.sources.dataset import recorded
from offon.collect.sources.hints import ShownView
from offon.parts import Stage, one, policy, policy_gradient
from offon.parts.loop import BASE, LAST, Loop, Ref
from offon.parts.schedules import Each, Growth

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Gt(0), Le(1)]


@method(
    family="filtering and replay",
    interface="reward",
    usual_provenance="on-policy",
    usual_role="reshaping",
    paper="2304.06767",
)
def raft(task, *, group_size: Count = 8, keep: Count = 1, at_least: float | None = 1.0) -> Stage:
    """Reward-ranked fine-tuning: sample, keep the best, maximise their likelihood; fresh samples each round.

        L = 1/D sum over kept tokens of -log pi(y_t)

    pi is the model at temperature 1, whatever y was sampled at. Sampled at 1, with rewards in {0, 1}, the first step is
    REINFORCE without a baseline. Later steps of a buffer train older samples: the ledger says how much older (mean
    age), which is how off-policy the stage was.
    at_least: a kept response must reach this reward; None keeps the best of each group, good or bad (the paper's form).
    Watch: the share of prompts with a kept response. Fails: easy prompts dominate; nothing wrong is ever pushed down.
    Deviations: the paper can also keep the top 1/K of the whole batch.
    """
    return Stage(
        rollouts(task, group_size) | verify(task) | keep_best(keep, at_least) | as_targets(),
        policy(policy_gradient(advantage=one)),
        recommends={"learning_rate": 1e-5},
    )


@method(
    kind="make", family="filtering and replay", interface="reward", usual_provenance="on-policy",
    usual_role="reshaping", paper="2112.09332",
)  # fmt: skip
def best_of_n(toolbox, task, *, n: Count = 16, keep: Count = 1, at_least: float | None = None) -> None:
    """Best-of-n as data: n samples a prompt by the node's `init`, the best `keep` of them kept, for sft or any other.

        L = 1/D sum over kept tokens of -log pi(y_t)                  (sft on what this makes)
        density of the best of n, ties aside   pi(y) n F(r(y))^(n-1),   KL(best of n || pi) <= log n - (n - 1) / n

    F is the distribution function of the reward under pi. n: 8 to 64 are usual; the bound says what more can buy.
    Duplicates of a kept answer are dropped. at_least: a kept answer reaches this reward too; None keeps the best of
    what there is. keep > 1 with at_least 1 is rejection-sampling fine-tuning (RFT, arXiv:2308.01825) with a cap, which
    keeps distinct equation lists where this keeps distinct texts.
    Watch: the ledger's fates: how many prompts kept nothing ("below threshold").
    Fails: a flawed checker is exploited harder the larger n is; n = 1 is training on oneself.
    Deviations: a truncated sample is never kept, since data has an end.
    """
    toolbox.write(toolbox.collect(rollouts(task, n) | verify(task) | distinct() | keep_best(keep, at_least)))


@method(
    kind="make", family="filtering and replay", interface="reward", usual_provenance="off-policy",
    usual_role="reshaping", paper="2308.08998",
)  # fmt: skip
def above(toolbox, data, *, at_least: float = 1.0) -> None:
    """Rows of a made data set whose reward reaches a threshold: the step between ReST's Grow and Improve.

        L = 1/D sum over tokens of rows with R >= at_least of -log pi(y_t)      (sft on what this makes)

    Reads the reward that was written beside each row, and asks nobody again.
    Watch: the number of rows left. Fails: a threshold above every reward leaves nothing, which is an error.
    Deviations: the paper raises the threshold within one step; here each threshold is a node (rest).
    """
    toolbox.write(toolbox.collect(demonstrations(data) | recorded() | keep_best(None, at_least), data))


@method(
    kind="make", family="filtering and replay", interface="reward", usual_provenance="on-policy",
    usual_role="reshaping", paper="2203.14465",
)  # fmt: skip
def rationales(
    toolbox,
    task,
    *,
    rationalize: bool = True,
    view: str = "answer",
    template: str = "{prompt}\n(The answer is {reference}.)\n",
) -> None:
    """STaR's data: one greedy answer a prompt; where it is wrong, one more with the answer shown.

        L = 1/D sum over tokens of right answers of -log pi(y_t | x)          (sft on what this makes)

    A rationalised answer is kept if it is right, and stored under the prompt without the answer: off-policy by
    conditioning, on the ledger as such (its "sample" view is not its "train" view).
    view: the item's prompt that shows the answer, where it has one of that name; else `template` writes it, from
    {prompt} and {reference}, the item's reference response.
    Watch: how many answers were rationalised (tag "guided"); text that mentions the hint ("since the answer is").
    Fails: a right answer reached for wrong reasons is learned as well.
    Deviations: the paper's rationales are few-shot; here the prompt is the item's.
    """
    answer = rollouts(task, 1, temperature=0.0) | verify(task)
    again = shown(view, template) | rollouts(task, 1, temperature=0.0, guide=ShownView(view=view)) | verify(task)
    collector = answer | gate(right(), else_=again) if rationalize else answer
    toolbox.write(toolbox.collect(collector | keep_best(1, at_least=1.0)))


@method(
    kind="loop", family="filtering and replay", interface="reward", usual_provenance="mixed", usual_role="reshaping",
    paper="2203.14465",
)  # fmt: skip
def star(
    task,
    *,
    iterations: Count = 5,
    first_steps: Count = 40,
    growth: Annotated[float, Ge(1)] = 1.2,
    rationalize: bool = True,
    view: str = "answer",
    template: str = "{prompt}\n(The answer is {reference}.)\n",
) -> Loop:
    """Self-taught reasoner: answer, keep what is right (told the answer where it was wrong), fine-tune the base; again.

        L = 1/D sum over tokens of right answers of -log pi(y_t | x)

    Each iteration samples with the model trained last and trains the model the loop started from, so that errors do
    not add up. In expectation the gradient is REINFORCE's with reward 1[right] and no baseline.
    first_steps 40, growing by 20% each iteration; decoding is greedy (arXiv:2203.14465, appendix; unverified: numbers).
    Watch: the share of prompts answered without help, per iteration. Fails: see `rationales`.
    Deviations: the paper prompts with few-shot rationales.
    """
    answer_shown = {"rationalize": rationalize, "view": view, "template": template}
    return Loop(
        {
            "data": {"method": "rationales", "init": LAST, **answer_shown},
            "model": {"method": "sft", "init": BASE, "data": Ref("data"), "steps": Growth(first_steps, growth)},
        },
        iterations,
    )


@method(
    kind="loop", family="filtering and replay", interface="reward", usual_provenance="mixed", usual_role="reshaping",
    paper="2308.08998",
)  # fmt: skip
def rest(
    task, *, grow: Count = 2, n: Count = 32, thresholds: tuple[float, ...] = (0.0, 0.7, 0.8, 0.9), steps: Count = 100
) -> Loop:
    """Reinforced self-training: Grow (sample from the model), then Improve several times on what passes a threshold.

        L_i = 1/D sum over tokens of samples with R >= thresholds[i] of -log pi(y_t | x)

    An Improve step goes on from the one before; samples are drawn once per Grow step and used in all its Improve steps.
    thresholds rise, so that a later step imitates fewer and better answers; with rewards in {0, 1} one, at 1, is all.
    A single threshold of minus infinity is self-training.
    Watch: rows left per threshold; the reward of a later Grow. Fails: the more Improve steps, the further the samples
    are from the model. Deviations: the paper adds the original data set to each Grow, and allows other offline losses;
    unverified: n and the thresholds' values.
    """
    improve = Loop(
        {
            "kept": {"method": "above", "data": Ref("grow"), "at_least": Each(tuple(thresholds))},
            "model": {"method": "sft", "init": LAST, "data": Ref("kept"), "steps": steps},
        },
        len(thresholds),
    )
    return Loop({"grow": {"method": "best_of_n", "init": LAST, "n": n, "keep": n}, "improve": improve}, grow)


@method(
    kind="loop", family="filtering and replay", interface="reward", usual_provenance="mixed", usual_role="reshaping",
    paper="2312.06585",
)  # fmt: skip
def rest_em(
    task, *, iterations: Count = 3, n: Count = 32, cap: Count = 10, threshold: float = 1.0, steps: Count = 100
) -> Loop:
    """ReST-EM: sample (E), keep right answers, at most `cap` a prompt, fine-tune the base on them (M); again.

        L = 1/D sum over tokens of at most `cap` answers a prompt with R >= threshold of -log pi(y_t | x)

    Each M-step starts from the model the loop started from; each E-step samples the model trained last. One iteration
    is rejection-sampling fine-tuning (RFT, arXiv:2308.01825).
    n 32, top_k 40 and temperature 0.7 are the paper's for MATH (unverified: numbers); the last two are the node's keys,
    and the library's (1, 0) unless written. cap keeps easy prompts from dominating.
    Watch: held-out success per iteration: it overfits after a few. Fails: easy prompts dominate, diversity shrinks.
    Deviations: none known.
    """
    return Loop(
        {
            "data": {"method": "best_of_n", "init": LAST, "n": n, "keep": cap, "at_least": threshold},
            "model": {"method": "sft", "init": BASE, "data": Ref("data"), "steps": steps},
        },
        iterations,
    )


@method(
    kind="make", family="filtering and replay", interface="token targets", usual_provenance="off-policy",
    usual_role="expansion or reshaping", paper="2402.00530",
)  # fmt: skip
def superfiltering(toolbox, data, *, ratio: Literal["perplexity", "nll"] = "perplexity", share: Share = 0.1) -> None:
    """Select data by instruction-following difficulty (IFD), as a small model sees it.

        IFD = exp(s(A | Q)) / exp(s(A))        perplexity: Superfiltering
        IFD = s(A | Q) / s(A)                  nll: Cherry LLM (arXiv:2308.12032)
        L = 1/D sum over tokens of the kept rows of -log pi(y_t)              (sft on what this makes)

    s is the mean NLL of the answer's tokens under the node's `init` (GPT-2 in the paper), with and without the
    prompt. Kept is the `share` with the highest IFD of the rows with IFD <= 1: above 1 the prompt misleads, low values
    need no learning. The two ratios rank differently.
    The same tokens count in both passes: without the prompt they follow a BOS (else EOS) token.
    Watch: the kept rows' lengths. Fails: noisy answers that no prompt explains have a high IFD too; share 0.05 to 0.15
    is the papers' range. An answer independent of its prompt has IFD 1.
    Deviations: none from the two ratios; ties are kept in the order of the data.
    """
    scores = without_prompt() | mean_logp() | mean_logp(view=ALONE) | instruction_following(ratio)
    toolbox.write(top_share(toolbox.collect(demonstrations(data) | scores, data), "ifd", share, at_most=1.0))


@method(
    kind="make", family="filtering and replay", interface="token targets", usual_provenance="off-policy",
    usual_role="expansion or reshaping", paper="2502.04194",
)  # fmt: skip
def grape(toolbox, data) -> None:
    """Data that fit: of several answers to a prompt, keep the one the model to be trained finds most likely.

        y* = argmax over the rows y with prompt x of 1/|y| sum_t log pi_init(y_t | x, y_<t)
        L = 1/D sum_t -log pi(y*_t)                                            (sft on what this makes)

    `init` is the model to be trained, before training; `data` holds the candidates, one per row, prompts repeated.
    Rows that say the same are one candidate. A prompt with one row keeps it: all single, it is sft.
    Watch: the kept rows' lengths. Fails: short or repetitive text is likely; score with the template trained with,
    as this does.
    Deviations: none from the score; the paper draws candidates from several models, here they are what data holds.
    """
    fit = distinct() | mean_logp() | keep_best(1, by="mean_logp")
    toolbox.write(toolbox.collect(demonstrations(data) | fit, by_prompt(data)))


@method(
    kind="make", family="filtering and replay", interface="token targets", usual_provenance="mixed",
    usual_role="expansion or reshaping", paper="2402.13669",
)  # fmt: skip
def rewritten(
    toolbox,
    data,
    task,
    *,
    template: str = "{prompt}\n\nA reference answer: {reference}\n\nWrite the answer in your own words.\n",
) -> None:
    """Demonstrations in the model's own words: it is shown the reference and answers; right answers replace it.

        y~ ~ pi_init(. | template(x, y)),  kept if the task's checker calls it right, else y
        L = 1/D sum_t -log pi(y~_t | x)                                        (sft on what this makes)

    Watch: the share that was rewritten (the ledger's fates). Fails: a small model copies the reference, or fails to
    follow the template: all rows fall back. Deviations: the paper also drops rewrites with banned phrases.
    """
    rewritten = shown("reference", template) | rollouts(None, 1, guide=ShownView(view="reference")) | verify(task)
    asked = [group.replace(members=()) for group in data]
    toolbox.write(toolbox.collect(rewritten | gate(right(), else_=add_demo(data)), asked))


@method(
    kind="loop", family="filtering and replay", interface="token targets", usual_provenance="mixed",
    usual_role="expansion or reshaping", paper="2402.13669",
)  # fmt: skip
def self_distilled_sft(
    data,
    task,
    *,
    steps: Count = 100,
    template: str = "{prompt}\n\nA reference answer: {reference}\n\nWrite the answer in your own words.\n",
) -> Loop:
    """Self-distillation fine-tuning (2024): have the model rewrite the demonstrations, then train it on its rewrites.

        L = 1/D sum_t -log pi(y~_t | x),  y~ the model's own answer when shown y, if right, else y

    What is learned lies closer to what the model would say, so that less of the rest is forgotten. Another method of
    2026 shares its acronym (SDFT, on-policy with demonstrations in context).
    Watch and fails: see `rewritten`. LoRA in the paper: `lora: true`.
    Deviations: see `rewritten`.
    """
    return Loop(
        {
            "data": {"method": "rewritten", "init": BASE, "data": data, "template": template},
            "model": {"method": "sft", "init": BASE, "data": Ref("data"), "steps": steps},
        }
    )
