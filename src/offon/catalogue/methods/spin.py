"""Self-play against one's former self: preferences without anyone who prefers."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from offon.catalogue.registry import method
from offon.collect import demonstrations, rollouts
from offon.collect.shape.pairs import paired
from offon.parts.loop import LAST, Loop, Ref

Count = Annotated[int, Ge(1)]
WORDS = {"family": "online preference", "interface": "token targets", "usual_provenance": "mixed"}


@method(kind="make", **WORDS, usual_role="reshaping", paper="2401.01335")
def spin_pairs(toolbox, data, *, samples: Count = 1) -> None:
    """SPIN's pairs: each demonstration is preferred to what the node's `init` answers to its prompt.

        L = 1/P sum -log sigmoid(beta [(S_w - S_w^ref) - (S_l - S_l^ref)])       (dpo on what this makes)

    S is the sum of log-probs of a response, w the demonstration, l the sample. An answer equal to the demonstration
    makes no pair, and one that has no end (max_tokens) is left out.
    Watch: prompts left without a pair: the model says what the data say. Fails: see `spin`.
    Deviations: see `spin`.
    """
    toolbox.write(toolbox.collect(demonstrations(data) | rollouts(None, samples) | paired(), data))


@method(kind="loop", **WORDS, usual_role="reshaping", paper="2401.01335")
def spin(
    data, *, iterations: Count = 3, beta: Annotated[float, Gt(0)] = 0.1, samples: Count = 1, steps: Count = 100
) -> Loop:
    """Self-play fine-tuning: learn to tell the demonstrations from one's own answers; again with the answers of now.

        L_k = 1/P sum -log sigmoid(beta [log pi(y_w)/pi_{k-1}(y_w) - log pi(y_l)/pi_{k-1}(y_l)])
        y_w from the data, y_l ~ pi_{k-1}, which is both where iteration k starts and its reference

    Demonstrations are all it needs. If the data are the model's own distribution the expected gradient is 0: w and l
    are then alike. The loss is dpo's; the game's opponent is the last iteration.
    beta 0.1 (the authors raise it to 5 in their last iteration; unverified).
    Watch: rewards/accuracies near 1 early in an iteration: samples are told apart by form, not by content.
    Fails: demonstrations that are worse than the model's own answers pull it down.
    Deviations: the authors' code offers a hinge instead of the logistic link; here that is a method of your own.
    """
    return Loop(
        {
            "pairs": {"method": "spin_pairs", "init": LAST, "data": data, "samples": samples},
            "model": {"method": "dpo", "init": LAST, "data": Ref("pairs"), "beta": beta, "steps": steps},
        },
        iterations,
    )
