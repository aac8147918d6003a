"""The ids that a model speaks in: those of its tokenizer, in sampling and in scoring; and those that end a response."""

import warnings

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from offon.engines.api import Request
from offon.engines.native import NativeEngine
from offon.models.mixture import Mixture
from offon.models.model import Model
from offon.models.packed.layout import Layout
from offon.models.tokens import Spoken
from offon.types import Sampling
from tests.models import architectures

N = architectures.VOCABULARY
END, EOS = 7, 2  # what the template ends turns with, and the model's own end
CHAT = "{% for m in messages %}<a>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
TEXT = (10, 11, 12)


def tokenizer(ids=range(N - 20), template=CHAT):
    """A word per id, of which 2, 5 and 7 are control tokens."""
    names = {5: "<a>", END: "<end>", EOS: "<eos>"}
    words = Tokenizer(models.WordLevel({names.get(i, f"t{i}"): i for i in ids}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(list(names.values()))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", chat_template=template)


def wrapped(tokenizer=None, name="Qwen3", **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the padded path is announced by a warning
        return Model.wrap(architectures.build(name, **{"eos_token_id": EOS, **changes}), tokenizer, device="cpu")


def test_spoken_ids_are_those_with_a_token():
    assert Spoken.of(tokenizer(), N) == Spoken(N - 20)
    assert Spoken.of(tokenizer(), N - 30) == Spoken(N - 30)  # a head with fewer rows than tokens
    assert Spoken.of(None, N) == Spoken()
    some = [i for i in range(N - 20) if i not in (30, 41)]
    assert Spoken.of(tokenizer(some), N) == Spoken(N - 20, (30, 41))


@pytest.mark.parametrize("holes", [(), (30, 41)])
def test_log_probs_are_those_of_the_models_own_logits_over_spoken_ids(holes):
    model = wrapped(tokenizer([i for i in range(N - 20) if i not in holes]))
    prompt, said = [3, 4, 5], [9, 10, 11, EOS]
    logits = model.hf(input_ids=torch.tensor([prompt + said])).logits[0, 2:-1].double()
    logits[:, [*range(N - 20, N), *holes]] = -torch.inf
    expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(said)[:, None])[:, 0]
    torch.testing.assert_close(model.logp(Layout.of([(prompt, said)])).double(), expected, atol=1e-5, rtol=0)
    assert model.vocabulary == N - 20


@pytest.mark.parametrize("holes", [(), (30, 41)])
@pytest.mark.parametrize("name", ["Qwen3", "Bloom"])
def test_ids_without_a_token_are_never_sampled_and_samplers_log_probs_are_the_scored_ones(name, holes):
    known = [i for i in range(N - 20) if i not in holes]
    model = wrapped(tokenizer(known), name)
    requests = [Request(TEXT, Sampling(max_tokens=12), (i,)) for i in range(24)]
    made = NativeEngine().generate(requests, model)
    assert {token for one in made for token in one.tokens} <= set(known)
    logp = model.logp(Layout.of([(TEXT, one.tokens) for one in made]))
    torch.testing.assert_close(logp, torch.tensor([x for one in made for x in one.logp]), atol=1e-5, rtol=0)


def test_a_mixture_of_differently_padded_models_is_one_of_their_tokens():
    """Padding is no part of either distribution: half of each, over the same ids."""
    parts = [wrapped(tokenizer()), wrapped(tokenizer(), vocab_size=N + 30)]
    layout = Layout.of([(TEXT, (9, 10, EOS))])
    mixture = Mixture(tuple(parts), (0.5, 0.5), "probability")
    hidden = mixture.hidden(layout)
    logp = torch.log_softmax(mixture.next_logits(hidden), -1).gather(1, layout.targets[:, None])[:, 0]
    own = torch.stack([part.logp(layout) for part in parts])
    torch.testing.assert_close(logp, own.exp().mean(0).log(), atol=1e-5, rtol=0)


def test_gradients_pass_over_ids_without_a_token():
    model = wrapped(tokenizer([i for i in range(N - 20) if i != 30]), tie_word_embeddings=False)
    model.logp(Layout.of([(TEXT, (9, 10, EOS))])).sum().backward()
    moved = model.core.get_output_embeddings().weight.grad.abs().sum(1) > 0
    assert not moved[N - 20 :].any() and not moved[30] and moved[9]
