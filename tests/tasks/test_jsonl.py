"""Items from files, and named verifiers on them."""

import json

import pytest

from offon.errors import DataError
from offon.tasks import open_task
from offon.tasks.api import response_classes

ROWS = [{"prompt": f"{a} + {b}?", "answer": str(a + b), "level": a} for a in range(6) for b in range(6)]


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return str(path)


def test_rows_become_items_with_their_columns(problems):
    task = open_task({"jsonl": problems, "verifier": "numeric", "heldout": 0.25})
    train, heldout = task.items("train"), task.items("heldout")
    assert len(train) + len(heldout) == 36 and task.counts["distinct"] == 36
    item = next(item for item in (*train, *heldout) if item.prompt == "2 + 3?")
    assert dict(item.columns) == {"answer": "5", "level": 2}
    assert (item.family, item.reference, task.name) == ("problems", None, "problems")  # an answer only checks


def test_a_template_changes_the_prompt_and_not_the_split(problems):
    plain = open_task({"jsonl": problems})
    asked = open_task({"jsonl": problems, "template": "Q: {question}\nA:"})
    assert [item.id for item in asked.items("heldout")] == [item.id for item in plain.items("heldout")]
    assert asked.items("train")[0].prompt == f"Q: {plain.items('train')[0].prompt}\nA:"


def test_messages_are_taken_as_they_are_and_views_are_further_prompts():
    prompt = [{"role": "user", "content": "1 + 1?"}]
    rows = [{"prompt": prompt, "answer": 2, "views": {"hint": "1 + 1? It is even."}}]
    [item] = open_task({"jsonl": rows, "heldout": 0, "form": "chat"}).items("train")
    assert item.prompt == tuple(prompt)
    assert item.views == {"hint": ({"role": "user", "content": "1 + 1? It is even."},)}


def test_columns_are_mapped(problems):
    rows = [{"question": "1 + 1?", "solution": "2"}]
    task = open_task({"jsonl": rows, "columns": {"prompt": "question", "answer": "solution"}, "heldout": 0})
    assert task.items("train")[0].columns == {"answer": "2"}
    with pytest.raises(DataError, match="columns: {prompt: question, answer: solution}"):
        open_task({"jsonl": rows}).items("train")


@pytest.mark.fault("F12")
def test_bad_rows_are_named_together():
    rows = [*ROWS, {"prompt": "", "answer": "1"}, {"prompt": "x", "answer": None}]
    with pytest.raises(DataError, match="2 of 38 rows") as caught:
        open_task({"jsonl": rows}).items("train")
    assert "row 36: prompt is neither" in str(caught.value) and "row 37: no answer" in str(caught.value)


def test_a_held_out_file_is_kept_apart(problems, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS[:4])))
    task = open_task({"jsonl": problems, "heldout": str(path)})
    assert (len(task.items("train")), len(task.items("heldout"))) == (32, 4)


@pytest.mark.parametrize(
    "options, right, wrong",
    [
        ({"verifier": "exact"}, "5", "the answer is 5"),
        ({"verifier": "numeric"}, "the answer is 5.0", "5 or 6"),
        ({"verifier": "regex", "pattern": r"= (\d+)"}, "2 + 3 = 5", "5"),
        ({"verifier": "math"}, "$\\frac{10}{2}$", "$x$"),
    ],
)
def test_each_verifier_tells_right_from_wrong(options, right, wrong):
    task = open_task({"jsonl": [{"prompt": "2 + 3?", "answer": 5}], "heldout": 0, **options})
    [item] = task.items("train")
    assert [verdict.score for verdict in task.verify([(item, right), (item, wrong), (item, right)])] == [1, 0, 1]


@pytest.mark.slow
def test_an_expression_that_never_ends_and_a_pattern_that_backtracks_are_unscored():
    """`5^{5^{5^5}}` loops in C; (a+)+b on a's takes 2^n steps. Both are None with a reason, their neighbours scored."""
    rows = [{"prompt": "x", "answer": "aaab"}]
    cases = [
        ({"verifier": "regex", "pattern": "((?:a+)+b)"}, "a" * 60, "aaab"),
        ({"verifier": "math"}, "$5^{5^{5^{5}}}$", "$aaab$"),
    ]
    for options, hangs, right in cases:
        task = open_task({"jsonl": rows, "heldout": 0, "limit_s": 1.5, **options})
        [item] = task.items("train")
        hung, scored = task.verify([(item, hangs), (item, right)])
        assert hung.score is None and hung.reason, options
        assert scored.score == 1, options


@pytest.mark.parametrize(
    ("options", "same", "other"),
    [
        ({"verifier": "exact"}, ("<answer>a  b</answer>", "so\n<answer>a b</answer>"), "a c"),
        ({"verifier": "numeric"}, ("1 + 1 is 2", "2.0", "#### 4/2"), "3"),
        ({"verifier": "regex", "pattern": r"= (\w+)"}, ("x = y = z", "= z"), "= y"),
        ({"verifier": "math"}, (r"$\frac{2}{4}$", "1/2"), "2"),
    ],
)
def test_equal_answers_have_one_name_and_text_without_an_answer_none(options, same, other):
    task = open_task({"jsonl": ROWS, **options})
    kind, name = response_classes(task)
    item = task.items("heldout")[0]
    names = {name(item, text) for text in same}
    assert kind == "answer" and len(names) == 1 and ("",) not in names
    assert name(item, other) not in names and name(item, "") == ("",)
