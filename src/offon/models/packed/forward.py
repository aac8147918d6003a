"""Running a model's body: on a flat buffer, for scoring and decoding; on padded batches where a model needs them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from offon.models.packed.attention import ACTIVE, Decoding, Plan, group_by_size
from offon.models.packed.layout import Layout
from offon.models.packed.lengths import Lengths, forget_lengths, gathered, parts


def run_flat(body: nn.Module, ids: Tensor, positions: Tensor, plan: Plan | Decoding) -> Tensor:
    """Hidden states [N, D] of the flat token ids [N] at positions [N], rows seeing each other as `plan` says.

    The model must have the attention implementation of `offon.models.packed.attention`. Gradients flow as torch's grad
    mode says. Packed sequences are also described by the keywords that recurrent layers read (`cu_seq_lens_q`,
    `seq_idx`): such a layer then either keeps sequences apart or raises, instead of quietly mixing them.
    """
    extra = _packing(plan, ids.device) if isinstance(plan, Plan) and plan.is_packed else {}
    token = ACTIVE.set(plan)
    try:
        output = body(input_ids=ids[None], position_ids=positions[None], use_cache=False, offon=plan, **extra)
    finally:
        ACTIVE.reset(token)
    return hidden_of(output)[0]


def hidden_of(output) -> Tensor:
    """The hidden states in what a transformers body returns."""
    if isinstance(output, Tensor):
        return output
    return output[0] if isinstance(output, tuple) else output.last_hidden_state


def _packing(plan: Plan, device: torch.device) -> dict:
    lengths = torch.from_numpy(plan.length)
    bounds = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).to(device, torch.int32)
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), lengths)[None].to(device, torch.int32)
    longest = int(lengths.max())
    return dict(
        cu_seq_lens_q=bounds, cu_seq_lens_k=bounds, max_length_q=longest, max_length_k=longest, seq_idx=sequence
    )


def run_layout(core: nn.Module, body: nn.Module, layout: Layout, lengths: Lengths, *, packed: bool) -> Tensor:
    """Hidden states [M, D] that predict the targets of a layout: packed where that is exact, else padded, and split
    where sequences of different lengths would change each other (see `offon.models.packed.lengths`)."""
    device = next(core.parameters()).device
    computed = []
    for part in parts(layout, lengths, packed):
        if lengths.kind == "dynamic":
            forget_lengths(core)
        own = part.layout
        if part.packed:
            states = run_flat(body, own.ids.to(device), own.positions.to(device), own.plan)
            computed.append((part.members, states.index_select(0, own.rows.to(device))))
        else:
            computed.append((part.members, run_padded(body, own, alone=lengths.alone)))
    return computed[0][1] if len(computed) == 1 else gathered(layout, computed)


def run_padded(body: nn.Module, layout: Layout, *, alone: bool = False) -> Tensor:
    """Hidden states [M, D] that predict the targets of a layout, from ordinary padded batches of whole sequences; alone
    puts each sequence into a batch of its own, without padding.

    For models whose layers mix tokens by something other than attention, or whose attention cannot be replaced:
    padding on the right is never seen by the tokens before it, in any causal model.
    """
    device = next(body.parameters()).device
    plan = layout.plan
    ends = plan.offset[layout.leaf] + plan.length[layout.leaf]
    first = np.empty(len(ends), dtype=np.int64)  # of each sequence among the rows of all batches
    states, n_rows = [], 0
    groups = [np.array([sequence]) for sequence in range(len(ends))] if alone else group_by_size(ends, ends)
    for group in groups:
        width = int(ends[group].max())
        ids = layout.ids[torch.from_numpy(plan.rows_up_to(layout.leaf[group], width))]
        mask = torch.arange(width) < torch.from_numpy(ends[group])[:, None]
        output = body(input_ids=ids.to(device), attention_mask=mask.long().to(device), use_cache=False)
        states.append(hidden_of(output).flatten(0, 1))
        first[group] = n_rows + np.arange(len(group)) * width
        n_rows += ids.numel()
    rows = torch.from_numpy(first)[layout.sequence] + layout.positions[layout.rows]
    return torch.cat(states).index_select(0, rows.to(device))
