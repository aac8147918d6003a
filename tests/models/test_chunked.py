"""Functions of logits, chunk by chunk: against whole logits, values and gradients, whatever is trained."""

import itertools

import pytest
import torch

from offon.maths.vocabulary import entropy, logp_at, reverse_kl, token_logp
from offon.models.chunked import Affine, over_vocabulary
from tests.rounding import FLOAT32, FLOAT64

M, D, V = 23, 6, 41


def tensors(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    targets = torch.randint(0, 30, (M,), generator=generator)
    return normal(M, D), normal(V, D), normal(V), targets, 0.5 + torch.rand(M, generator=generator, dtype=dtype)


def cap(z):
    return torch.tanh(z / 3) * 3


def both(z, targets):
    return token_logp(z, targets), entropy(z)


def from_uniform(z, targets):
    return reverse_kl(z.log_softmax(-1), torch.full_like(z, 1 / z.shape[-1]).log())


def ids_and_best(z, targets):
    return logp_at(z, targets[:, None]), z.argmax(-1)


REDUCTIONS = [token_logp, both, from_uniform, ids_and_best]
HEADS = [
    {},
    {"scale": 0.25},
    {"size": 30},
    {"shape": cap},
    {"scale": 2.0, "shape": cap, "size": 33},
]


@pytest.mark.parametrize("reduce", REDUCTIONS, ids=lambda reduce: reduce.__name__)
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_chunks_equal_whole_logits_in_values_and_gradients(reduce, head):
    for with_bias, with_temperature, trained in itertools.product(
        (False, True), (False, True), ("all", "head", "hidden")
    ):
        hidden, weight, bias, targets, temperature = tensors()
        hidden.requires_grad_(trained != "head")
        weight.requires_grad_(trained != "hidden")
        bias.requires_grad_(trained != "hidden")
        affine = Affine(weight, bias if with_bias else None, **head)
        leaves = [leaf for leaf in (hidden, weight, bias if with_bias else None) if leaf is not None]
        results = []
        for elements in (2**24, 5 * V):
            out = over_vocabulary(
                affine,
                V,
                hidden,
                reduce,
                targets,
                temperature=temperature if with_temperature else None,
                chunk_elements=elements,
            )
            outs = out if isinstance(out, tuple) else (out,)
            loss = sum((one * torch.arange(1, one.numel() + 1).view_as(one)).sum() for one in outs if one.requires_grad)
            grads = torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad])
            results.append((*outs, *grads))
        for whole, parts in zip(*results, strict=True):
            assert whole.dtype == parts.dtype
            assert torch.allclose(whole, parts, atol=FLOAT64 * max(1.0, float(whole.detach().abs().max())))


def test_gradients_are_those_of_finite_differences():
    hidden, weight, bias, targets, temperature = (t.requires_grad_() if i < 3 else t for i, t in enumerate(tensors()))

    def logp(hidden, weight, bias):
        affine = Affine(weight, bias, scale=0.5)
        return over_vocabulary(affine, V, hidden, token_logp, targets, temperature=temperature, chunk_elements=4 * V)

    assert torch.autograd.gradcheck(logp, (hidden, weight, bias))


def test_nothing_is_kept_where_nothing_is_trained_and_unused_outputs_cost_nothing():
    hidden, weight, _, targets, _ = tensors()
    out = over_vocabulary(Affine(weight), V, hidden, token_logp, targets, chunk_elements=5 * V)
    assert not out.requires_grad
    weight.requires_grad_()
    logp, uncertain = over_vocabulary(Affine(weight), V, hidden, both, targets, chunk_elements=5 * V)
    [of_logp] = torch.autograd.grad(logp.sum(), weight, retain_graph=True)
    alone = over_vocabulary(Affine(weight), V, hidden, token_logp, targets, chunk_elements=5 * V)
    [expected] = torch.autograd.grad(alone.sum(), weight)
    assert torch.allclose(of_logp, expected, atol=FLOAT64) and uncertain.requires_grad


def test_a_weight_in_half_precision_gets_a_gradient_that_was_summed_in_float32():
    """4,000 rows of equal gradients: summed in bfloat16 they would stop growing after 256."""
    rows = 4000
    hidden = torch.ones(rows, D, dtype=torch.bfloat16)
    weight = torch.zeros(V, D, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(rows, dtype=torch.long)
    logp = over_vocabulary(Affine(weight), V, hidden, token_logp, targets, chunk_elements=4 * V)
    logp.sum().backward()
    assert logp.dtype == torch.float32
    assert float(weight.grad[0, 0]) == pytest.approx(rows * (1 - 1 / V), rel=0.005)


def test_float32_agrees_with_float64_at_a_large_vocabulary():
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(64, 16, generator=generator), torch.randn(20_000, 16, generator=generator)
    targets = torch.randint(0, 20_000, (64,), generator=generator)
    results = []
    for dtype in (torch.float64, torch.float32):
        h, w = hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        logp = over_vocabulary(Affine(w), 20_000, h, token_logp, targets, chunk_elements=2**17)
        logp.sum().backward()
        results.append([logp.detach().double(), h.grad.double(), w.grad.double()])
    for exact, rounded in zip(*results, strict=True):
        assert (exact - rounded).abs().max() <= 10 * FLOAT32 * exact.abs().max().clamp(min=1)
