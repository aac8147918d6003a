"""Does the packed mechanism compute what this model computes? Asked of its own weights, once, at load.

Two questions on a few short probes. Is any row influenced by a row it must not see? Gradients answer that exactly, in
any precision: a layer that mixes tokens by something other than attention (recurrences, convolutions) leaks. And are
the log-probs those of the model run on each sequence alone with its plainest attention?
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from offon.errors import OffonError
from offon.maths.vocabulary import token_logp
from offon.models.attention import NAME, register
from offon.models.forward import hidden_of, run_flat
from offon.models.head import Head, Numbers
from offon.models.layout import Layout

# Log-probs of small models agree to 1e-6 nats in float32, of models with logits near 30 to 1e-5; a dropped window,
# softcap or sink, or a leak, shows as 1e-2 and more. Lower precisions are compared with their own rounding noise.
TOLERANCE = 1e-4
NOISE_FACTOR = 2.0

Probe = list[tuple[list[int], list[int]]]


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


def why_not_packed(core: nn.Module, head: Head | Numbers) -> str:
    """Switch `core` to the packed attention and test it. "" if it may stay, else the reason in words.

    On failure the model has its former attention back.
    """
    former = core.config._attn_implementation
    if (reason := switch(core, NAME)) or (reason := _disagreement(core, head)):
        switch(core, former)
        return reason
    return ""


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


def _disagreement(core: nn.Module, head: Head | Numbers) -> str:
    vocabulary = min(head.vocabulary, core.get_input_embeddings().weight.shape[0])
    longest = getattr(core.config.get_text_config(), "max_position_embeddings", None) or 64
    sequences = probe(vocabulary, longest)
    tree, packed = Layout.of(sequences), Layout.of(sequences, share=False)
    try:
        for layout in (packed, tree):
            if leak := _leak(core, head, layout):
                return leak
        with torch.no_grad():
            ours = {name: _packed_logp(core, head, layout) for name, layout in (("packed", packed), ("tree", tree))}
    except Exception as error:  # whatever a foreign architecture raises is the answer to the question asked
        return f"its forward refuses packed sequences ({_short(error)})"
    plain, noise = _plain_logp(core, head, sequences)
    allowed = max(TOLERANCE, NOISE_FACTOR * noise)
    for name, logp in ours.items():
        gap = float((logp - plain).abs().max())
        if not gap <= allowed:
            return f"log-probs of {name} sequences differ from its own by {gap:.1e} nats (allowed: {allowed:.1e})"
    return ""


def _packed_logp(core: nn.Module, head: Head | Numbers, layout: Layout) -> Tensor:
    device = next(core.parameters()).device
    body = core.get_submodule(head.body)
    hidden = run_flat(body, layout.ids.to(device), layout.positions.to(device), layout.plan)
    return _read(core, head, hidden[layout.rows.to(device)], layout.targets.to(device))


def _read(core: nn.Module, head: Head | Numbers, hidden: Tensor, targets: Tensor) -> Tensor:
    """Log-probs; of a model without logits, hidden states along one direction (its own head may still be 0)."""
    if isinstance(head, Head):
        return token_logp(head.logits(core, hidden), targets)
    return hidden.float() @ torch.linspace(-1, 1, hidden.shape[-1], device=hidden.device) / hidden.shape[-1] ** 0.5


@torch.no_grad()
def _plain_logp(core: nn.Module, head: Head | Numbers, sequences: Probe) -> tuple[Tensor, float]:
    """Log-probs by the model's own forward on each sequence alone, and the rounding noise of that forward in nats."""
    device = next(core.parameters()).device
    packed = core.config._attn_implementation
    switch(core, "eager")

    def score() -> Tensor:
        logps = []
        for prefix, response in sequences:
            ids = torch.tensor([prefix + response], device=device)
            if isinstance(head, Head):
                logits = core(input_ids=ids, use_cache=False).logits[0, len(prefix) - 1 : -1].float()
                logps.append(token_logp(logits, ids[0, len(prefix) :]))
            else:
                hidden = hidden_of(core.get_submodule(head.body)(input_ids=ids, use_cache=False))
                logps.append(_read(core, head, hidden[0, len(prefix) - 1 : -1], ids[0, len(prefix) :]))
        return torch.cat(logps)

    try:
        plain = score()
        with _rounded_again(core):
            noise = float((score() - plain).abs().max())
    finally:
        switch(core, packed)
    return plain, noise


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


def _leak(core: nn.Module, head: Head | Numbers, layout: Layout) -> str:
    """Gradients of the last row of a sequence with respect to all embeddings: zero at every row it must not see."""
    embedded: list[Tensor] = []

    def watch(module, args, output):
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = core.get_input_embeddings().register_forward_hook(watch)
    device = next(core.parameters()).device
    try:
        with torch.enable_grad():
            body = core.get_submodule(head.body)
            hidden = run_flat(body, layout.ids.to(device), layout.positions.to(device), layout.plan)
            last = layout.plan.start + layout.plan.length - 1
            direction = torch.linspace(-1, 1, hidden.shape[-1], device=device, dtype=hidden.dtype)
            leaves = np.unique(layout.leaf)
            for leaf in leaves:
                score = (hidden[last[leaf]] * direction).sum()
                (grad,) = torch.autograd.grad(score, embedded[0], retain_graph=True)
                reached = set(grad[0].float().abs().sum(-1).nonzero()[:, 0].tolist())
                own = set(layout.plan.rows_up_to(np.array([leaf]), layout.plan.longest)[0].tolist())
                if reached - own:
                    return "its layers mix tokens of different sequences (a recurrence or convolution)"
    finally:
        handle.remove()
    return ""


def _short(error: BaseException) -> str:
    if isinstance(error, OffonError):
        return error.what
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
