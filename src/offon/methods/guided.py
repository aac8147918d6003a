"""Guidance that fades: hints."""

from __future__ import annotations

from typing import Literal

from offon.collect import Hint, Rollouts
from offon.errors import ConfigError
from offon.methods.registry import method
from offon.parts import Fade, Stage


@method(
    kind="modifier", family="guided", interface="reward", usual_provenance="on-policy", usual_role="expansion",
    paper="2601.18779",
)  # fmt: skip
def hints(stage: Stage, *, view: str = "hint", start: float = 1.0, end: float = 0.0, over: float = 0.7,
          shape: Literal["linear", "cosine"] = "linear", drop: bool = False) -> Stage:  # fmt: skip
    """Sample a fading share of the groups under a prompt with a hint.

        share(step) = start -> end over the first `over` of the stage, then end

    drop=False: trained under the hinted prompt they were sampled under; the hint is condition, never target, and the
    ratio compares like with like. drop=True: trained under the plain prompt with the true ratio
    pi(y | x) / pi_sampled(y | x, hint); reported as off-policy by conditioning.
    """
    if not any(isinstance(part, Rollouts) for part in stage.collect.everything):
        raise ConfigError("hints need rollouts to guide, and this stage samples none", fix="use it with grpo or raft")
    hint = Hint(view=view, amount=Fade(start, end, share=over, shape=shape), drop=drop)
    return stage.replace(collect=stage.collect.replace(Rollouts, guide=hint))
