"""What a recipe may say: the keys of each section, what they accept, and the library's defaults with their reasons."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

if TYPE_CHECKING:
    from offon.parts.stage import Updates
    from offon.types import Sampling

Count = Annotated[int, Ge(1)]
Seed = Annotated[int, Ge(0)]
Temperature = Annotated[float, Ge(0), Le(100)]
Share = Annotated[float, Gt(0), Le(1)]

RECIPE = ("model", "task", "seed", "probe", "pipeline")

LEARNING_RATE = 1e-5  # small enough to keep what the model can do; rows recommend their paper's
LORA_FACTOR = 10  # an adapter wants about ten times the rate of full fine-tuning ("LoRA without regret", 2025)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on these modules. `lora: true` takes the defaults. There is no dropout: a log-prob has to be a
    function of the weights."""

    r: Count = 16
    alpha: Annotated[float, Gt(0)] = 32.0
    target_modules: str | tuple[str, ...] = "all-linear"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys every node with a method takes.

    init, teacher, data   a path, a Hub id, testbed:NAME, or $node
    task                  what to sample, verify and probe: the recipe's unless written
    max_length            longest prompt + response of a data row, in tokens; null: what the model can read
    max_tokens            longest sampled response, in tokens
    temperature           1 with top_p 1 and top_k 0 samples the policy itself: ratios need that
    micro_batch_tokens    tokens computed at once: memory and speed, never the result
    supervise             which assistant turns of a conversation are trained
    columns               {name offon reads: name in the data}
    lossy                 allow: rows of which the chat template leaves something out are counted, not refused
    unscored              share of responses that may stay without a number (checker raised, hung, said nothing)
    dropped               the largest share of rows that may be left out (too long, equal pairs)
    """

    init: str | None = None
    teacher: str | None = None
    data: Any = None
    task: Any = None
    max_length: Count | None = None
    max_tokens: Count = 512
    temperature: Temperature = 1.0
    top_p: Share = 1.0
    top_k: Annotated[int, Ge(0)] = 0
    micro_batch_tokens: Count = 16_384
    seed: Seed = 0
    supervise: Literal["all", "last"] = "all"
    columns: Mapping[str, str] | None = None
    lossy: Literal["refuse", "allow"] = "refuse"
    unscored: Annotated[float, Ge(0), Le(1)] = 0.1  # beyond it what is learned is what the checker happens to answer
    dropped: Annotated[float, Ge(0), Le(1)] = 0.05


@dataclass(frozen=True, kw_only=True)
class NodeSettings(Settings):
    """The keys a training node takes besides.

    steps                 optimizer steps; buffers are derived
    prompts_per_step      groups per optimizer step       prompts_per_buffer  groups collected at once (null: one step)
    epochs                passes over a buffer            max_age  most learner updates between sampling and training
    save_steps            optimizer steps between checkpoints; the last `save_total_limit` stay (null: all)
    heldout               of a reward model's data, the share of prompts never trained on, on which it is measured; or
                          a second file. Rows that train reward models recommend a share
    contamination         the largest share of training prompts that a probe may hold out; null: any, with a warning
    gradient_checkpointing  layers are computed again in the backward pass: less memory, about a third more time
    on_divergence         of a loss, gradient norm or reward far from its past: stop with exit code 5, or warn and go on
    """

    init: str = field()
    steps: Count
    learning_rate: Share = LEARNING_RATE
    weight_decay: Annotated[float, Ge(0), Le(1)] = 0.0  # post-training starts from weights worth keeping
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    warmup_steps: Annotated[int, Ge(0)] = 0
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    prompts_per_step: Count = 32
    prompts_per_buffer: Count | None = None
    epochs: Count = 1
    max_age: Annotated[int, Ge(0)] | None = None
    lora: Lora | None = None
    gradient_checkpointing: bool = False
    save_steps: Count = 50
    save_total_limit: Count | None = 2  # the newest and, should it turn out damaged, the one before
    heldout: Annotated[float, Ge(0), Lt(1)] | str | None = None
    on_divergence: Literal["stop", "warn"] = "stop"
    contamination: Annotated[float, Ge(0), Le(1)] | None = None


@dataclass(frozen=True, kw_only=True)
class MakeSettings(Settings):
    """The keys a node whose method makes data or weights takes besides.

    prompts               of the task's training prompts, how many; null: all
    prompts_per_buffer    groups worked on at once, and kept: what a stop can lose
    """

    prompts: Count | None = None
    prompts_per_buffer: Count = 64


SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "unscored")  # mean something where a stage samples
READING = ("max_length", "supervise", "columns", "lossy", "dropped")  # mean something where a stage reads data


@dataclass(frozen=True, kw_only=True)
class Probe:
    """How each model is measured before and after each stage, on held-out prompts.

    prompts, samples  per task               k  the rollout budget that "reachable" refers to
    tasks             name -> task; every task of the recipe unless written
    protected         names of probe tasks that a stage should leave as they are
    shifted           {probe task: {name: task}}: other versions of it, sampled too, to see whether a gain carries over
    scaffold          a view of the items (hint), sampled too where an item has it
    """

    prompts: Count = 64
    samples: Count = 128
    k: Count = 32
    tasks: Any = None
    protected: tuple[str, ...] = ()
    shifted: Any = None  # nobody else can say what another version of a task is
    scaffold: str | None = None  # it costs as many responses again
    temperature: Temperature = 1.0
    max_tokens: Count = 512


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A node that lets a result go on only if its limits are met.

    gate     the candidate: a model, a reward model or data
    init     what it is compared with, and what `rollback` hands on; what the candidate started from unless written
    limits   metric -> Limit, or a list of them; `handoff`: what a stage should leave behind
    on_fail  stop ends the run there, warn lets the candidate go on with a warning, rollback hands on init
    """

    gate: str = field()
    init: str | None = None
    limits: Any = field()
    on_fail: Literal["stop", "warn", "rollback"] = "stop"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Bounds of one metric.

    min, max  judged on the careful end of the metric's 95% interval, its low end for min and its high end for max
    tasks     the probe tasks it has to hold on, each by itself; all of them unless written
    at        interval: as said; estimate: on the estimate, whatever its interval
    """

    min: float | None = None
    max: float | None = None
    tasks: tuple[str, ...] | None = None
    at: Literal["interval", "estimate"] = "interval"


def keys_of(section: type) -> dict[str, Any]:
    """name -> annotation"""
    hints = typing.get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def defaults_of(section: type) -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(section) if f.default is not dataclasses.MISSING}


def updates_of(settings: NodeSettings) -> Updates:
    """The batch words of a node, together."""
    from offon.parts.stage import Updates  # a misspelt key is found without it

    return Updates(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Updates)})


def sampling_of(settings: Any) -> Sampling:
    """The sampler that a node's or a probe's keys describe."""
    from offon.types import Sampling

    names = {field.name for field in dataclasses.fields(settings)} & {f.name for f in dataclasses.fields(Sampling)}
    return Sampling(**{name: getattr(settings, name) for name in names})
