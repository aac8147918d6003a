"""Functions of logits over a large vocabulary, chunk by chunk: [M, V] logits never exist, nor a second weight gradient.

A head of V = 150,000 rows over M = 2,000 targets would make 1.2 GB of logits, and as much again for every operation on
them. Here `chunk_elements` logits exist at a time, and in the backward pass each chunk is computed again:

    forward    z = W h               out = reduce(z)
    backward   z = W h again         dz = pullback of reduce,    dh = dz W,    dW += dz' h in place

Four matrix products in place of the three of whole logits, and little of their traffic. Any reduction is taken over
chunks of targets. Log-probs, which training is mostly made of, go over blocks of the vocabulary instead, since log Z
adds up over blocks: each row of dW is then written once. Where W is frozen, dh comes out of the forward pass, by the
running sums of softmax-weighted rows that flash attention uses: two products.

Legend: M targets, m targets of a chunk, D width, V vocabulary, B ids of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from offon.maths.vocabulary import token_logp

CHUNK_ELEMENTS = 2**24  # 64 MiB of float32 logits, on a CPU
CHUNK_ELEMENTS_CUDA = 2**27  # 512 MiB: fewer passes over the weight and its gradient
MOST_ROWS = 2048  # targets that blocks of the vocabulary are wide for: squarer products, which are faster


@dataclass(frozen=True, eq=False)
class Affine:
    """A head that is one matrix: logits = shape(scale * (W h + b)) of the first `size` rows of W.

    shape: what else becomes of them, element by element (a cap); None: nothing.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    size: int | None = None
    shape: Callable[[Tensor], Tensor] | None = None

    @property
    def rows(self) -> int:
        return len(self.weight) if self.size is None else min(self.size, len(self.weight))

    def __call__(self, hidden: Tensor) -> Tensor:
        z = _raw(hidden, self.weight[: self.rows], None if self.bias is None else self.bias[: self.rows])
        z = z * self.scale if self.scale != 1 else z
        return z if self.shape is None else self.shape(z)


def over_vocabulary(
    logits: Callable[[Tensor], Tensor],
    vocabulary: int,
    hidden: Tensor,
    reduce: Callable,
    *aligned: Tensor,
    temperature: Tensor | None = None,
    chunk_elements: int | None = None,
) -> Any:
    """reduce(logits / temperature, *aligned) over chunks of targets, so that [M, V] logits never exist.

    logits maps [m, D] to [m, V]; an `Affine` or a linear layer is fast. `aligned` tensors have M rows, as has
    temperature, and no gradient reaches either. reduce returns a tensor or a tuple of tensors with m rows each, and
    closes over nothing that is trained. With more than one chunk, each is computed again in the backward pass instead
    of keeping its logits: at most `chunk_elements` of them are alive at a time (times what reduce needs).
    """
    if chunk_elements is None:
        chunk_elements = CHUNK_ELEMENTS_CUDA if hidden.is_cuda else CHUNK_ELEMENTS
    rows = max(1, chunk_elements // vocabulary)
    if type(logits) is nn.Linear:
        logits = Affine(logits.weight, logits.bias)
    if len(hidden) <= rows:
        return _reduced(logits(hidden), reduce, temperature, aligned)
    if isinstance(logits, Affine) and reduce is token_logp and logits.shape is None:
        part = (logits, aligned[0], temperature, chunk_elements)
        return _LogP.apply(*part, hidden, logits.weight, logits.bias)
    if isinstance(logits, Affine) and not any(tensor.requires_grad for tensor in aligned):
        outputs = _Chunked.apply(logits, reduce, rows, hidden, logits.weight, logits.bias, temperature, *aligned)
        return outputs if len(outputs) > 1 else outputs[0]

    def one_chunk(hidden: Tensor, temperature: Tensor | None, *aligned: Tensor):
        return _reduced(logits(hidden), reduce, temperature, aligned)

    outputs = []
    for at in range(0, len(hidden), rows):
        part = [None if t is None else t[at : at + rows] for t in (hidden, temperature, *aligned)]
        outputs.append(checkpoint(one_chunk, *part, use_reentrant=False, preserve_rng_state=False))
    if isinstance(outputs[0], tuple):
        return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
    return torch.cat(outputs)


def _reduced(z: Tensor, reduce: Callable, temperature: Tensor | None, aligned: tuple[Tensor, ...]) -> Any:
    return reduce(z if temperature is None else z / temperature[:, None], *aligned)


def _raw(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W h + b in float32 or wider."""
    z = linear(hidden.to(weight.dtype), weight, bias)
    return z.to(torch.promote_types(z.dtype, torch.float32))


class _LogP(torch.autograd.Function):
    """log p(target) [M] of an `Affine` head without a shape, over blocks of the vocabulary."""

    @staticmethod
    def forward(ctx, head, target, temperature, chunk_elements, hidden, weight, bias):
        of_hidden, of_weight, of_bias = ctx.needs_input_grad[4:]
        ctx.head, ctx.elements, ctx.frozen = head, chunk_elements, of_hidden and not (of_weight or of_bias)
        factor_M = _factor(head.scale, temperature, len(hidden), hidden)
        logp_M, total_M = torch.zeros_like(factor_M), torch.empty_like(factor_M)
        direction_MD = torch.empty_like(hidden) if ctx.frozen else None
        for rows in _slices(len(hidden), MOST_ROWS):
            h, factor, y = hidden[rows], factor_M[rows], target[rows]
            largest, weights = factor.new_full((len(h),), -torch.inf), torch.zeros_like(factor)
            mean = torch.zeros_like(h, dtype=factor.dtype) if ctx.frozen else None
            for block in _slices(head.rows, max(1, chunk_elements // len(h))):
                z = _raw(h, weight[block], None if bias is None else bias[block]).mul_(factor[:, None])
                place, inside = _place(y, block)
                logp_M[rows] += z.gather(1, place)[:, 0] * inside
                highest = torch.maximum(largest, z.amax(-1))
                shrunk = (largest - highest).exp()
                z.sub_(highest[:, None]).exp_()
                weights, largest = weights * shrunk + z.sum(-1), highest
                if mean is not None:
                    mean.mul_(shrunk[:, None]).add_(z.to(weight.dtype) @ weight[block])
            total_M[rows] = largest + weights.log()
            if mean is not None:
                direction_MD[rows] = factor[:, None] * (weight[y] - mean / weights[:, None])
        logp_M -= total_M
        ctx.save_for_backward(direction_MD if ctx.frozen else hidden, weight, bias, target, factor_M, total_M)
        return logp_M

    @staticmethod
    @once_differentiable
    def backward(ctx, given):
        hidden, weight, bias, target, factor_M, total_M = ctx.saved_tensors
        head = ctx.head
        if ctx.frozen:
            return (None,) * 4 + (hidden * given[:, None].to(hidden.dtype), None, None)
        d_hidden, d_weight, d_bias = _gradients(ctx.needs_input_grad[4:], hidden, weight, bias, factor_M.dtype)
        for rows in _slices(len(hidden), MOST_ROWS):
            h, factor, y, total, g = hidden[rows], factor_M[rows], target[rows], total_M[rows], given[rows]
            g = (g * factor)[:, None]
            for block in _slices(head.rows, max(1, ctx.elements // len(h))):
                z = _raw(h, weight[block], None if bias is None else bias[block])
                dz = z.mul_(factor[:, None]).sub_(total[:, None]).exp_().mul_(-g)
                place, inside = _place(y, block)
                dz.scatter_add_(1, place, g * inside[:, None])
                _add(dz, h, weight, block, rows, d_hidden, d_weight, d_bias)
        return (None,) * 4 + _as_stored(d_hidden, hidden, d_weight, weight, d_bias)


class _Chunked(torch.autograd.Function):
    """Any reduction of an `Affine` head, over chunks of targets. Its outputs are always a tuple."""

    @staticmethod
    def forward(ctx, head, reduce, rows, hidden, weight, bias, temperature, *aligned):
        ctx.head, ctx.reduce, ctx.rows = head, reduce, rows
        ctx.set_materialize_grads(False)
        outputs = []
        for at in _slices(len(hidden), rows):
            t = None if temperature is None else temperature[at]
            out = _reduced(head(hidden[at]), reduce, t, tuple(one[at] for one in aligned))
            outputs.append(out if isinstance(out, tuple) else (out,))
        ctx.save_for_backward(hidden, weight, bias, temperature, *aligned)
        joined = tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
        ctx.mark_non_differentiable(*(out for out in joined if not out.is_floating_point()))
        return joined

    @staticmethod
    @once_differentiable
    def backward(ctx, *given):
        hidden, weight, bias, temperature, *aligned = ctx.saved_tensors
        if all(cotangent is None for cotangent in given):
            return (None,) * (7 + len(aligned))
        wide = torch.promote_types(weight.dtype, torch.float32)
        d_hidden, d_weight, d_bias = _gradients(ctx.needs_input_grad[3:6], hidden, weight, bias, wide)
        ids = slice(0, ctx.head.rows)
        for at in _slices(len(hidden), ctx.rows):
            z = _raw(hidden[at], weight[ids], None if bias is None else bias[ids])
            t = None if temperature is None else temperature[at]
            cotangents = [None if one is None else one[at] for one in given]
            dz = _pullback(z, ctx.head, ctx.reduce, t, tuple(one[at] for one in aligned), cotangents)
            _add(dz, hidden[at], weight, ids, at, d_hidden, d_weight, d_bias)
        gradients = _as_stored(d_hidden, hidden, d_weight, weight, d_bias)
        return (None, None, None, *gradients, *(None,) * (1 + len(aligned)))


def _slices(length: int, most: int) -> Iterator[slice]:
    for at in range(0, length, most):
        yield slice(at, min(length, at + most))


def _place(target: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """[m, 1] where each target stands in a block of ids, and [m] whether it does."""
    inside = (target >= block.start) & (target < block.stop)
    return (target - block.start).clamp(0, block.stop - block.start - 1)[:, None], inside


def _factor(scale: float, temperature: Tensor | None, length: int, hidden: Tensor) -> Tensor:
    """scale / temperature of each row, in float32 or wider."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    factor = torch.full((length,), scale, dtype=dtype, device=hidden.device)
    return factor if temperature is None else factor / temperature


def _gradients(
    needed: Sequence[bool], hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> list[Tensor | None]:
    """Zeros to add to, for what needs a gradient."""
    of = zip(needed, (hidden, weight, bias), strict=True)
    return [torch.zeros_like(tensor, dtype=dtype) if need and tensor is not None else None for need, tensor in of]


def _add(
    dz: Tensor,
    hidden: Tensor,
    weight: Tensor,
    ids: slice,
    rows: slice,
    d_hidden: Tensor | None,
    d_weight: Tensor | None,
    d_bias: Tensor | None,
) -> None:
    """What a chunk's dz adds to the gradients: its rows of dh, its ids of dW and db."""
    if d_hidden is not None:
        d_hidden[rows].addmm_(dz.to(d_hidden.dtype), weight[ids].to(d_hidden.dtype))
    if d_weight is not None:
        d_weight[ids].addmm_(dz.to(d_weight.dtype).T, hidden.to(d_weight.dtype))
    if d_bias is not None:
        d_bias[ids] += dz.sum(0)


def _as_stored(
    d_hidden: Tensor | None, hidden: Tensor, d_weight: Tensor | None, weight: Tensor, d_bias: Tensor | None
) -> tuple[Tensor | None, ...]:
    pairs = ((d_hidden, hidden.dtype), (d_weight, weight.dtype), (d_bias, weight.dtype))
    return tuple(None if gradient is None else gradient.to(dtype) for gradient, dtype in pairs)


def _pullback(
    z: Tensor,
    head: Affine,
    reduce: Callable,
    temperature: Tensor | None,
    aligned: tuple[Tensor, ...],
    given: list[Tensor | None],
) -> Tensor:
    """The gradient of a reduction's outputs, times what is given for them, at the raw logits z."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        shaped = leaf * head.scale if head.scale != 1 else leaf
        shaped = shaped if head.shape is None else head.shape(shaped)
        out = _reduced(shaped, reduce, temperature, aligned)
        outs = out if isinstance(out, tuple) else (out,)
        pairs = [(one, g) for one, g in zip(outs, given, strict=True) if g is not None and one.requires_grad]
        if not pairs:
            return torch.zeros_like(z)
        [dz] = torch.autograd.grad([one for one, _ in pairs], leaf, [g for _, g in pairs])
    return dz
