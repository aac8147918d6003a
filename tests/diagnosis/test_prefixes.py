"""Where responses are cut into steps, and how likely the model takes each of them."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from offon.diagnosis.measurements import DiagnosisSampler
from offon.diagnosis.prefixes import SHORT, half, prefixes, step_ends
from offon.models.model import Model
from offon.tasks import open_task
from offon.testbed import model_path
from offon.types import Group, Item, Sampling


def letters(tokens):
    """A vocabulary of single characters."""
    return "".join(map(chr, tokens))


def steps_of(text):
    tokens = tuple(map(ord, text))
    ends = step_ends(tokens, letters)
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def test_short_responses_are_cut_at_every_token():
    assert steps_of("12 + 7 = 19") == list("12 + 7 = 19")


def test_lines_are_steps_and_long_ones_are_cut_at_sentences_then_clauses_then_by_length():
    assert steps_of("first, a line\nsecond line\nend") == ["first, a line\n", "second line\n", "end"]
    assert steps_of("It is three. Now add 2. So it is 5.") == ["It is three.", " Now add 2.", " So it is 5."]
    assert steps_of("take one and 2, then three of them") == ["take one and 2,", " then three of t", "hem"]
    assert [len(step) for step in steps_of("x" * 40)] == [SHORT, SHORT, 8]
    assert steps_of("pi is about 3.14159 and e is 2.71828") == ["pi is about 3.14", "159 and e is 2.7", "1828"]


@pytest.mark.parametrize("text", ["a" * 17, "one line that has no break but ends in one\n", "a. " * 9, "aa,bb" * 11])
def test_every_long_response_has_a_beginning_that_leaves_something_to_finish(text):
    tokens = tuple(map(ord, text))
    beginnings = prefixes(tokens, letters)
    assert beginnings[-1] == tokens and 0 < len(beginnings[0]) <= SHORT < len(tokens)
    assert 0 < len(half(tokens, step_ends(tokens, letters))) < len(tokens)


def test_characters_of_several_tokens_do_not_shift_the_cuts():
    """Two bytes to a letter: the text of half a letter is a replacement character."""
    text = "über. " + "ö" * 5 + ". ende"
    tokens = tuple(text.encode())
    ends = step_ends(tokens, lambda part: bytes(part).decode(errors="replace"))
    assert [bytes(tokens[:end]).decode() for end in ends[:2]] == ["über.", "über. ööööö."]


def test_improbable_steps_are_counted_from_the_models_own_probabilities():
    """By hand from transformers' logits: steps x1, x2 after `forward`, up to where the model is placed."""
    model, hf = Model.load(model_path("base")), AutoModelForCausalLM.from_pretrained(model_path("base"))
    items = open_task({"testbed": ["absent", "guard"]}).items("heldout")[:8]
    ids = [tuple(model.tokenizer(item.prompt).input_ids) for item in items]
    groups = [Group(item=item, views={"prompt": prompt}) for item, prompt in zip(items, ids, strict=True)]
    sampler = DiagnosisSampler(
        model, None, open_task("testbed:guard"), groups, Sampling(max_tokens=8), salt=0, progress=None
    )
    sampler._record = lambda name, requests: None
    sampler.ask_teacher(np.arange(8))
    for p, item in enumerate(items):
        response = model.tokenizer(item.reference).input_ids
        with torch.no_grad():
            logits = hf(torch.tensor([[*ids[p], *response]])).logits[0, len(ids[p]) - 1 : -1].double()
        each = logits.softmax(-1)[range(len(response)), response].numpy()
        assert sampler.placements[p].last == tuple(response[:3]) and sampler.placements[p].first == tuple(response[:1])
        count, least = sampler.barriers[p]
        assert count == (each[1:3] < 0.3).sum() and least == pytest.approx(each[1:3].min(), rel=1e-4)
    assert {item.family for p, item in enumerate(items) if sampler.barriers[p][0]} == {"absent"}


def test_an_answer_places_nobody():
    """Rows of a prompt and its answer: what is checked is no response. A whole one is, and so is a right sample."""
    rows = [{"prompt": f"{n} + 1 =", "answer": str(n + 1)} for n in range(4)]
    [plain, *_] = open_task({"jsonl": rows, "verifier": "numeric", "heldout": 0}).items("train")
    assert plain.reference is None and plain.solution == plain.columns["answer"]
    for column in ("completion", "solution"):
        told = [row | {column: f"Adding one gives {row['answer']}."} for row in rows]
        item = open_task({"jsonl": told, "verifier": "numeric", "heldout": 0}).items("train")[0]
        assert item.reference == item.whole_reference == f"Adding one gives {item.columns['answer']}."
    assert Item(id="0", prompt="0", columns={"answer": " 5"}, reference="5").whole_reference is None
