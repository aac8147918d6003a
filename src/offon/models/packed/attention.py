"""One attention function for any transformers causal LM: packed sequences, prefix trees, decoding.

Several sequences lie end to end in one flat buffer of N rows, without padding. A `Plan` says which rows see which; it
travels through the model's own forward as the keyword `offon`, and a second time inside the attention mask, because
some architectures drop keywords. Positions restart with every sequence, so rotary and learned positions need no care.

A forest of segments is computed in tiles: segments of similar length are gathered into a padded block
[batch, heads, queries, keys], every segment beside the keys of all its ancestors. On CPU, PyTorch's flash kernel runs
on the tiles inside one autograd function. What that kernel lacks (softcaps, sinks, a value width of its own) and other
devices take the same tiles through ordinary operations.

Legend: N rows of the flat buffer, S segments, H heads (Hq of queries, Hk of keys and values), D head width,
b segments of a tile, Q and K its padded numbers of queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from offon.errors import ModelError

NAME = "offon_packed"

# Read by the mask function only: a model builds its masks inside its forward, but under gradient checkpointing the
# layers run a second time after the forward has returned. The MaskSpec carries the plan from there.
ACTIVE: ContextVar[Plan | Decoding | None] = ContextVar("offon_plan", default=None)


class Unsupported(ModelError):
    """The model asks its attention for something this mechanism would get wrong."""


class Decoding(Protocol):
    """A plan that keeps its own keys and values: one new row per sequence and call.

    `longest` is the length of the longest sequence including the new row.
    """

    longest: int

    def attend(
        self,
        layer: int,
        query: Tensor,  # [B, Hq, D]
        key: Tensor,  # [B, Hk, D]
        value: Tensor,  # [B, Hk, Dv]
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor: ...  # [B, Hq, Dv]


class Plan:
    """Which rows of a flat buffer see which: a forest of segments.

    segments [S, 3] = (start, length, parent): rows start .. start + length continue segment `parent` (-1: they begin
    a sequence). A row sees all its ancestors' rows and its own segment up to itself. Parents come before children.

        Plan([(0, 4, -1), (4, 2, 0), (6, 3, 0)])      a prompt of 4 tokens with completions of 2 and 3

    positions [N] is every row's place in its own sequence. capture, if a dict, receives
    layer -> (keys [N, Hk, D], values [N, Hk, Dv]) as the model runs, after rotary embedding, without gradient.
    """

    def __init__(self, segments: Sequence[tuple[int, int, int]] | np.ndarray, *, capture: dict | None = None):
        self.segments = np.asarray(segments, dtype=np.int64).reshape(-1, 3)
        self.start, self.length, self.parent = self.segments.T
        self.n_rows = int(self.length.sum())
        self.offset = _offsets(self.length, self.parent)
        self.longest = int((self.offset + self.length).max())
        self.capture = capture
        covered = np.repeat(self.start, self.length) + _ramps(self.length)
        if len(covered) != self.n_rows or not np.array_equal(np.sort(covered), np.arange(self.n_rows)):
            raise ValueError(f"{len(self.segments)} segments do not cover rows 0 .. {self.n_rows} once each")
        positions = np.empty(self.n_rows, dtype=np.int64)
        positions[covered] = np.repeat(self.offset, self.length) + _ramps(self.length)
        self.positions = torch.from_numpy(positions)
        self._tilings: dict[tuple[int | None, torch.device], Tiling] = {}

    @property
    def is_packed(self) -> bool:
        """Every segment begins a sequence: no tree."""
        return bool((self.parent < 0).all())

    def rows_up_to(self, segments: np.ndarray, width: int) -> np.ndarray:
        """[len(segments), width]: the flat rows of each segment's whole sequence, from its root's first row on.

        Beyond the end the last row is repeated.
        """
        end = self.offset[segments] + self.length[segments]
        position = np.minimum(np.arange(width), end[:, None] - 1)
        holder = np.repeat(segments[:, None], width, axis=1)
        while (above := position < self.offset[holder]).any():
            holder = np.where(above, self.parent[holder], holder)
        return self.start[holder] + position - self.offset[holder]

    def tiling(self, window: int | None, device: torch.device) -> Tiling:
        """The tiles for a window (rows further back than it are not seen), built once for all layers."""
        if window is not None and window >= self.longest:
            window = None
        if (window, device) not in self._tilings:
            self._tilings[window, device] = _tile(self, window, device)
        return self._tilings[window, device]


def _ramps(lengths: np.ndarray) -> np.ndarray:
    """0 .. l - 1 for each length l, end to end."""
    return np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)


def _offsets(length: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """The position of each segment's first row: the summed length of its ancestors."""
    offset, ancestor = np.zeros_like(length), parent
    while (ancestor >= 0).any():
        offset = offset + np.where(ancestor >= 0, length[ancestor], 0)
        ancestor = np.where(ancestor >= 0, parent[ancestor], -1)
    return offset


# A kernel call costs about as much as this many query-key pairs (CPU, one thread, 4 heads of width 16-64).
PAIRS_PER_CALL = 8192
PADDING_SHARE = 0.25


def group_by_size(n_queries: np.ndarray, n_keys: np.ndarray) -> list[np.ndarray]:
    """Indices grouped so that padding each group to its largest member wastes little.

    Greedy from the largest down: a group closes when its padding would exceed both a quarter of its useful
    query-key pairs and the cost of a further call.
    """
    order = np.lexsort((n_queries, n_keys))[::-1]
    groups, start = [], 0
    queries, keys = n_queries[order].tolist(), n_keys[order].tolist()
    widest, useful = 0, 0
    for i, (q, k) in enumerate(zip(queries, keys, strict=True)):
        widest, useful = max(widest, q), useful + q * k
        padding = (i + 1 - start) * widest * keys[start] - useful
        if padding > max(PAIRS_PER_CALL, PADDING_SHARE * useful):
            groups.append(order[start:i])
            start, widest, useful = i, q, q * k
    return [*groups, order[start:]]


@dataclass
class Tile:
    """A padded block of segments: b of them, Q queries and K keys each.

    allowed [b, 1, Q, K] is None where the block is plainly causal (queries and keys are the same rows).
    """

    b: int
    n_queries: int
    n_keys: int
    allowed: Tensor | None
    _biases: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """`allowed` as a summand of the scores: 0 or minus infinity."""
        if self.allowed is None:
            return None
        if dtype not in self._biases:
            zeros = torch.zeros(self.allowed.shape, dtype=dtype, device=self.allowed.device)
            self._biases[dtype] = zeros.masked_fill_(~self.allowed, float("-inf"))
        return self._biases[dtype]


@dataclass
class Tiling:
    """All tiles of a plan for one window, and the gathers between them and the flat buffer.

    query_rows [sum b Q], key_rows [sum b K]: the flat row behind every place of the tiles, tile after tile; None where
    that is the buffer itself. Padding repeats a segment's last row: finite, hidden from every real query, and with
    zero gradient because nothing reads its output. place [N] is where the output of each flat row is found.
    """

    tiles: list[Tile]
    query_rows: Tensor | None
    key_rows: Tensor | None
    place: Tensor | None

    def blocks(self, query: Tensor, key: Tensor, value: Tensor):
        """(tile, query [b, Hq, Q, D], key [b, Hk, K, D], value [b, Hk, K, Dv]) of every tile."""
        query, key, value = _take(query, self.query_rows), _take(key, self.key_rows), _take(value, self.key_rows)
        at_query = at_key = 0
        for tile in self.tiles:
            queries = slice(at_query, at_query := at_query + tile.b * tile.n_queries)
            keys = slice(at_key, at_key := at_key + tile.b * tile.n_keys)
            yield tile, *(_fold(t, tile.b) for t in (query[queries], key[keys], value[keys]))

    def collect(self, outputs: list[Tensor]) -> Tensor:
        """Outputs [b, Hq, Q, D] of every tile -> [N, Hq, D]."""
        flat = [_unfold(output) for output in outputs]
        return _take(flat[0] if len(flat) == 1 else torch.cat(flat), self.place)

    def spread(self, flat: Tensor) -> Tensor:
        """The transpose of collect: [N, Hq, D] -> [sum b Q, Hq, D], zero at padding."""
        if self.place is None:
            return flat
        return flat.new_zeros(len(self.query_rows), *flat.shape[1:]).index_copy_(0, self.place, flat)


def _take(rows: Tensor, index: Tensor | None) -> Tensor:
    return rows if index is None else rows.index_select(0, index)


def _fold(rows: Tensor, b: int) -> Tensor:
    return rows.unflatten(0, (b, -1)).transpose(1, 2)


def _unfold(block: Tensor) -> Tensor:
    return block.transpose(1, 2).flatten(0, 1)


def _tile(plan: Plan, window: int | None, device: torch.device) -> Tiling:
    tiles, query_rows, key_rows = [], [], []
    place = np.empty(plan.n_rows, dtype=np.int64)
    n_places = 0
    for members in (np.flatnonzero(plan.parent < 0), np.flatnonzero(plan.parent >= 0)):
        members = members[plan.length[members] > 0]
        if not len(members):
            continue
        ends = plan.offset[members] + plan.length[members]
        for group in group_by_size(plan.length[members], ends):
            of = np.sort(members[group])
            length, offset = plan.length[of], plan.offset[of]
            n_queries, n_keys = int(length.max()), int((offset + length).max())
            keys = plan.rows_up_to(of, n_keys)
            step = np.minimum(np.arange(n_queries), length[:, None] - 1)
            queries = plan.start[of][:, None] + step
            real = np.arange(n_queries) < length[:, None]
            place[queries[real]] = n_places + np.flatnonzero(real)
            n_places += queries.size
            query_rows.append(queries.ravel())
            key_rows.append(keys.ravel())
            seen = None
            if offset.any() or (window is not None and window < n_keys):
                seen = _visible(offset[:, None] + step, offset + length, n_keys, window).to(device)
            tiles.append(Tile(len(of), n_queries, n_keys, seen))

    def index(rows: np.ndarray, n_source: int) -> Tensor | None:
        whole = len(rows) == n_source and (rows == np.arange(n_source)).all()
        return None if whole else torch.from_numpy(rows).to(device)

    queries, keys = np.concatenate(query_rows), np.concatenate(key_rows)
    return Tiling(tiles, index(queries, plan.n_rows), index(keys, plan.n_rows), index(place, n_places))


def _visible(position: np.ndarray, end: np.ndarray, n_keys: int, window: int | None) -> Tensor:
    """[b, 1, Q, K]: key j is seen from position p of a sequence of length e if p - window < j <= p < e."""
    position, key = torch.from_numpy(position)[:, None, :, None], torch.arange(n_keys)
    seen = (key <= position) & (key < torch.from_numpy(end)[:, None, None, None])
    return seen if window is None else seen & (key > position - window)


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _FlashTiles(torch.autograd.Function):
    """softmax(scale Q K^T) V over the tiles of a plan with PyTorch's CPU flash kernel.

    Query [N, Hq, D], key and value [N, Hk, D], result [N, Hq, D]. Keys that several segments share receive the sum of
    their gradients. Only the inputs, the flat output and the log-sum-exps (float32 or wider) are kept.
    """

    @staticmethod
    def forward(ctx, query, key, value, tiling: Tiling, scale: float):
        outputs, log_sums = [], []
        for tile, q, k, v in tiling.blocks(query, key, value):
            out, log_sum = _flash(q, k, v, 0.0, tile.allowed is None, attn_mask=tile.bias(q.dtype), scale=scale)
            outputs.append(out)
            log_sums.append(log_sum)
        result = tiling.collect(outputs)
        ctx.save_for_backward(query, key, value, result, *log_sums)
        ctx.tiling, ctx.scale = tiling, scale
        return result

    @staticmethod
    def backward(ctx, grad):
        query, key, value, result, *log_sums = ctx.saved_tensors
        tiling = ctx.tiling
        grad = tiling.spread(grad).split([tile.b * tile.n_queries for tile in tiling.tiles])
        result = _take(result, tiling.query_rows).split([tile.b * tile.n_queries for tile in tiling.tiles])
        grads = []
        for (tile, q, k, v), g, out, log_sum in zip(
            tiling.blocks(query, key, value), grad, result, log_sums, strict=True
        ):
            causal, bias = tile.allowed is None, tile.bias(q.dtype)
            g, out = _fold(g, tile.b), _fold(out, tile.b)
            of_tile = _flash_backward(g, q, k, v, out, log_sum, 0.0, causal, attn_mask=bias, scale=ctx.scale)
            grads.append([_unfold(t) for t in of_tile])
        dq, dk, dv = (torch.cat(parts) if len(grads) > 1 else parts[0] for parts in zip(*grads, strict=True))
        return _take(dq, tiling.place), _sum_rows(dk, tiling, key), _sum_rows(dv, tiling, value), None, None


def _sum_rows(grads: Tensor, tiling: Tiling, like: Tensor) -> Tensor:
    if tiling.key_rows is None:
        return grads
    total = torch.zeros(like.shape, dtype=like.dtype, device=like.device)
    return total.index_add_(0, tiling.key_rows, grads)


def _plain_tiles(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tiling: Tiling,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """The same function of the same tiles in ordinary operations, with softcap and sinks."""
    repeat = query.shape[1] // key.shape[1]
    outputs = []
    for tile, q, k, v in tiling.blocks(query, key, value):
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        if softcap is None and sinks is None:
            causal = tile.allowed is None
            outputs.append(F.scaled_dot_product_attention(q, k, v, tile.allowed, is_causal=causal, scale=scale))
        else:
            outputs.append(plain_attention(q, k, v, tile.allowed, scale, softcap, sinks))
    return tiling.collect(outputs)


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """softmax over keys of softcap(scale q.k), [b, H, Q, D] -> [b, H, Q, Dv].

    Keys and values are already repeated for every query head. softcap(x) = c tanh(x / c). A sink is one learned score
    per head [H] that takes probability and gives no value.
    allowed None is causal with queries aligned to the last keys. Softmax in float32 or wider.
    """
    scores = query @ key.transpose(-1, -2) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if allowed is None:
        n_queries, n_keys = scores.shape[-2:]
        allowed = torch.ones(n_queries, n_keys, dtype=torch.bool, device=scores.device).tril(n_keys - n_queries)
    scores = scores.masked_fill(~allowed, float("-inf"))
    if sinks is not None:
        sink = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return weights[..., : key.shape[-2]].to(value.dtype) @ value


# Predicates of transformers.masking_utils whose meaning a plan reproduces: causal order within a sequence, a window
# and sequences kept apart.
_KNOWN_PREDICATES = {
    "and_masks",
    "causal_mask_function",
    "chunked_overlay",
    "packed_sequence_mask_function",
    "remap_positions_for_packed_sequence",
    "sliding_window_overlay",
}


def _predicates(mask_function: Callable) -> set[str]:
    """Names of the functions a transformers mask is composed of (they are nested closures)."""
    names = {mask_function.__qualname__.split(".")[0]}
    for cell in mask_function.__closure__ or ():
        inner = cell.cell_contents
        for part in inner if isinstance(inner, tuple | list) else (inner,):
            if callable(part) and not isinstance(part, Tensor):
                names |= _predicates(part)
    return names


@dataclass(frozen=True)
class MaskSpec:
    """What a layer's attention mask means, in place of the [N, N] tensor; a model passes it on to its layers."""

    plan: Plan | Decoding
    window: int | None

    def __getitem__(self, index: tuple) -> MaskSpec:
        """Some models cut the mask to the number of queries: with one flat call that changes nothing."""
        if all(isinstance(part, slice) and part.start in (None, 0) and part.step is None for part in index):
            return self
        raise Unsupported(f"the model takes part {index} of its attention mask")


def build_mask(
    *, mask_function: Callable, attention_mask: Tensor | None = None, local_size: int | None = None, **shape: Any
) -> MaskSpec | Tensor | None:
    """The mask transformers asks for: a MaskSpec when a plan is active, the usual tensor otherwise."""
    plan = ACTIVE.get()
    if plan is None:
        from transformers.masking_utils import sdpa_mask

        return sdpa_mask(mask_function=mask_function, attention_mask=attention_mask, local_size=local_size, **shape)
    if attention_mask is not None and not attention_mask.all():  # some models add a padding mask that hides nothing
        raise Unsupported("a padding mask together with a plan")
    names = _predicates(mask_function)
    if "causal_mask_function" not in names or not names <= _KNOWN_PREDICATES:
        raise Unsupported(f"an attention mask made of {sorted(names)}")
    if "chunked_overlay" in names and (local_size is None or plan.longest > local_size):
        raise Unsupported(f"chunked attention: chunks of {local_size}, sequences up to {plan.longest}")
    return MaskSpec(plan, local_size if "sliding_window_overlay" in names else None)


# Arguments that reach an attention function and change nothing here: positions are already in queries and keys, the
# lengths of packed sequences are the plan's own, outputs that other modules collect.
_IGNORED = {
    "cache_position",
    "cu_seq_lens_k",
    "cu_seq_lens_q",
    "deterministic",
    "max_length_k",
    "max_length_q",
    "output_hidden_states",
    "output_router_logits",
    "position_embeddings",
    "position_ids",
    "return_dict",
    "seq_idx",
}


def attention_function(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: MaskSpec | Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    offon: Plan | Decoding | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention transformers calls in every layer: query [1, Hq, N, D] -> [1, N, Hq, Dv].

    With a plan, rows see what the plan says; anything asked for that is not understood is refused, never ignored.
    Without one (`generate`, a padded batch) this is ordinary attention.
    """
    plan = offon if offon is not None else getattr(attention_mask, "plan", None)
    if plan is None:
        if ACTIVE.get() is not None:
            raise Unsupported(f"{type(module).__name__} passes on neither its keywords nor its mask")
        options = dict(scaling=scaling, dropout=dropout, softcap=softcap, sinks=s_aux, is_causal=is_causal)
        return _ordinary_attention(module, query, key, value, attention_mask, **options, **others)

    window = _check_request(module, query, attention_mask, sliding_window, dropout, is_causal, others)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # The tile kernels are outside autocast's lists, and rotary embedding leaves queries and keys wider than values.
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    query, key, value = (t[0].transpose(0, 1).to(dtype) for t in (query, key, value))
    if isinstance(plan, Plan):
        out = _packed_attention(plan, module, query, key, value, scale, window, softcap, s_aux)
    else:
        layer = module.layer_idx
        out = plan.attend(layer, query, key, value, scale=scale, window=window, softcap=softcap, sinks=s_aux)
    return out[None], None


def _packed_attention(plan, module, query, key, value, scale, window, softcap, sinks) -> Tensor:
    if len(query) != plan.n_rows:
        raise ValueError(f"attention over {len(query)} rows with a plan of {plan.n_rows}")
    if plan.capture is not None:
        plan.capture[module.layer_idx] = (key.detach(), value.detach())
    tiling = plan.tiling(window, query.device)
    extras = softcap is not None or sinks is not None or value.shape[-1] != query.shape[-1]
    if extras or query.device.type != "cpu":
        return _plain_tiles(query, key, value, tiling, scale, softcap, sinks)
    return _FlashTiles.apply(query, key, value, tiling, scale)


def _check_request(module, query, mask, sliding_window, dropout, is_causal, others) -> int | None:
    """Refuse what a plan cannot honour; return the layer's window.

    The mask decides on the window: several models pass `sliding_window` to layers that do not use it.
    """
    who = type(module).__name__
    unknown = {name for name, setting in others.items() if setting is not None and setting is not False} - _IGNORED
    if unknown:
        raise Unsupported(f"{who} calls attention with {sorted(unknown)}")
    if mask is not None and not isinstance(mask, MaskSpec):
        raise Unsupported(f"{who} builds its own attention mask ({type(mask).__name__})")
    if is_causal is False or getattr(module, "is_causal", True) is False:
        raise Unsupported(f"{who} is not causal")
    if dropout:
        raise Unsupported(f"{who} has attention dropout {dropout}: log-probs would be random")
    if query.shape[0] != 1:
        raise Unsupported(f"{who} calls attention on a batch of {query.shape[0]} with a flat plan")
    if mask is None:
        return sliding_window
    if mask.window is not None and sliding_window not in (None, mask.window):
        raise Unsupported(f"{who} asks for a window of {sliding_window} under a mask of {mask.window}")
    return mask.window


def _ordinary_attention(module, query, key, value, mask, *, scaling, dropout, softcap, sinks, is_causal, **others):
    if softcap is None and sinks is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        options = dict(scaling=scaling, dropout=dropout, is_causal=is_causal)
        return sdpa_attention_forward(module, query, key, value, mask, **options, **others)
    if dropout or is_causal is False:
        raise Unsupported(f"{type(module).__name__}: dropout or two-way attention with a softcap or sinks")
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return plain_attention(query, key, value, mask, scale, softcap, sinks).transpose(1, 2).contiguous(), None


@cache
def register() -> None:
    """Make the mechanism known to transformers by its NAME. What it is registered with takes a second to import: who
    only asks what a recipe would do never does."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attention_function)
    AttentionMaskInterface.register(NAME, build_mask)
