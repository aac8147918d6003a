"""Pages of one comparison, one diagnosis, one study: the same blocks, the same care."""

import copy
import html
import json
import math
import re

import pytest

from offon import reporting
from tests.reporting import handed, shapes
from tests.reporting.synthetic import ATTACK, attacked
from tests.reporting.test_report import visible

PAGES = {
    "comparison": (reporting.write_comparison, shapes.comparison),
    "diagnosis": (reporting.write_diagnosis, shapes.diagnosis),
    "attribution": (reporting.write_attribution, lambda: copy.deepcopy(handed.ATTRIBUTION)),
}
OPTIONAL = {
    "comparison": ("trajectories", "classes", "where", "exact", "tree", "instruments", "cost", "role", "families")
    + ("before_model", "after_model", "sentence", "k", "trainability", "retention"),
    "diagnosis": ("teacher", "budget", "verifier", "plan", "cost", "controls", "suggestions", "notes", "prevalence")
    + ("sentence",),
    "attribution": ("subsets", "interaction", "total", "notes", "infeasible"),
}


def written(kind, tmp_path, change=lambda entry: entry):
    write, made = PAGES[kind]
    return write(change(made()), tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_of_its_own_loads_nothing_and_runs_nothing(kind, tmp_path):
    page = written(kind, tmp_path)
    assert "default-src 'none'" in page and len(re.findall(r"<script\b", page)) == 1
    targets = re.findall(r"""\b(?:src|href|action|data|poster|srcset)\s*=\s*["']([^"']*)""", page)
    assert all(target.startswith("#") or target == "data:," for target in targets)
    assert not re.search(r"@import|url\((?!#)", page)


@pytest.mark.parametrize("kind", PAGES)
def test_what_is_missing_leaves_no_trace(kind, tmp_path):
    def without(*names):
        return lambda entry: {name: value for name, value in entry.items() if name not in names}

    for names in ((), *((name,) for name in OPTIONAL[kind]), OPTIONAL[kind]):
        text = visible(written(kind, tmp_path, without(*names)))
        assert not re.search(r"\b(None|nan|NaN|undefined|Infinity)\b|\{\{|\{%", text), names


@pytest.mark.fault("F54")
@pytest.mark.parametrize("kind", PAGES)
def test_every_text_of_an_entry_is_escaped(kind, tmp_path):
    """Every string of the entry, names of tasks and families too, is an attack; calls and kinds are ours."""
    ours = ("call", "name", "cell", "map", "sub") if kind == "comparison" else ("call", "sub")

    page = written(kind, tmp_path, lambda entry: attacked(entry, ours, ("families", "shapley")))
    assert ATTACK not in page and "<img" not in page and len(re.findall(r"<script\b", page)) == 1
    assert "&lt;script&gt;document.title" in page
    block = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1]
    assert "<" not in block


def test_the_page_of_a_comparison_repeats_its_numbers(tmp_path):
    entry = shapes.comparison()
    page = written("comparison", tmp_path, lambda _: entry)
    text = re.sub(r"\s+", " ", visible(page))
    change = entry["d1"]["total"]
    low, high = (f"{100 * change[end]:+.1f}" for end in ("low", "high"))
    assert f"+{100 * change['estimate']:.1f} {low} to {high}" in text
    assert text.count("12 newly within reach, 40 within reach both times") == 1
    assert "4,096-token responses: the tree cannot be enumerated whole" in text and "Not applicable here" in text
    assert "3.0% → 69.0%" in text and "Not followed to an end: 13.0% of the responses before, 9.0% after" in text
    assert "Newly worded: +12.1 points (+6.1 to +18.1)" in text and "34.0% (29.0 to 39.0) of them" in text
    assert "on the 12 prompts that changed most" in text and "4,312 evaluations of at most 23.7k" in text
    gained = sum(prompt["call"] == "gained" for prompt in entry["prompts"])
    assert f"{gained} gained: out of reach, now within" in text
    block = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])
    assert block == json.loads(json.dumps(entry))


def test_the_page_of_a_diagnosis_says_first_what_a_person_needs_first(tmp_path):
    entry = shapes.diagnosis()
    text = visible(written("diagnosis", tmp_path, lambda _: entry))
    sentence = entry["sentence"]
    said = [sentence[:1].upper() + sentence[1:], "Why the model fails", "What to try", "Prompt by prompt", "Controls"]
    places = [text.index(part) for part in (*said, "Spent: 9,120 rollouts")]
    assert places == sorted(places)
    assert "It was right if" in text and "Speaks against" in text
    assert "The checker accepts 92.0% (88.0 to 96.0) of right answers and 3.0% (1.0 to 5.0) of wrong ones" in text
    assert "after another prompt's first steps 1.0% (0.0 to 2.0)" in re.sub(r"\s+", " ", html.unescape(text))
    assert text.count("✗ failed") == 1 and "39.0% (29.0 to 49.0) of 64" in text
    assert "the teacher starts over" not in text, "a control with numbers needs no note"
    assert "16 more after the reference" in text and "31 or more" not in text and "3 or more" in text


def test_several_diagnoses_make_one_page(tmp_path):
    one, other = shapes.diagnosis(), shapes.diagnosis(1) | {"task": "other"}
    text = visible(reporting.write_diagnosis([one, other], tmp_path / "page.html").read_text())
    assert "testbed and other" in text and "160" not in text.split("Why the model fails")[0]


def test_an_interval_without_an_end_is_null_in_the_data_of_a_page(tmp_path):
    study = copy.deepcopy(handed.ATTRIBUTION)
    study["shapley"]["testbed"]["sft"]["high"] = math.inf
    page = written("attribution", tmp_path, lambda _: study)
    block = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])
    assert block["shapley"]["testbed"]["sft"]["high"] is None and "to no bound" in page
