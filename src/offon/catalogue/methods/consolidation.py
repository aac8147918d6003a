"""What keeps earlier behaviour: anchors and replay that can be added to any stage, and models made of several."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from offon.catalogue.arguments import DataArg, ModelArg
from offon.catalogue.registry import method
from offon.collect import demonstrations, rollouts
from offon.collect.sources.dataset import REHEARSED, Beside, beside
from offon.errors import ConfigError
from offon.maths import merging
from offon.parts import Artefact, Learner, ParameterPenalty, Stage, divergence, one, policy_gradient
from offon.parts.credits import among
from offon.parts.models import SELF, SELF_START
from offon.parts.select import both, either

Count = Annotated[int, Ge(1)]
Share = Annotated[float, Gt(0), Le(1)]
Models = list[ModelArg]


@method(
    kind="modifier", family="consolidation", interface="teacher targets", usual_provenance="any",
    usual_role="consolidation", paper="2203.02155",
)  # fmt: skip
def kl_anchor(
    stage: Stage,
    *,
    to: ModelArg | None = None,
    coef: Annotated[float, Ge(0)] = 0.05,
    kind: Literal["reverse", "forward"] = "reverse",
) -> Stage:
    """Stay close to an earlier model: adds coef * KL over the whole vocabulary at every position that the stage trains.

        L' = L + coef * 1/D sum_t KL(pi || pi_anchor)      (reverse; forward swaps them)

    to: a model of the recipe ($sft); the learner when the stage began unless written. Exact per position, on any
    prefix, where the sampled estimators are right only on the learner's own tokens. At pi = pi_anchor the gradient is
    0.
    Watch: kl_anchor/reverse_nats, the distance so far, against success.
    Fails: a large coef forbids what the stage is for; an anchor that is wrong about the new task is held on to.
    Deviations: InstructGPT and GRPO estimate the KL from the sampled token (kl_reward, kl_loss).
    """
    trained = either(*(getattr(term, "on", "trainable") for term in stage.main.terms if term.unit != "parameters"))
    anchor = Artefact(to) if to else SELF_START
    return stage.adding(divergence(to=anchor, kind=kind, on=trained, coef=coef, name="kl_anchor"))


@method(
    kind="modifier", family="consolidation", interface="token targets", usual_provenance="off-policy",
    usual_role="consolidation", paper="2403.11435",
)  # fmt: skip
def replay(
    stage: Stage, *, data: DataArg, share: Annotated[float, Ge(0), Lt(1)] = 0.05, coef: float | None = None
) -> Stage:
    """Keep old skills by mixing in rows of an earlier task, in place of a share of the step's prompts.

        L' = L + coef * 1/D sum over replayed tokens of -log pi(y_t),     coef = share / (1 - share) unless written

    With that coef, L' is (1 - share) L + share L_replay up to a factor, the union of both data sets where rows are of a
    length. L reads none of the replayed rows: they have no reward, no pair, and no part in its denominators.
    1% to 10% are usual. data: the earlier task's demonstrations, or what a node made ($best): a model's own right
    answers are the mildest replay.
    Watch: loss/replay; the old task's held-out success. Fails: rows the model cannot produce teach instead of keeping.
    Deviations: InsCL (the reference) chooses how many rows of which task by a distance of instructions; unverified.
    """
    if any(isinstance(part, Beside) for part in stage.collect.everything):
        raise ConfigError("this stage has a replay already", fix="one replay, of data that hold the rows of both")
    learners = tuple(map(_without_replayed, stage.learners))
    stage = stage.replace(collect=beside(stage.collect, data, share), learners=learners)
    term = policy_gradient(
        advantage=one, on=f"tag:{REHEARSED}", coef=share / (1 - share) if coef is None else coef, name="replay"
    )
    return stage.adding(term)


def _without_replayed(learner: Learner) -> Learner:
    """The learner with terms and credit that leave replayed members alone."""

    def apart(term: Any) -> Any:
        return dataclasses.replace(term, on=both(term.on, f"!tag:{REHEARSED}")) if hasattr(term, "on") else term

    credit = learner.credit and among(learner.credit, f"!tag:{REHEARSED}")
    return dataclasses.replace(learner, terms=tuple(map(apart, learner.terms)), credit=credit)


@method(
    kind="make", family="consolidation", interface="parameters", usual_provenance="off-policy",
    usual_role="consolidation", paper="1612.00796",
)  # fmt: skip
def fisher(toolbox, task=None, data=None, *, kind: Literal["true", "empirical"] = "true", samples: Count = 1) -> None:
    """The diagonal Fisher information of the node's `init`, for `ewc`: how much each parameter matters to it.

        F_j = mean over responses y of (d log pi(y | x) / d theta_j)^2

    true: y sampled by the model itself, `samples` for each prompt of the task (or of `data`, if given); empirical: y
    are the rows of `data`. Squares of single responses' gradients: the square of a batch's gradient is close to 0
    wherever training converged. Saved as a model directory whose weights are F.
    Watch: the number of responses (`prompts`): a few hundred are usual. Fails: an empirical Fisher on data the model
    fits badly measures the misfit. A temperature other than 1 measures another model.
    Deviations: the paper does not say whose y are taken; both forms are here.
    """
    if kind == "empirical":
        groups = toolbox.collect(demonstrations(data), data)
    else:
        asked = None if data is None else [group.replace(members=()) for group in data]
        groups = toolbox.collect(rollouts(task, samples), asked)
    toolbox.record(groups, "scored")
    toolbox.save(toolbox.squared_gradients(groups), like=SELF, measure=False)


@method(
    kind="modifier", family="consolidation", interface="parameters", usual_provenance="any",
    usual_role="consolidation", paper="1612.00796",
)  # fmt: skip
def ewc(stage: Stage, *, fisher: ModelArg, to: ModelArg | None = None, coef: Annotated[float, Ge(0)] = 1.0) -> Stage:
    """Elastic weight consolidation: hold each parameter where it was, as strongly as it mattered.

        L' = L + coef / 2 sum_j F_j (theta_j - theta*_j)^2

    fisher: a node of method `fisher`. to: theta*, the learner when the stage began unless written. At theta = theta*
    value and gradient are 0; with F = 1 it is L2 to theta*. All weights have to be trained: no LoRA.
    coef depends on the scale of F, a mean of squared gradients of whole responses; unverified: no value travels.
    Watch: loss/ewc. Fails: a diagonal F ignores what parameters do together; kl_anchor holds behaviour instead.
    Deviations: the paper adds a penalty for each earlier task; name ewc once for each.
    """
    anchor = Artefact(to) if to else SELF_START
    return stage.adding(ParameterPenalty(to=anchor, importance=Artefact(fisher), coef=coef, name="ewc"))


@method(
    kind="make", family="consolidation", interface="parameters", usual_provenance="any",
    usual_role="consolidation", paper="2203.05482",
)  # fmt: skip
def merge_linear(toolbox, *, models: Models, weights: list[float] | None = None) -> None:
    """A soup: the weighted mean of several models' weights.

        theta = sum_i w_i theta_i / sum_i w_i           (w_i = 1 unless written)

    Float32; adapters are merged into their base first (W + alpha/r BA: a mean of A and of B is another matrix).
    Watch: held-out success of the merge, which is measured like a stage's result. Fails: models without a common
    ancestor, or far from it, do not lie in one basin.
    Deviations: none; the paper's greedy soup is a choice of models made by you.
    """
    toolbox.save(merging.linear([toolbox.weights(Artefact(m)) for m in models], weights), like=Artefact(models[0]))


@method(
    kind="make", family="consolidation", interface="parameters", usual_provenance="any",
    usual_role="consolidation", paper="2406.16768",
)  # fmt: skip
def merge_slerp(toolbox, *, models: tuple[ModelArg, ModelArg], t: Annotated[float, Ge(0), Le(1)] = 0.5) -> None:
    """Spherical interpolation between two models, tensor by tensor.

        theta = [sin((1 - t) w) theta_1 + sin(t w) theta_2] / sin w,   cos w = <theta_1, theta_2> / |theta_1| |theta_2|

    t = 0 and t = 1 are the models. Lengths are not normalised; tensors with |cos w| > 0.9995 are interpolated linearly,
    as in mergekit. Models fine-tuned from one base are that close almost everywhere: then this is merge_linear.
    Watch and fails: see merge_linear. Deviations: WARP (the reference) interpolates task vectors, not weights.
    """
    first, second = models
    merged = merging.slerp(toolbox.weights(Artefact(first)), toolbox.weights(Artefact(second)), t)
    toolbox.save(merged, like=Artefact(first))


@method(
    kind="make", family="consolidation", interface="parameters", usual_provenance="any",
    usual_role="consolidation", paper="2212.04089",
)  # fmt: skip
def task_arithmetic(toolbox, *, models: Models, scale: float = 0.4) -> None:
    """Add what several fine-tunings changed to their common base, the node's `init`.

        theta = theta_0 + scale sum_i (theta_i - theta_0)

    scale 1/n is the soup; 0.3 to 0.4 served several tasks in the paper (unverified), where it is tuned on held-out
    data; a negative scale unlearns.
    Watch: held-out success per task. Fails: tasks that pull one weight both ways cancel: see ties.
    Deviations: none.
    """
    tuned = [toolbox.weights(Artefact(model)) for model in models]
    toolbox.save(merging.task_arithmetic(toolbox.weights(SELF), tuned, scale), like=SELF)


@method(
    kind="make", family="consolidation", interface="parameters", usual_provenance="any",
    usual_role="consolidation", paper="2306.01708",
)  # fmt: skip
def ties(toolbox, *, models: Models, density: Share = 0.2, scale: float = 1.0) -> None:
    """Merge task vectors that agree: trim, elect a sign, average those that have it.

        tau_i = theta_i - theta_0, the largest `density` of all its entries;   s = sign(sum_i tau_i)
        theta = theta_0 + scale mean over {i: sign(tau_i) = s} of tau_i                     (per parameter)

    density 0.2 and scale 1 are the paper's. theta_0 is the node's `init`. At density 1, signs agreeing, it is the mean.
    Watch: held-out success per task. Fails: a task that changed little is trimmed away beside one that changed much.
    Deviations: where the sum is 0 nothing is elected and nothing moves; mergekit counts it as positive.
    """
    tuned = [toolbox.weights(Artefact(model)) for model in models]
    toolbox.save(merging.ties(toolbox.weights(SELF), tuned, density, scale), like=SELF)


@method(
    kind="make", family="consolidation", interface="parameters", usual_provenance="any",
    usual_role="consolidation", paper="2311.03099",
)  # fmt: skip
def dare(
    toolbox,
    *,
    models: Models,
    drop: Annotated[float, Ge(0), Lt(1)] = 0.9,
    scale: float = 1.0,
    rescale: Literal["expected", "realised"] = "expected",
) -> None:
    """Thin the task vectors at random, grow what stays, and add them to the base, the node's `init`.

        theta = theta_0 + scale sum_i m_i (theta_i - theta_0) / (1 - drop),   m_i ~ Bernoulli(1 - drop) per entry

    rescale="realised" divides by the share of |tau|_1 that stayed instead, tensor by tensor, as mergekit does.
    drop 0.9 is within the paper's range; drop 0 is task_arithmetic. The masks are a function of the node's seed.
    Watch: held-out success over a few seeds. Fails: large task vectors (far from the base) do not survive thinning.
    Deviations: mergekit rescales by what was realised (rescale); the paper merges with ties as well as by sums.
    """
    tuned = [toolbox.weights(Artefact(model)) for model in models]
    merged = merging.dare(toolbox.weights(SELF), tuned, drop, scale, toolbox.seed, rescale)
    toolbox.save(merged, like=SELF)
