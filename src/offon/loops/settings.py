"""The fields common to all stages, with the library's defaults and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from offon.models.model import LoraSpec
from offon.parts.stage import Updates
from offon.types import Sampling


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a stage is run, whatever its method.

    steps               optimizer steps; buffers are derived
    learning_rate       1e-5, or 1e-4 with LoRA, unless the row recommends its paper's
    weight_decay        0: post-training starts from weights worth keeping
    max_grad_norm       1.0
    micro_batch_tokens  tokens computed at once; changes memory and speed, never the gradient
    save_steps          optimizer steps between checkpoints
    sampling            the learner's rollouts; full softmax unless a truncation is written
    """

    steps: int = 100
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    warmup_steps: int = 0
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    updates: Updates = field(default_factory=Updates)
    micro_batch_tokens: int = 16_384
    sampling: Sampling = field(default_factory=Sampling)
    lora: LoraSpec | None = None
    seed: int = 0
    save_steps: int = 50
    save_total_limit: int | None = 2
