"""Guidance that fades: help that some responses are sampled with and that deployment will not have.

Which conditional is trained is one argument of each: with the help in the condition (exactly on-policy; what is learned
has to carry over to the plain prompt by itself), or under the plain prompt with the true likelihood ratio
pi(y | x) / pi_sampled(y | x, help) (drop=True; reported as off-policy by conditioning). Recomputing the denominator
under the plain prompt would give ratio 1 and hide the mismatch. The help itself is never a target.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from offon.catalogue.arguments import DataArg
from offon.catalogue.methods.corrections import on_credit
from offon.catalogue.registry import method
from offon.collect import ExpertPrefix, Guide, Hint, Rollouts, Rubric, Template
from offon.collect.sources.dataset import Library
from offon.errors import ConfigError
from offon.parts import Fade, Sigmoid, Stage
from offon.parts.credits import per_view

Baseline = Literal["prompt", "view"]  # who is compared with whom: all of a prompt's members, or those shown the same
Shape = Literal["linear", "cosine"]
Share = Annotated[float, Ge(0), Le(1)]

RUBRIC = "{prompt}\n\nA good answer meets these criteria:\n{rubric}"


def guided(stage: Stage, guide: Guide, baseline: Baseline = "prompt") -> Stage:
    """The stage with its rollouts guided, and members shown different things compared with each other or not."""
    sampling = [part for part in stage.collect.everything if isinstance(part, Rollouts)]
    for part in sampling:
        if part.guide is not None:
            raise ConfigError(
                f"these rollouts are guided already, by {part.guide}",
                why="a second guide would take the place of the first",
                fix="one of hints, expert_prefix, templates and rubrics, on a method without a guide of its own",
            )
    if not sampling:
        what = "hints, prefixes, templates and rubrics guide rollouts, and this stage samples none"
        raise ConfigError(what, fix="a method that samples, such as grpo or raft")
    stage = stage.replace(collect=stage.collect.replace(Rollouts, guide=guide))
    return on_credit(stage, per_view) if baseline == "view" else stage


@method(
    kind="modifier", family="guided", interface="reward", usual_provenance="on-policy", usual_role="expansion",
    paper="2601.18779",
)  # fmt: skip
def hints(
    stage: Stage,
    *,
    view: str = "hint",
    start: Share = 1.0,
    end: Share = 0.0,
    over: Share = 0.7,
    shape: Shape = "linear",
    drop: bool = False,
) -> Stage:
    """Sample a fading share of the groups under a prompt with a hint.

        share(step) = start -> end over the first `over` of the stage, then end
        L' = L on (y | x, h), y ~ pi(. | x, h)             drop=False: h in the condition above and below the ratio
        L' = L on (y | x), r = pi(y | x) / pi(y | x, h)    drop=True

    view: the items' own prompt with the hint; items without it are sampled plainly. A group is hinted as a whole, so
    that its members share a baseline. With no hint shown it is the method it modifies.
    Watch: reward with the hint against success without it; conditioned_share. Fails: a hint that says the answer is
    copied, and nothing carries over once it is gone.
    Deviations: POPE (2601.18779) shows the shortest prefix that helps, found beforehand; QuestA (2507.13266) 50% then
    25% of a solution in two runs; both condition on it. SAGE (2602.03143) writes hints when all rollouts fail.
    """
    return guided(stage, Hint(view=view, amount=Fade(start, end, share=over, shape=shape), drop=drop))


@method(
    kind="modifier", family="guided", interface="reward", usual_provenance="on-policy", usual_role="expansion",
    paper="2506.17211",
)  # fmt: skip
def expert_prefix(
    stage: Stage,
    *,
    demos: DataArg | None = None,
    start: float = 0.9,
    end: float = 0.0,
    over: float = 0.7,
    shape: Shape = "linear",
) -> Stage:
    """Begin each response with the beginning of a demonstration, ever shorter; train what the learner writes after it.

        h = first round(p |d|) tokens of a demonstration d of x,  p(step) = start -> end over the first `over`
        L' = L on the tokens after h, each given (x, h, ...)

    h is external and scaffold: condition in numerator and denominator, never a target, in no denominator. demos: data
    with demonstrations of the same prompts; the items' own reference responses unless given. Prompts without either are
    sampled plainly. All members continue the same h.
    Watch: reward as p fades; completions/mean_length counts h. Fails: fading faster than the skill grows: all fail.
    Deviations: BREAD branches only where all rollouts failed, from the shortest prefix found by bisection; StepHint
    (2507.02841) cuts at step boundaries and mixes lengths in a group. Trained prefixes: uft.
    """
    library = None if demos is None else Library(demos)
    return guided(stage, ExpertPrefix(library=library, amount=Fade(start, end, share=over, shape=shape)))


@method(
    kind="modifier", family="guided", interface="reward", usual_provenance="on-policy", usual_role="expansion",
    paper="2505.15692",
)  # fmt: skip
def templates(
    stage: Stage,
    *,
    texts: tuple[str, ...],
    start: float = 0.5,
    end: float = 0.0,
    over: float = 0.7,
    shape: Shape = "linear",
    drop: bool = False,
    baseline: Baseline = "prompt",
) -> Stage:
    """Sample a fading share of each group's members with the prompt inside a text that says how to go about it.

        member i sees template(x) with probability p(step) = start -> end, else x;  L' = L as for hints

    texts: with {prompt} where the question stands; which one is drawn for each member.
    baseline: "prompt" compares all members, which makes plain failures worse and guided successes better; "view"
    compares members that saw the same. With p 0 it is the method it modifies.
    Watch: reward of members tagged guided against the others. Fails: with "view", one member of a kind is set aside.
    Deviations: unverified: the paper retrieves the template by similarity from a library it builds by tree search; here
    it is drawn at random from those given.
    """
    guide = Template(texts=texts, amount=Fade(start, end, share=over, shape=shape), drop=drop)
    return guided(stage, guide, baseline)


@method(
    kind="modifier", family="guided", interface="reward", usual_provenance="on-policy", usual_role="expansion",
    paper="2508.16949",
)  # fmt: skip
def rubrics(
    stage: Stage,
    *,
    column: str = "rubric",
    text: str = RUBRIC,
    middle: float = 0.2,
    steepness: Annotated[float, Ge(0)] = 125.0,
    spread: Literal["group", "none"] = "group",
    drop: bool = False,
    baseline: Baseline = "prompt",
) -> Stage:
    """RuscaRL: show part of the criteria an answer will be judged by, to some members more than to others, then none.

        criteria shown to member i of G = round(share(step) * (G - 1 - i) / (G - 1) * K),  which of the K is drawn
        share(step) = 1 / (1 + exp(steepness (step / steps - middle)));   L' = L as for hints

    column: of the items, a list of criteria; text: with {prompt} and {rubric}. spread="none": share(step) * K for all.
    middle 0.2 and steepness 125 are the authors' script's (a step rather than a slope); baseline as for templates.
    Watch: reward of members tagged guided. Fails: criteria that give the answer away.
    Deviations: the reward is whatever the stage's is (judged by the same criteria in the paper); the paper conditions
    on the rubric, samples at temperature 0.7 with top_p 0.8, where a ratio to the sampler is not defined.
    """
    amount = Sigmoid(middle, steepness)
    return guided(stage, Rubric(column=column, text=text, amount=amount, spread=spread, drop=drop), baseline)
