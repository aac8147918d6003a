"""Reference answers that are not text."""

from decimal import Decimal

import numpy as np
import pytest

from offon.errors import DataError
from offon.tasks import open_task
from offon.tasks.api import scored
from offon.tasks.jsonl import named_check
from offon.tasks.references import accepted
from offon.types import Item


def score(verifier, answer, text, **options):
    task = open_task({"jsonl": [{"prompt": "q", "answer": answer}], "verifier": verifier, "heldout": 0, **options})
    [item] = task.items("train")
    [verdict] = task.verify([(item, text)])
    return verdict.score


@pytest.mark.parametrize(
    "answer, texts",
    [
        ("5", ("5",)),
        (5, ("5",)),
        (5.0, ("5", "5.0")),
        (-0.0, ("0", "-0.0")),
        (2.5, ("2.5",)),
        (1e20, ("100000000000000000000", "1e+20")),
        (True, ("true", "True")),
        (np.float32(3), ("3", "3.0")),
        (np.bool_(False), ("false", "False")),
        (Decimal("4"), ("4",)),
        (["5", "five"], ("5", "five")),
        ([5.0, "5"], ("5", "5.0")),
        (np.array([1, 2]), ("1", "2")),
        (None, ()),
        (("a",), ("a",)),
    ],
)
def test_an_answer_has_its_accepted_texts(answer, texts):
    assert accepted(answer) == texts


@pytest.mark.parametrize(
    "verifier, answer, right, wrong",
    [
        ("exact", 8.0, "8", "8.1"),
        ("exact", 8.0, "8.0", "80"),
        ("exact", True, "true", "false"),
        ("exact", False, "False", "True"),
        ("exact", ["8", "eight"], "eight", "['8', 'eight']"),
        ("numeric", ["8", "9"], "8", "7"),
        ("numeric", [8, 9.0], "9", "10"),
        ("numeric", 8.0, "8", "9"),
        ("numeric", ["eight", 8], "8", "9"),
        ("math", 0.125, "$1/8$", "$8$"),
        ("math", ["x+1", "y+1"], r"\boxed{1+y}", r"\boxed{z+1}"),
    ],
)
@pytest.mark.slow
def test_any_accepted_answer_is_right(verifier, answer, right, wrong):
    assert score(verifier, answer, right) == 1 and score(verifier, answer, wrong) == 0


def test_a_list_without_a_usable_reference_is_unscored():
    assert score("numeric", ["eight", "nine"], "8") is None


@pytest.mark.parametrize("verifier", ["exact", "numeric", "math"])
def test_a_row_of_data_without_an_answer_is_unscored_whichever_task_judges_it(verifier):
    [verdict] = named_check(verifier)([(Item(id="a", prompt="q", columns={}), "8")])
    assert verdict.score is None and "no answer" in verdict.reason


def test_answers_that_are_none_are_refused_with_their_rows_when_the_task_is_opened():
    bad = [{"value": 5}, [], [["5"]], float("nan"), ["5", None], [{"value": 5}]]
    rows = [{"prompt": "fine", "answer": "5"}, *({"prompt": f"q{i}", "answer": answer} for i, answer in enumerate(bad))]
    for verifier in ("exact", "numeric", "math"):
        with pytest.raises(DataError, match="6 of 7 rows") as caught:
            open_task({"jsonl": rows, "verifier": verifier}).items("train")
        assert "row 1: answer holds a mapping" in str(caught.value) and "row 2: answer is an empty list" in str(
            caught.value
        )


def test_a_list_of_answers_suits_a_pattern():
    assert score("regex", ["8", "eight"], "it is eight.", pattern=r"is (\w+)") == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int8, np.uint64, np.bool_])
def test_scalars_of_numpy_are_verdicts(dtype):
    assert scored(dtype(1)).score == scored(np.array(1, dtype)).score == scored(np.array([1], dtype)).score == 1.0


def test_scalars_of_torch_are_verdicts_and_what_is_not_finite_is_none():
    import torch

    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool):
        assert scored(torch.ones((), dtype=dtype)).score == 1.0
    assert scored(torch.tensor(0.5, requires_grad=True)).score == 0.5 and scored(Decimal("0.5")).score == 0.5
    odd = [
        torch.tensor(float("nan")),
        np.float32("inf"),
        -np.inf,
        Decimal("NaN"),
        10**400,
        np.ones(2),
        torch.zeros(0),
        1j,
        "1",
    ]
    for value in odd:
        assert scored(value).score is None and scored(value).reason, value
