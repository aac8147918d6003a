"""Heads that give numbers: read where they say, equal to transformers' own forward, saved as it loads them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from offon.errors import ModelError
from offon.models.model import LoraSpec, Model
from offon.models.packed.layout import Layout
from tests.rounding import FLOAT32, close
from tests.support import model

SEQUENCES = [((2, 3), [4, 5, 1]), ((2, 3), [6, 1]), ((5,), [7]), ((8, 9, 10), [11, 1])]
AUTO = {"score": AutoModelForSequenceClassification, "value": AutoModelForTokenClassification}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    model(0).save(path)
    return path


def with_head(base, head, **options) -> Model:
    """A model whose head is not 0."""
    loaded = Model.load(base, head=head, device="cpu", **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in loaded.hf.named_parameters():
            if "score" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return loaded


def numbers(loaded: Model, place: str, share: bool = True) -> list[torch.Tensor]:
    layout = Layout.of(SEQUENCES, place=place, share=share)
    return loaded.numbers(loaded.hidden(layout)).detach().split(layout.lengths)


@pytest.mark.parametrize("head", ["score", "value"])
def test_a_new_head_says_zero(base, head):
    loaded = Model.load(base, head=head, device="cpu")
    assert loaded.packed
    assert all(not piece.any() for piece in numbers(loaded, "at"))


def test_a_reward_model_is_what_transformers_computes_at_the_last_token(base, tmp_path):
    with_head(base, "score").save(tmp_path)
    theirs = AUTO["score"].from_pretrained(tmp_path)
    for (prefix, response), ours in zip(SEQUENCES, numbers(Model.load(tmp_path, device="cpu"), "at"), strict=True):
        (expected,) = theirs(input_ids=torch.tensor([[*prefix, *response]])).logits.flatten()
        assert close(ours[-1], expected, FLOAT32)


def test_values_are_what_transformers_computes_before_each_token_and_scores_at_it(base, tmp_path):
    with_head(base, "value").save(tmp_path)
    theirs, ours = AUTO["value"].from_pretrained(tmp_path), Model.load(tmp_path, device="cpu")
    pieces = zip(SEQUENCES, numbers(ours, "before"), numbers(ours, "at"), strict=True)
    for (prefix, response), value, score in pieces:
        expected = theirs(input_ids=torch.tensor([[*prefix, *response]])).logits[0, :, 0]
        first = len(prefix)
        assert close(value, expected[first - 1 : -1], FLOAT32)
        assert close(score, expected[first:], FLOAT32)
        assert (value - score).abs().max() > 0.1, "the two places are told apart"


def test_a_reward_model_made_by_transformers_is_loaded_without_being_told(base, tmp_path):
    AUTO["score"].from_pretrained(base, num_labels=1).save_pretrained(tmp_path)
    model(0).tokenizer.save_pretrained(tmp_path)
    assert type(Model.load(tmp_path, device="cpu").core).__name__ == "Qwen3ForSequenceClassification"


def test_a_critic_that_starts_from_a_reward_model_keeps_its_head(base, tmp_path):
    with_head(base, "score").save(tmp_path)
    reward, critic = Model.load(tmp_path, device="cpu"), Model.load(tmp_path, head="value", device="cpu")
    for ours, theirs in zip(numbers(critic, "at"), numbers(reward, "at"), strict=True):
        assert close(ours, theirs, FLOAT32)


@pytest.mark.parametrize("place", ["before", "at"])
def test_sharing_prefixes_changes_no_number(base, place):
    loaded = with_head(base, "score")
    pairs = zip(numbers(loaded, place), numbers(loaded, place, share=False), strict=True)
    for shared, alone in pairs:
        assert close(shared, alone, FLOAT32)


@pytest.mark.parametrize("place", ["before", "at"])
def test_the_padded_path_reads_the_same_places(base, place):
    loaded = with_head(base, "score")
    packed = torch.cat(numbers(loaded, place))
    loaded.why = "asked for"
    assert close(torch.cat(numbers(loaded, place)), packed, FLOAT32)


@pytest.mark.parametrize("head", ["score", "value"])
def test_an_adapter_trains_the_head_as_well_and_comes_back(base, head, tmp_path):
    loaded = with_head(base, head, lora=LoraSpec(r=2))
    assert any("score" in name for name in loaded.train_parameters())
    loaded.save(tmp_path)
    again = Model.load(tmp_path, device="cpu")
    assert type(again.core) is type(loaded.core)
    assert close(torch.cat(numbers(again, "at")), torch.cat(numbers(loaded, "at")), FLOAT32)


def test_numbers_of_a_language_model_and_log_probs_of_a_reward_model_are_refused(base):
    layout = Layout.of(SEQUENCES)
    lm, reward = model(0), Model.load(base, head="score", device="cpu")
    with pytest.raises(ModelError, match="no head for numbers"):
        lm.numbers(lm.hidden(layout))
    with pytest.raises(ModelError, match="gives numbers"):
        reward.logp(layout)


def test_a_classifier_of_several_labels_is_no_reward_model(base, tmp_path):
    AUTO["score"].from_pretrained(base, num_labels=3).save_pretrained(tmp_path)
    model(0).tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="3 labels"):
        Model.load(tmp_path)
