"""Exact success against sampling and its own bookkeeping."""

import json

import numpy as np
import pytest
import torch
from tests.rounding import FLOAT32
from transformers import AutoModelForCausalLM, AutoTokenizer

from offon.testbed import MODELS, TestbedTask, model_path
from offon.testbed.oracle import exact, family_table
from offon.testbed.train import TOLERANCE, largest_difference
from offon.types import Verdict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def student():
    path = model_path("student")
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(path)


def test_exact_success_is_the_frequency_of_sampled_success(student):
    model, tokenizer = student
    task = TestbedTask(["rare", "format", "guard"])
    items = task.items("heldout")[:6]
    torch.manual_seed(0)
    n = 1000
    for item, row in zip(items, exact(model, tokenizer, items), strict=True):
        prompt = tokenizer(item.prompt, return_tensors="pt")
        out = model.generate(**prompt, num_return_sequences=n, top_k=0)
        texts = tokenizer.batch_decode(out[:, prompt.input_ids.shape[1] :], skip_special_tokens=True)
        verdicts = task.verify([(item, text) for text in texts])
        for frequency, p in (
            (np.mean([v.score for v in verdicts]), row.success),
            (np.mean([v.content for v in verdicts]), row.content),
        ):
            assert abs(frequency - p) < 4.5 * (p * (1 - p) / n) ** 0.5 + 1 / n  # 12 two-sided checks: 1e-4 in all


def test_success_does_not_depend_on_how_much_of_the_tree_is_expanded(student):
    model, tokenizer = student
    items = TestbedTask(["rare", "absent"]).items("heldout")[:6]
    coarse, fine = (exact(model, tokenizer, items, min_reach=cut) for cut in (0.3, 1e-3))
    for a, b in zip(coarse, fine, strict=True):
        assert a.success == pytest.approx(b.success, rel=FLOAT32)
        assert a.content == pytest.approx(b.content, rel=FLOAT32)
        assert a.routes == pytest.approx(b.routes, rel=FLOAT32)
        assert a.residual > b.residual


def test_any_predicate_can_be_asked(student):
    """The share of responses that open with `backward` is the probability of that route, up to what was cut."""
    model, tokenizer = student
    items = TestbedTask("rare").items("heldout")[:3]

    def backward(pairs):
        return [Verdict(float(text.startswith("backward"))) for _, text in pairs]

    for row in exact(model, tokenizer, items, verify=backward):
        assert row.success <= row.routes["backward"] <= row.success + row.residual


def test_the_hint_view_changes_the_prompt_and_not_the_answer(student):
    model, tokenizer = student
    items = TestbedTask("scaffold").items("heldout")[:4]
    for plain, hinted in zip(exact(model, tokenizer, items), exact(model, tokenizer, items, view="hint"), strict=True):
        assert plain.success < 0.05 and hinted.success > 0.3


@pytest.mark.parametrize("name", ["base", "student"])
def test_shipped_models_do_what_the_recorded_table_says(name):
    """All held-out items. Success, content and routes do not depend on the cut, so a coarse one is enough."""
    path = model_path(name)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    table = family_table(model, AutoTokenizer.from_pretrained(path), TestbedTask().items("heldout"), min_reach=0.05)
    recorded = json.loads((MODELS / "oracle.json").read_text())[name]
    difference, where = largest_difference(table, recorded)
    assert difference < 1e-3 < TOLERANCE[name], where
