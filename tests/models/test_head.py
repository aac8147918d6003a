"""From hidden states to logits: detection by observation, and the chunked reduction."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from offon.errors import NumericsError
from offon.maths.vocabulary import entropy, token_logp
from offon.models.chunked import over_vocabulary
from offon.models.head import find_head
from offon.models.model import Model
from offon.models.packed.layout import Layout
from tests.models import architectures
from tests.rounding import EPS32, FLOAT32, STORED

SEQUENCES = architectures.sequences()
LAYOUT = Layout.of(SEQUENCES)


@pytest.mark.parametrize(
    ("name", "changes", "found"),
    [
        ("Qwen3", {}, ("model", 1, 1, None)),
        ("GPT2", {}, ("transformer", 1, 1, None)),
        ("Gemma2", {}, ("model", 1, 1, 6.0)),
        ("Gemma2", dict(final_logit_softcapping=30.0), ("model", 1, 1, 30.0)),  # invisible at the size of these logits
        ("Granite", {}, ("model", 1, 0.25, None)),
        ("MiniCPM3", {}, ("model", 2, 1, None)),  # hidden states are scaled before the head
        ("OPT", {}, ("model.decoder", 1, 1, None)),  # base_model is another module
        ("Mamba2", {}, ("backbone", 1, 1, None)),
    ],
)
def test_body_scale_and_softcap_are_found(name, changes, found):
    for dtype in (torch.float32, torch.bfloat16):
        head = find_head(architectures.build(name, **changes).to(dtype))
        assert head.replayed is None
        assert (head.body, pytest.approx(head.pre, rel=STORED), pytest.approx(head.scale, rel=STORED)) == found[:3]
        assert head.softcap == (None if found[3] is None else pytest.approx(found[3], rel=STORED))


def test_a_weight_that_is_not_a_number_is_named():
    hf = architectures.build("Llama")
    hf.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(NumericsError, match="not finite") as error:
        Model.wrap(hf)
    assert "model.layers.0.mlp.up_proj.weight" in str(error.value)


def test_a_head_of_unknown_form_is_replayed_exactly():
    hf = architectures.build("Llama")
    original = hf.forward

    def squared(*args, **kwargs):
        out = original(*args, **kwargs)
        out.logits = out.logits + 0.1 * out.logits**2
        return out

    hf.forward = squared
    model = Model.wrap(hf)
    assert model.head.replayed is not None and model.packed
    ids = torch.tensor([SEQUENCES[0][0]])
    expected = hf(input_ids=ids).logits[0]
    hidden = hf.model(input_ids=ids).last_hidden_state[0]
    assert torch.equal(model.next_logits(hidden), expected)
    whole = model.over_vocabulary(hidden, entropy)
    assert torch.allclose(model.over_vocabulary(hidden, entropy, chunk_elements=300), whole, atol=FLOAT32)


def both(logits, targets):
    return token_logp(logits, targets), entropy(logits)


@pytest.mark.parametrize("name", ["Qwen3", "Gemma2", "MiniCPM3"])
def test_chunks_change_neither_values_nor_gradients(name):
    model = Model.wrap(architectures.build(name))
    temperature = torch.linspace(0.5, 2, LAYOUT.n_targets)
    results = []
    for chunk_elements in (2**24, 97 * 7):
        hidden = model.hidden(LAYOUT)
        out = model.over_vocabulary(
            hidden, both, LAYOUT.targets, temperature=temperature, chunk_elements=chunk_elements
        )
        model.hf.zero_grad()
        (out[0].sum() + 0.3 * out[1].sum()).backward()
        results.append((torch.stack(out), {n: p.grad.clone() for n, p in model.train_parameters().items()}))
    (whole, whole_gradients), (parts, parts_gradients) = results
    assert torch.allclose(parts, whole, atol=FLOAT32)
    for parameter, gradient in whole_gradients.items():
        assert (parts_gradients[parameter] - gradient).abs().max() <= FLOAT32 * gradient.norm() + EPS32


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements of any tensor an operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_logits_of_all_tokens_never_exist():
    vocabulary, width, n_targets = 5000, 8, 400
    lm_head = torch.nn.Linear(width, vocabulary, bias=False)
    hidden = torch.randn(n_targets, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.arange(n_targets)

    def run(chunk_elements):
        with LargestTensor() as watch:
            logp = over_vocabulary(lm_head, vocabulary, hidden, token_logp, targets, chunk_elements=chunk_elements)
            logp.sum().backward()
        return watch.elements

    assert run(50_000) <= 50_000
    assert run(2**24) == n_targets * vocabulary  # the watch does see them when they exist


def test_no_targets_give_empty_results():
    model = Model.wrap(architectures.build("Qwen3"))
    assert model.logp(Layout.of([([1, 2], [])])).shape == (0,)
