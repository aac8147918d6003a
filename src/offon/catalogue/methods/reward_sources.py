"""Where rewards come from: a reward model (trained here, used anywhere), checkers, judges, and weighted sums of them.

Every stage that asks its task's checker can be given other sources: `with: [{reward_model: {model: $rm}}]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge

from offon.catalogue.arguments import ModelArg, RewardArg
from offon.catalogue.registry import method
from offon.collect import Collector, Verify, preferences
from offon.collect.signals.judge import Judge
from offon.collect.signals.rewards import Checker, Reward, RewardModel, Source
from offon.engines.endpoint import Endpoint
from offon.errors import ConfigError
from offon.parts import SELF_START, Artefact, Head, Learner, Square, Stage, contrast
from offon.types import Item, Verdict

RECOMMENDED = {"learning_rate": 1e-5, "heldout": 0.1}  # what is not held out cannot say how well it ranks
CHECKED = "verifier"  # the task's own checker, among the sources of a reward


@method(
    family="reward source", interface="preferences", usual_provenance="off-policy", usual_role="expansion",
    paper="2203.02155",
)  # fmt: skip
def train_reward_model(data, *, margin: float | Literal["data"] = 0.0, centre: Annotated[float, Ge(0)] = 0.01) -> Stage:
    """A Bradley-Terry reward model: one number per response, from preference pairs.

        L = 1/P sum [ -log sigmoid(r_w - r_l - m) + centre * (r_w + r_l)^2 ]

    r is a linear head (new, from 0) on the body, read at the response's last token; all of it is trained. It is saved
    as a Hugging Face directory for AutoModelForSequenceClassification with one label: for the modifier reward_model,
    the start of ppo's critic, or other programs. Only differences of r are learned; centre (0.01, arXiv:2312.09244)
    pins their mean near 0.
    margin: a number, or "data": each row's `margin` column (Llama 2, arXiv:2307.09288: 0 to 1 by how clear the
    preference is).
    Watch: rewards/accuracies on the training pairs, rewards/margins; held-out pairs say more.
    Fails: it learns what the pairs' writers differ in, length first of all; a policy then exploits that.
    Deviations: InstructGPT weighs the C(K, 2) pairs of one prompt by 1 / C(K, 2), here each pair of the data counts the
    same; TRL 1.16 centres only on request, with the same term. transformers' own forward reads the last token that is
    not the pad id: where pad and EOS are one id, the token before the EOS that is read here.
    """
    preferred = contrast(score=Head(), beta=1.0, margin=margin)
    centred = contrast(score=Head(), link=Square(0.0), beta=1.0, of="sum", coef=centre, name="centring")
    terms = (preferred, centred) if centre else (preferred,)
    return Stage(preferences(data), Learner("reward", terms, head="score"), recommends=RECOMMENDED)


@method(
    kind="modifier", family="reward source", interface="reward", usual_provenance="any", usual_role="reshaping",
    paper="2203.02155",
)  # fmt: skip
def reward_model(stage: Stage, *, model: RewardArg, weight: float | None = None) -> Stage:
    """A reward model scores every response, in place of the task's checker or beside it.

        R = r(x, y)        with a weight: R = R_before + weight * r(x, y)

    model: a $node of train_reward_model, or any Hugging Face sequence classifier with one label and the learner's
    vocabulary. r is read at the last token of the response and stays on record as the signal reward:reward_model.
    Watch: reward rising while the checker, or another reward model, does not. Fails: where the policy leaves the
    responses the model was trained on; kl_reward or kl_anchor keep it near.
    Deviations: InstructGPT normalises r to mean 0 on demonstrations first; group baselines take that out.
    """
    return rewarded(stage, "reward_model", RewardModel(Artefact(model)), weight)


@method(
    kind="modifier", family="reward source", interface="reward", usual_provenance="any", usual_role="reshaping",
    paper="2411.15124",
)  # fmt: skip
def verifier(
    stage: Stage,
    *,
    check: Literal["exact", "numeric", "math", "regex"] = "exact",
    pattern: str | None = None,
    weight: float | None = None,
) -> Stage:
    """Another checker than the task's own, in its place or beside it: a format reward is a pattern with a small weight.

        R = 1[check passes]        with a weight: R = R_before + weight * 1[check passes]

    check: as of a task's `verifier`, against the item's answer; regex asks only whether `pattern` occurs. The signal
    is reward:CHECK. A check that is impossible leaves the response unscored, which is not 0.
    Watch: each reward:NAME of the ledger apart; a format reward saturates first. Fails: a checker that can be satisfied
    without the skill is what the policy learns.
    Deviations: none; Tulu 3 (the reference) gives 10 for a pass, where group statistics are scale-free.
    """
    from offon.tasks.jsonl import named_check

    checked = named_check(check, pattern=pattern)
    return rewarded(stage, check, Checker(_Checked(checked, with_answer=check != "regex")), weight)


@dataclass(frozen=True)
class _Checked:
    """A named checker in the place of a task."""

    check: Callable[[Sequence[tuple[Item, str]]], list[Verdict]]
    with_answer: bool

    def verify(self, pairs: Sequence[tuple[Item, str]]) -> list[Verdict]:
        return self.check([(i if self.with_answer else replace(i, columns={}), text) for i, text in pairs])


@method(
    kind="modifier", family="reward source", interface="judge", usual_provenance="any", usual_role="reshaping",
    paper="2212.08073",
)  # fmt: skip
def judge(
    stage: Stage,
    *,
    rubric: str,
    model: ModelArg | None = None,
    url: str = "",
    served: str = "",
    compare: Literal["alone", "pairs"] = "alone",
    scale: tuple[float, float] = (0.0, 10.0),
    timeout_s: float = 60.0,
    retries: Annotated[int, Ge(0)] = 3,
    weight: float | None = None,
) -> Stage:
    """A language model judges every response by a rubric or constitution, in place of the task's checker or beside it.

        alone   R = (score - low) / (high - low), the number it ends with on a scale
        pairs   R = share of the group's other responses it is preferred to, each two shown in both orders

    with a weight: R = R_before + weight * that. Who judges: the server at `url` (OpenAI-compatible, its base URL) that
    serves a model as `served`; or a local model; or, unless written, the learner as it was when the stage began. Local
    judges answer greedily and share the learner's vocabulary. An answer without a readable verdict, or that never came
    (timeout, retries), leaves the response unscored: set aside, never 0. The signal is reward:judge.
    Watch: the share of unscored responses, length against reward. Fails: judges prefer long, confident and their own
    answers; pairs are steadier than grades and cost G (G - 1) questions a prompt.
    Deviations: the paper distils a preference model from the judge first; here it is asked about every response.
    """
    if url and (model or not served):
        raise ConfigError("a judge is a local model, or one served at a url", fix="url with served, or model")
    local = Artefact(model) if model else SELF_START
    by = Endpoint(url=url, model=served, timeout_s=timeout_s, retries=retries) if url else local
    return rewarded(stage, "judge", Judge(rubric=rubric, by=by, compare=compare, scale=scale), weight)


@method(
    kind="modifier", family="reward source", interface="reward", usual_provenance="any", usual_role="reshaping",
    paper="2306.01693",
)  # fmt: skip
def reward_weights(stage: Stage, *, weights: Mapping[str, float]) -> Stage:
    """What each source of the reward counts: a weighted sum of named rewards.

        R = sum_k w_k r_k

    weights: one for each source of the stage: "verifier" (the task's checker) and those added before this with a
    weight. A source with weight 0 is recorded and not rewarded; a response that one of them could not score has no
    reward, and is set aside.
    Watch: the spread of each reward:NAME; the one with the largest decides (gdpo normalises each by itself first).
    Fails: sources of different scale: a weight is not a share of what is learned.
    Deviations: the paper's rewards are of segments, these of responses.
    """
    return sources_changed(stage, lambda part: Reward(as_reward(part).sources, weights))


def rewarded(stage: Stage, name: str, source: Source, weight: float | None) -> Stage:
    """The stage with a source of reward under a name: alone, or with a weight beside those it has."""

    def changed(part: Collector) -> Reward:
        if weight is None:
            return Reward({name: source}, {name: 1.0})
        before = as_reward(part)
        return Reward({**before.sources, name: source}, {**before.weights, name: weight})

    return sources_changed(stage, changed)


def as_reward(part: Collector) -> Reward:
    return part if isinstance(part, Reward) else Reward({CHECKED: Checker(part.task)}, {CHECKED: 1.0})


def sources_changed(stage: Stage, change) -> Stage:
    if not any(isinstance(part, Verify | Reward) for part in stage.collect.everything):
        raise ConfigError(
            "this stage asks no checker, so that nothing could take its place",
            fix="a method that samples and is rewarded: grpo, rloo, ppo, online_dpo, raft, ...",
        )
    return stage.replace(collect=stage.collect.exchange(Verify | Reward, change))
