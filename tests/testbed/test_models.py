"""The shipped directories: they load, are small, hold what is promised, and training is reproducible."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from offon.errors import ConfigError, ModelError
from offon.testbed import MODELS, TestbedTask, model_path
from offon.testbed.grammar import VOCABULARY
from offon.testbed.train import PLANS, check_planting, make_model, markdown, settle_head, train

ORACLE = json.loads((MODELS / "oracle.json").read_text())
SHORT = dataclasses.replace(PLANS["student"], steps=4, documents=16)


@pytest.fixture(scope="module", params=list(PLANS))
def shipped(request):
    path = model_path(request.param)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), AutoTokenizer.from_pretrained(path)


def test_shipped_directories_are_small_and_hold_no_pickles():
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 2e6
    assert {path.suffix for path in files} == {".json", ".jinja", ".safetensors"}


def test_the_vocabulary_is_the_grammar_and_one_word_is_one_token(shipped):
    model, tokenizer = shipped
    assert model.config.vocab_size == len(tokenizer) == len(VOCABULARY)
    assert tokenizer.convert_ids_to_tokens(list(range(len(VOCABULARY)))) == list(VOCABULARY)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_prompt_and_response_tokenise_alike_alone_joined_and_through_the_chat_template(shipped):
    _, tokenizer = shipped
    for item in TestbedTask().items("heldout")[:20]:
        prompt, answer = (tokenizer(text).input_ids for text in (item.prompt, item.reference))
        assert tokenizer(f"{item.prompt} {item.reference}").input_ids == prompt + answer
        assert tokenizer.decode(answer + [tokenizer.eos_token_id], skip_special_tokens=True) == item.reference
        user = {"role": "user", "content": item.prompt}
        asked = tokenizer.apply_chat_template([user], add_generation_prompt=True, return_dict=True)
        assert asked["input_ids"] == prompt
        told = tokenizer.apply_chat_template(
            [user, {"role": "assistant", "content": item.reference}],
            return_assistant_tokens_mask=True,
            return_dict=True,
        )
        assert told["input_ids"] == prompt + answer + [tokenizer.eos_token_id]
        assert told["assistant_masks"] == [0] * len(prompt) + [1] * (len(answer) + 1)


def test_the_recorded_tables_keep_the_promises():
    for name in PLANS:
        check_planting(name, ORACLE[name])


@pytest.mark.parametrize(
    ("row", "quantity", "value"),
    [
        ("rare", "success/min", 0.05),
        ("absent/all", "success", 1e-4),
        ("format", "content", 0.5),
        ("guard", "success/min", 0.5),
    ],
)
def test_a_broken_promise_is_an_error_that_names_it(row, quantity, value):
    table = copy.deepcopy(ORACLE["base"])
    table[row][quantity] = value
    with pytest.raises(ModelError, match=f"{row} {quantity} {value:.3g}"):
        check_planting("base", table)


def test_one_plan_gives_the_same_bits_and_another_seed_does_not():
    first, second = (train(SHORT).state_dict() for _ in range(2))
    other = train(dataclasses.replace(SHORT, seed=2)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_settling_the_head_changes_no_bit_of_the_logits():
    model = make_model(PLANS["student"]).eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = model(ids).logits
        settle_head(model)
        assert torch.equal(model(ids).logits, before)
        assert not torch.equal(make_model(PLANS["student"]).lm_head.weight, model.lm_head.weight)


def test_the_documented_tables_are_the_recorded_ones():
    page = (Path(__file__).parents[2] / "docs" / "testbed.md").read_text()
    for name in PLANS:
        assert markdown(ORACLE[name]) in page


def test_an_unknown_model_is_an_error_with_the_shipped_names():
    with pytest.raises(ConfigError, match="base, student"):
        model_path("bass")
