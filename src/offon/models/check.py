"""Does offon's own way of running a model compute what this model computes? Asked of its own weights, once, at load.

Three questions on a few short probes. Is any row influenced by a row it must not see? Gradients answer that exactly, in
any precision: a layer that mixes tokens by something other than attention (recurrences, convolutions) leaks. Are the
log-probs those of the model run on each sequence alone with its plainest attention? And does decoding with kept keys
and values arrive at the same ones?

Probes are short and the lengths at which models change their behaviour long (windows, chunks, rotary factors). So the
settings that name such lengths are lowered while the questions are asked, until the probes lie on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offon.errors import ModelError, OffonError
from offon.maths.vocabulary import token_logp
from offon.models.decode import DecodeState, Prompt
from offon.models.head import Head, Numbers
from offon.models.packed.attention import NAME, Plan, register
from offon.models.packed.forward import hidden_of, run_flat, run_layout
from offon.models.packed.layout import Layout
from offon.models.packed.lengths import Lengths, configs, forget_lengths, lengths_of, thresholds

# Log-probs of small models agree to 1e-6 nats in float32, of models with logits near 30 to 1e-5; a dropped window,
# softcap or sink, or a leak, shows as 1e-2 and more. Lower precisions are compared with their own rounding noise.
TOLERANCE = 1e-4
NOISE_FACTOR = 2.0
LOWERED = 14  # tokens: the probes have 12 to 29
DECODED = 3  # tokens of each probe that are also decoded

Probe = list[tuple[list[int], list[int]]]


@dataclass(frozen=True)
class Verdict:
    """How a model is run. why: "" if sequences are packed, else the reason for which they are padded. why_replayed: ""
    if decoding keeps keys and values, else the reason for which every step reads whole sequences."""

    lengths: Lengths
    why: str = ""
    why_replayed: str = ""


def probe(vocabulary: int, longest: int) -> Probe:
    """Two prompts with three and two completions, and a lone sequence; random ids; at most `longest` tokens each."""
    random = np.random.Generator(np.random.Philox(0))
    shapes = [(17, (12, 5, 8)), (9, (20, 3)), (4, (11,))]
    sequences = []
    for n_prefix, n_responses in shapes:
        prefix = random.integers(vocabulary, size=min(n_prefix, longest // 2)).tolist()
        sizes = [min(n, longest - len(prefix)) for n in n_responses]
        sequences += [(prefix, random.integers(vocabulary, size=n).tolist()) for n in sizes]
    return sequences


def verdict(core: nn.Module, head: Head | Numbers) -> Verdict:
    """Switch `core` to the packed attention where it may stay, and test how it is run.

    A model that is not packed has its former attention back. Refused is one that no way of running it gets right.
    """
    former = core.config._attn_implementation
    lengths = lengths_of(core)
    if not (why := switch(core, NAME)):
        why, rows = _packing(core, head, lengths)
        lengths = replace(lengths, rows=rows)
    if why:
        switch(core, former)
        return Verdict(_padding(core, head, lengths), why)
    return Verdict(lengths, why_replayed=_decoding(core, head, lengths) if isinstance(head, Head) else "")


def _packing(core: nn.Module, head: Head | Numbers, lengths: Lengths) -> tuple[str, int | None]:
    """(why not packed or "", the largest exact pack or None).

    Where a pack cannot reproduce what happens beyond a threshold, it is right up to there.
    """
    named = thresholds(core)
    with lowered(core, named, lengths):
        why = _disagreement(core, head, _lowered(lengths))
    if not why:
        return "", None
    limits = []
    for name, number in named.items():
        with lowered(core, [name]):
            limits += [number] if _disagreement(core, head, lengths) else []
    if why := _disagreement(core, head, lengths) if limits else why:
        return why, None
    return "", min(limits)


def _lowered(lengths: Lengths) -> Lengths:
    return lengths if lengths.turn is None else replace(lengths, turn=min(LOWERED, lengths.turn))


@contextmanager
def lowered(core: nn.Module, names: Iterable[str], lengths: Lengths | None = None) -> Iterator[None]:
    """Inside, these settings of the model, and the turn of its rotary factors, are at most LOWERED: in configurations,
    and in modules that keep a copy."""
    undo: list[tuple[Any, str, Any]] = []

    def lower(holder: dict[str, Any], name: str) -> None:
        number = holder.get(name)
        if isinstance(number, int | Tensor) and not isinstance(number, bool) and number > LOWERED:
            undo.append((holder, name, number))
            holder[name] = LOWERED

    holders = [vars(holder) for holder in [*configs(core), *core.modules()]]
    for holder in holders:
        for name in names:
            lower(holder, name)
    if lengths is not None and lengths.turn is not None:
        for holder in holders:
            rope = holder.get("rope_parameters")
            for settings in [rope, *rope.values()] if isinstance(rope, dict) else []:
                if isinstance(settings, dict):
                    lower(settings, "original_max_position_embeddings")
            for name in ("original_max_position_embeddings", "original_max_seq_len", "max_seq_len_cached"):
                lower(holder, name)
            if lengths.kind == "dynamic":
                lower(holder, "max_position_embeddings")
    try:
        yield
    finally:
        for holder, name, number in reversed(undo):
            holder[name] = number


def switch(core: nn.Module, implementation: str) -> str:
    """Set the attention implementation; "" or why it did not take effect (some models only log a warning)."""
    register()
    try:
        core.set_attn_implementation(implementation)
    except (ValueError, ImportError) as error:
        return f"its attention cannot be replaced ({_short(error)})"
    if core.config._attn_implementation != implementation:
        return "it has no attention interface: transformers cannot replace its attention function"
    return ""


def _probes(core: nn.Module, head: Head | Numbers) -> Probe:
    vocabulary = min(head.vocabulary, core.get_input_embeddings().weight.shape[0])
    return probe(vocabulary, getattr(core.config.get_text_config(), "max_position_embeddings", None) or 64)


def _disagreement(core: nn.Module, head: Head | Numbers, lengths: Lengths) -> str:
    sequences = _probes(core, head)
    tree, packed = Layout.of(sequences), Layout.of(sequences, share=False)
    try:
        ours = {}
        for name, layout in (("packed", packed), ("tree", tree)):
            leak, hidden = _leak(core, head, layout)
            if leak:
                return leak
            with torch.no_grad():  # one pack of all lengths has answered the second question too, if none is turned
                known = None if lengths.turn else hidden[layout.rows.to(hidden.device)]
                ours[name] = _logp(core, head, layout, lengths, hidden=known)
    except Exception as error:  # whatever a foreign architecture raises is the answer to the question asked
        return f"its forward refuses packed sequences ({_short(error)})"
    return _gap(core, head, sequences, ours)


def _gap(core: nn.Module, head: Head | Numbers, sequences: Probe, ours: dict[str, Tensor]) -> str:
    """What differs from the model's own forward, by more than rounding does; the noise is measured where it matters."""
    plain = _plain_logp(core, head, sequences)
    if all(float((logp - plain).abs().max()) <= TOLERANCE for logp in ours.values()):
        return ""
    with _rounded_again(core):
        noise = float((_plain_logp(core, head, sequences) - plain).abs().max())
    allowed = max(TOLERANCE, NOISE_FACTOR * noise)
    for name, logp in ours.items():
        gap = float((logp - plain).abs().max())
        if not gap <= allowed:
            return f"log-probs of {name} sequences differ from its own by {gap:.1e} nats (allowed: {allowed:.1e})"
    return ""


def _padding(core: nn.Module, head: Head | Numbers, lengths: Lengths) -> Lengths:
    """The model as the padded path runs it right: in batches, or each sequence alone."""
    sequences = _probes(core, head)
    layout = Layout.of(sequences)
    if lengths.turn is None and (future := _reads_ahead(core, head, sequences)):
        raise _two_way(core, future)
    why = ""
    for one in (lengths, replace(lengths, alone=True)):
        try:
            with torch.no_grad(), lowered(core, [], lengths):
                why = _gap(core, head, sequences, {"padded": _logp(core, head, layout, _lowered(one), packed=False)})
        except Exception as error:  # as above
            why = f"its forward refuses padded batches ({_short(error)})"
        if not why:
            return one
    raise ModelError(
        f"{type(core).__name__} cannot be run right by offon, packed or padded",
        why=why,
        fix="a causal language model whose log-probs depend on a sequence's own tokens alone",
    )


def _two_way(core: nn.Module, gap: float) -> ModelError:
    encoder = hasattr(core.config, "is_decoder") and not core.config.is_decoder
    return ModelError(
        f"{type(core).__name__} reads ahead: it is no causal language model",
        why=f"the log-prob of a token changes by up to {gap:.1e} nats with the tokens that follow it",
        fix="a decoder" + ("; an encoder trained as one has is_decoder: true in its config.json" if encoder else ""),
    )


@torch.no_grad()
def _reads_ahead(core: nn.Module, head: Head | Numbers, sequences: Probe) -> float:
    """By how much the prediction at the end of a prefix changes with what follows; 0 within rounding."""
    (prefix, response), (_, other) = sequences[:2]
    first = [_rows(core, head, prefix + tokens)[len(prefix) - 1] for tokens in (response, other, other)]
    gap = float((first[0] - first[1]).abs().max())
    with _rounded_again(core):
        noise = float((_rows(core, head, prefix + other)[len(prefix) - 1] - first[1]).abs().max())
    return gap if not gap <= max(TOLERANCE, NOISE_FACTOR * noise) else 0.0


def _rows(core: nn.Module, head: Head | Numbers, tokens: list[int]) -> Tensor:
    """[rows, V] log-probs, or hidden states [rows, D] of a model without logits, by the model's own forward."""
    ids = torch.tensor([tokens], device=next(core.parameters()).device)
    if isinstance(head, Head):
        return core(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    return hidden_of(core.get_submodule(head.body)(input_ids=ids, use_cache=False))[0].float()


def _decoding(core: nn.Module, head: Head, lengths: Lengths) -> str:
    """Why the tokens of the probes, decoded one by one, have other log-probs than scored; "" if they have the same."""
    probes = _probes(core, head)
    shortest = min([DECODED, *(len(response) for _, response in probes)])
    sequences = [(prefix, response[:shortest]) for prefix, response in probes]
    named = thresholds(core)
    largest = lengths.rows
    names = [name for name in named if largest is None or named[name] < largest]
    with torch.no_grad(), lowered(core, names, lengths):
        lengths = _lowered(lengths)
        kinds = lengths.kinds(np.array([len(prefix) + len(response) for prefix, response in sequences]))
        scored, decoded = [], []
        for kind in np.unique(kinds):
            some = [sequence for sequence, own in zip(sequences, kinds, strict=True) if own == kind]
            if kind and lengths.kind == "dynamic":
                continue  # never decoded, see `offon.engines.native.check`
            try:
                decoded.append(_decoded_logp(core, head, some))
            except Exception as error:  # as in `_disagreement`
                return f"it refuses to be decoded token by token ({_short(error)})"
            scored.append(_logp(core, head, Layout.of(some), lengths))
        return _decoding_gap(core, head, sequences, torch.cat(scored), torch.cat(decoded))


def _decoding_gap(core, head, sequences: Probe, scored: Tensor, decoded: Tensor) -> str:
    gap = float((scored - decoded).abs().max())
    if gap <= TOLERANCE:
        return ""
    plain = _plain_logp(core, head, sequences)
    with _rounded_again(core):
        noise = float((_plain_logp(core, head, sequences) - plain).abs().max())
    if gap <= (allowed := max(TOLERANCE, NOISE_FACTOR * noise)):
        return ""
    return f"log-probs of decoded tokens differ from scored ones by {gap:.1e} nats (allowed: {allowed:.1e})"


def _decoded_logp(core: nn.Module, head: Head, sequences: Probe) -> Tensor:
    """Log-probs of the responses, fed token by token to a store of keys and values."""
    device = next(core.parameters()).device
    body = core.get_submodule(head.body)
    n_tokens = [len(prefix) for prefix, _ in sequences]
    start = np.cumsum(n_tokens) - n_tokens
    plan = Plan(np.stack([start, n_tokens, np.full_like(start, -1)], axis=1), capture={})
    ids = torch.tensor([token for prefix, _ in sequences for token in prefix], device=device)
    states = run_flat(body, ids, plan.positions.to(device), plan)
    kv = {layer: [tensor.split(n_tokens) for tensor in pair] for layer, pair in plan.capture.items()}
    prompts = [
        Prompt(n, states[first + n - 1], {layer: (k[i], v[i]) for layer, (k, v) in kv.items()})
        for i, (first, n) in enumerate(zip(start, n_tokens, strict=True))
    ]
    state = DecodeState(device)
    state.bind(prompts)
    hidden = [torch.stack([prompt.hidden for prompt in prompts])]
    responses = torch.tensor([response for _, response in sequences], device=device)
    for step in range(responses.shape[1] - 1):
        hidden.append(run_flat(body, responses[:, step], state.begin(), state))
    return token_logp(head.logits(core, torch.stack(hidden, dim=1).flatten(0, 1)), responses.flatten())


def _logp(core, head: Head | Numbers, layout: Layout, lengths: Lengths, *, packed=True, hidden=None) -> Tensor:
    if hidden is None:
        hidden = run_layout(core, core.get_submodule(head.body), layout, lengths, packed=packed)
    return _read(core, head, hidden, layout.targets.to(hidden.device))


def _read(core: nn.Module, head: Head | Numbers, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probs; of a model without logits, hidden states along one direction (its own head may still be 0)."""
    if isinstance(head, Head):
        return token_logp(head.logits(core, hidden), targets)
    return hidden.float() @ torch.linspace(-1, 1, hidden.shape[-1], device=hidden.device) / hidden.shape[-1] ** 0.5


@torch.no_grad()
def _plain_logp(core: nn.Module, head: Head | Numbers, sequences: Probe) -> Tensor:
    """Log-probs by the model's own forward on each sequence alone, with its plainest attention."""
    device = next(core.parameters()).device
    former = core.config._attn_implementation
    switch(core, "eager")
    logps = []
    try:
        for prefix, response in sequences:
            forget_lengths(core)
            ids = torch.tensor([prefix + response], device=device)
            if isinstance(head, Head):
                logits = core(input_ids=ids, use_cache=False).logits[0, len(prefix) - 1 : -1].float()
                logps.append(token_logp(logits, ids[0, len(prefix) :]))
            else:
                hidden = hidden_of(core.get_submodule(head.body)(input_ids=ids, use_cache=False))
                logps.append(_read(core, head, hidden[0, len(prefix) - 1 : -1], ids[0, len(prefix) :]))
    finally:
        switch(core, former)
    return torch.cat(logps)


@contextmanager
def _rounded_again(core: nn.Module) -> Iterator[None]:
    """Every innermost module's output is moved by half a unit in the last place, up or down at random.

    What this does to log-probs is what computing the same function in another order may do.
    """
    generator = torch.Generator().manual_seed(0)

    def nudge(module, args, output):
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        sign = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
        return output * (1 + 0.5 * torch.finfo(output.dtype).eps * sign)

    innermost = [module for module in core.modules() if not any(module.children())]
    handles = [module.register_forward_hook(nudge) for module in innermost]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _leak(core: nn.Module, head: Head | Numbers, layout: Layout) -> tuple[str, Tensor]:
    """Gradients of the last row of a sequence with respect to all embeddings: zero at every row it must not see. With
    the hidden states of the layout.

    Asked of the first, the last and the shortest sequence: what is carried on reaches the last, what is carried back
    the first, and what comes from a few rows away the shortest.
    """
    embedded: list[Tensor] = []

    def watch(module, args, output):
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = core.get_input_embeddings().register_forward_hook(watch)
    device = next(core.parameters()).device
    plan = layout.plan
    try:
        with torch.enable_grad():
            body = core.get_submodule(head.body)
            hidden = run_flat(body, layout.ids.to(device), layout.positions.to(device), plan)
            direction = torch.linspace(-1, 1, hidden.shape[-1], device=device, dtype=hidden.dtype)
            leaves = np.unique(layout.leaf)
            for leaf in {leaves[0], leaves[-1], leaves[plan.length[leaves].argmin()]}:
                score = (hidden[plan.start[leaf] + plan.length[leaf] - 1] * direction).sum()
                (grad,) = torch.autograd.grad(score, embedded[0], retain_graph=True)
                reached = set(grad[0].float().abs().sum(-1).nonzero()[:, 0].tolist())
                own = set(plan.rows_up_to(np.array([leaf]), plan.longest)[0].tolist())
                if reached - own:
                    return "its layers mix tokens of different sequences (a recurrence or convolution)", hidden
    finally:
        handle.remove()
    return "", hidden.detach()


def _short(error: BaseException) -> str:
    if isinstance(error, OffonError):
        return error.what
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
