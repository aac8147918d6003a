"""From hidden states to logits: find a model's language-model head by watching it.

Names are not to be trusted: models multiply or divide logits, cap them, scale hidden states before the head, or feed
the head from a module other than their `base_model`. So the head is found by observation and verified by replay: the
model's own code behind its body is run on hidden states of our choice.

Legend: M targets, D width, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from offon.errors import ModelError, NumericsError
from offon.models.chunked import Affine
from offon.models.loading import number_layer
from offon.models.packed.forward import hidden_of
from offon.models.tokens import Spoken


@dataclass(frozen=True, eq=False)
class Head:
    """How a causal LM turns the hidden states of its body into logits.

        logits = cap(scale * lm_head(pre * hidden)),    cap(z) = softcap * tanh(z / softcap)

    body: the module, by name, whose output is `hidden`. vocabulary: V. replayed: the body's output object, kept where
    that formula does not fit; logits then come from the model's own code, which is exact and slower.
    """

    body: str
    vocabulary: int
    pre: float = 1.0
    scale: float = 1.0
    softcap: float | None = None
    replayed: Any = None

    def logits(self, core: nn.Module, hidden: Tensor) -> Tensor:
        """Logits [M, V] of hidden states [M, D], in float32 or wider. `core` is the transformers causal LM."""
        if self.replayed is not None:
            z = _replay(core, self.body, self.replayed, hidden[None])[0]
            return z.to(torch.promote_types(z.dtype, torch.float32))
        lm_head = core.get_output_embeddings()
        z = lm_head((hidden if self.pre == 1 else hidden * self.pre).to(lm_head.weight.dtype))
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        return _shape(z, self.scale, self.softcap)

    def affine(self, core: nn.Module, spoken: Spoken) -> Affine | None:
        """The head as one matrix of the ids that stand for a token; None where it is more than that (a replayed head,
        an adapter on it, hooks, hidden states that are scaled first)."""
        lm_head = core.get_output_embeddings()
        hooked = type(lm_head) is not nn.Linear or lm_head._forward_hooks or lm_head._forward_pre_hooks
        if self.replayed is not None or self.pre != 1 or hooked:
            return None

        def shape(z: Tensor) -> Tensor:
            return spoken.only(_shape(z, 1.0, self.softcap))

        shaped = None if self.softcap is None and not spoken.holes else shape
        return Affine(lm_head.weight, lm_head.bias, self.scale, spoken.size, shaped)


@dataclass(frozen=True)
class Numbers:
    """A head that gives one number per hidden state: number = linear(hidden), [M, D] -> [M].

    body, linear: modules of a transformers classifier with one label, by name. vocabulary: token ids it reads.
    """

    body: str
    linear: str
    vocabulary: int

    @staticmethod
    def of(core: nn.Module) -> Numbers:
        return Numbers(core.base_model_prefix, number_layer(core), core.config.get_text_config().vocab_size)

    def numbers(self, core: nn.Module, hidden: Tensor) -> Tensor:
        number = core.get_submodule(self.linear)(hidden)[:, 0]
        return number.to(torch.promote_types(number.dtype, torch.float32))


def _shape(z: Tensor, scale: float, softcap: float | None) -> Tensor:
    if scale != 1:
        z = z * scale
    return z if softcap is None else torch.tanh(z / softcap) * softcap


# Logit magnitudes at which a candidate must match. The large one is essential: at the size of freshly initialised
# logits a cap of 30 changes them by two thousandths.
_MAGNITUDES = (1.0, 20.0, 300.0)
_TOLERANCE = 2e-6  # relative, float32


@torch.no_grad()
def find_head(core: nn.Module) -> Head:
    """Find and verify how `core`, a transformers causal LM, gets from hidden states to logits.

    1. One forward of a few tokens: the body is the outermost module that reads token ids, finished before the head and
       has an output proportional to the head's input; where none has (the head has layers of its own), the outermost
       that reads token ids.
    2. Replay: the body returns hidden states of our choice and a small float32 stand-in takes the head's place, so
       that scale and cap are read off without rounding whatever the model's dtype, and without running a layer.
    3. The result is compared with the model's own logits. Where no formula fits, the head is replayed for good.
    """
    name, output, logits = _observe(core)
    body = Head(name, logits.shape[-1])
    hidden = hidden_of(output)[0]
    fitted = _fit(core, body, output)
    precision = max(_TOLERANCE, 4 * torch.finfo(core.get_output_embeddings().weight.dtype).eps)
    if fitted is not None and _difference(fitted.logits(core, hidden), logits) < precision:
        return fitted
    opaque = Head(name, logits.shape[-1], replayed=output)
    if (gap := _difference(opaque.logits(core, hidden), logits)) > precision:
        raise ModelError(
            f"the logits of {type(core).__name__} are not a function of the output of its module {name!r}",
            why=f"replaying its code on the same hidden states gives logits that differ by {gap:.2g} (relative)",
        )
    return opaque


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest logit; infinite for another shape."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))


def _observe(core: nn.Module) -> tuple[str, Any, Tensor]:
    """(name of the body, its output object, logits [m, V]) of one small forward."""
    head = core.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(core).__name__} has no output embeddings", why="a causal LM with an LM head is needed")
    finished: list[tuple[str, Any]] = []
    entered: list[tuple[int, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: finished.append((name, output)))
        for name, module in core.named_modules()
        if module is not core
    ]
    handles.append(head.register_forward_pre_hook(lambda _, args: entered.append((len(finished), args[0]))))
    device = head.weight.device
    ids = torch.arange(7, device=device) % core.config.get_text_config().vocab_size
    try:
        logits = core(input_ids=ids[None], use_cache=False).logits[0].float()
    finally:
        for handle in handles:
            handle.remove()
    if not entered:
        raise ModelError(f"{type(core).__name__} computes its logits without calling its output embeddings")
    n_before, fed = entered[-1]
    candidates = []
    for name, output in reversed(finished[:n_before]):
        if not isinstance(output, Tensor | tuple) and getattr(output, "last_hidden_state", None) is None:
            continue
        hidden = hidden_of(output)
        reads_ids = "input_ids" in inspect.signature(core.get_submodule(name).forward).parameters
        if reads_ids and isinstance(hidden, Tensor) and hidden.shape[:-1] == fed.shape[:-1]:
            candidates.append((name, output))
            if hidden.shape != fed.shape:
                continue
            eps = max(torch.finfo(hidden.dtype).eps, torch.finfo(fed.dtype).eps)
            close = 4 * eps * fed.abs().max()
            if (fed - _slope(hidden, fed) * hidden).abs().max() <= close:
                return name, output, logits
    if candidates and all(weight.isfinite().all() for weight in core.parameters()):
        return *candidates[0], logits
    if bad := [name for name, weight in core.named_parameters() if not weight.isfinite().all()]:
        raise NumericsError(f"{len(bad)} of the model's weights are not finite", where=bad[0], fix="another checkpoint")
    raise ModelError(f"no module of {type(core).__name__} returns what its LM head is fed with")


def _slope(x: Tensor, y: Tensor) -> float:
    """The c that brings c x closest to y."""
    x, y = x.double(), y.double()
    c = float((x * y).sum() / (x * x).sum())
    return 1.0 if abs(c - 1) < 1e-6 else c


def _fit(core: nn.Module, body: Head, output: Any) -> Head | None:
    """pre, scale and softcap, or None where they do not describe the model within tolerance."""
    width = hidden_of(output).shape[-1]
    if core.get_output_embeddings().weight.shape[1] != width:
        return None
    generator = torch.Generator().manual_seed(0)
    stand_in = nn.Linear(width, 16, bias=False, dtype=torch.float32)
    stand_in.weight.copy_(torch.randn(16, width, generator=generator))
    direction = torch.randn(1, 5, width, generator=generator)
    device = hidden_of(output).device
    stand_in, direction = stand_in.to(device), direction.to(device)
    fed = []
    stand_in.register_forward_pre_hook(lambda _, args: fed.append(args[0]))

    with _head_replaced(core, stand_in):
        _replay(core, body.body, output, direction)
        if fed[-1].shape != direction.shape:
            return None
        pre = _slope(direction, fed[-1])
        unit = direction / stand_in(direction * pre).abs().max()

        def response(magnitude: float) -> tuple[Tensor, Tensor]:
            """(head output, logits) where the largest head output is `magnitude`."""
            hidden = unit * magnitude
            z = _replay(core, body.body, output, hidden)
            return stand_in(hidden * pre), z

        head_out, z = response(1e4)
        scale, softcap = _slope(head_out, z), None
        if _difference(head_out * scale, z) > _TOLERANCE:
            softcap = float(z.abs().max())  # saturated
            scale = _slope(*response(1e-3))
        for magnitude in _MAGNITUDES:
            head_out, z = response(magnitude)
            if _difference(_shape(head_out, scale, softcap), z) > _TOLERANCE:
                return None
    return Head(body.body, body.vocabulary, pre, scale, softcap)


def _replay(core: nn.Module, body_name: str, output: Any, hidden: Tensor) -> Tensor:
    """The model's own logits [1, m, V] for hidden states [1, m, D] in place of its body's output."""
    body = core.get_submodule(body_name)
    if isinstance(output, Tensor):
        stub = hidden
    elif isinstance(output, tuple):
        stub = (hidden, *output[1:])
    else:
        stub = copy.copy(output)
        stub["last_hidden_state"] = hidden
    ids = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    overridden = body.__dict__.get("forward")
    body.forward = lambda *_, **__: stub
    try:
        return core(input_ids=ids, use_cache=False).logits
    finally:
        if overridden is None:
            del body.forward
        else:
            body.forward = overridden


@contextmanager
def _head_replaced(core: nn.Module, stand_in: nn.Module) -> Iterator[None]:
    head = core.get_output_embeddings()
    parent_name, _, leaf = next(name for name, module in core.named_modules() if module is head).rpartition(".")
    parent = core.get_submodule(parent_name)
    setattr(parent, leaf, stand_in)
    try:
        yield
    finally:
        setattr(parent, leaf, head)
