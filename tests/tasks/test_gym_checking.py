"""Every data set of reasoning-gym has a checking that is sound: equal answers are right, others are not."""

from pathlib import Path

import pytest

from offon.errors import ConfigError
from offon.tasks import open_task
from offon.tasks.gym import sound_scorer
from offon.tasks.gym.checking import CHECKING, page

pytestmark = pytest.mark.slow

gym = pytest.importorskip("reasoning_gym")
JUNK = ["", "zzz", "-", "[[2]]", "null", "1e999999", "9" * 5000]


def test_every_data_set_has_a_line_and_the_page_is_the_table():
    from reasoning_gym.factory import DATASETS

    assert set(CHECKING) == set(DATASETS)
    assert (Path(__file__).parents[2] / "docs" / "gym.md").read_text() == page()


CHEAP = sorted(name for name, one in CHECKING.items() if one.how != "refused" and name not in ("composite", "boxnet"))


@pytest.mark.parametrize("name", CHEAP)
def test_the_reference_is_right_and_junk_and_sentences_are_wrong(name):
    entry = gym.create_dataset(name, size=2, seed=1)[1]
    right, answer = sound_scorer(name, {"size": 1, "seed": 0}), entry["answer"]
    known = answer or entry["metadata"].get("example_correct_answer")
    assert known is None or right(known, entry)
    for text in [*JUNK, f"the answer is {answer}", f"{answer}\n{answer}"]:
        assert text == answer or not right(text, entry), text


# (data set, metadata, the reference, other right answers, wrong ones): the questions are ours
EQUAL = [
    (
        "countdown",
        {"numbers": [2, 3, 4], "target": 14},
        "2 + 3*4",
        ["4*3+2", "3 * 4 + 2", "(4 × 3) + 2", "2 − -(3*4)"],
        [
            "14",
            "2+3*4 = 14",
            "2 + 12",
            "2*7",
            "2+3+4",
            "4*3+2+0",
            "__import__('os')",
            "2**3 + 4",
            "2 + 3*4 + 2 - 2",
            "(3*4+2",
        ],
    ),
    (
        "puzzle24",
        {"numbers": [4, 8, 6, 2]},
        "4*8 - 6 - 2",
        ["8*4-2-6", "(8*4) - (6 + 2)"],
        ["24", "8*4 - 8", "4*6*2/2*8/8"],
    ),
    (
        "prime_factorization",
        {"factors": [2, 2, 5]},
        "2 × 2 × 5",
        ["5 × 2 × 2", "2*2*5", "2^2 × 5", "5 x 2 x 2", r"2 \times 2 \times 5", "2² × 5", "2**2 * 5"],
        ["20", "2 × 10", "4 × 5", "2 × 5", "1 × 2 × 2 × 5", "2 + 2 + 5"],
    ),
    (
        "complex_arithmetic",
        {"result": (-2.0, 3.0)},
        "-2.0 + 3.0i",
        ["-2+3i", "3i - 2", "3.0j-2.0", "(-2 + 3i)", "\u22122 + 3i"],
        ["-2", "3i", "2 + 3i", "-2 - 3i", "-2 + 3", "x + 3i", "-2 + 3i + 1 - 1x"],
    ),
    (
        "simple_integration",
        {"integrand": "6*x**2 + 2", "variable": "x"},
        "2*x**3 + 2*x + C",
        ["C + 2*x + 2*x**3", "2*(x**3+x)+C", "2x**0*x**3+2*x".replace("2x", "2*x"), "2*x^3 + 2*x + 7"],
        ["2*x**3", "6*x**2 + 2", "2*x**3 + 2*x + C*x", "2*y**3 + 2*y", "x", "exec('1')", "2*x**3 + 2*x = F"],
    ),
    (
        "intermediate_integration",
        {"integrand": "2*x*exp(x**2)", "variable": "x"},
        "exp(x**2) + C",
        ["C + E**(x**2)", "exp(x*x) + C"],
        ["exp(x)", "2*exp(x**2) + C"],
    ),
    (
        "polynomial_multiplication",
        {"variables": ["x", "y"]},
        "x**2 - y**2",
        ["(x-y)*(x+y)", "-y^2 + x^2"],
        ["x**2 + y**2", "x - y", "z"],
    ),
    (
        "polynomial_equations",
        {},
        "-1.5, 2.0",
        ["2, -1.5", "2.0,-1.50", "-3/2, 2"],
        ["-1.5", "2.0", "1.5, 2.0", "-1.5, 2.0, 2.0"],
    ),
    (
        "fraction_simplification",
        {"simplified_numerator": 3, "simplified_denominator": 7},
        "3/7",
        ["3 / 7", r"$\frac{3}{7}$", r"\dfrac{3}{7}"],
        ["6/14", "0.428571", "7/3"],
    ),
    (
        "power_function",
        {},
        "-0.0013674811612376526",
        ["-1.37e-3", "-0.00137", "-1.37e-03"],
        ["-1.36e-3", "1.37e-3", "-0.001"],
    ),
    ("coin_flip", {}, "0.3125", ["5/16", "0.31250", ".3125"], ["0.31", "1/3", "[0.3125]"]),
    (
        "pool_matrix",
        {},
        "4.5 4.5\n4.75 5.0",
        ["4.50 4.5\n4.75 5", " 4.5  4.5 \n4.75 5.00"],
        ["4.50 4.50 4.75 5.00", "4.5 4.5\n4.75 5.2", "4.5 4.5"],
    ),
    (
        "advanced_geometry",
        {},
        "(4.051, -5.487)",
        ["(4.051,-5.487)", "(4.0512, -5.4871)"],
        ["(4.05, -5.49)", "(-5.487, 4.051)"],
    ),
    (
        "number_sorting",
        {},
        "['3.5', '-1.0']",
        ['["3.5", "-1.0"]', "['3.5','-1.0']", "[3.5, -1]"],
        ["['-1.0', '3.5']", "3.5, -1.0"],
    ),
    ("list_functions", {}, "[5, 8]", ["[5,8]"], ["[8, 5]", "5, 8", "[5, 8, 8]"]),
    (
        "codeio",
        {},
        '{"a": [1, 2], "b": true}',
        ['{"b": true, "a": [1,2]}', "{'a': [1, 2], 'b': True}"],
        ['{"a": [2, 1], "b": true}', '{"a": [1, 2], "b": 1}'],
    ),
    ("word_sorting", {}, "pear, Fig, apple", ["pear,Fig,apple"], ["Fig, pear, apple", "pear, fig, apple"]),
    ("time_intervals", {}, "3 days, 01:04:00", ["3 days,01:04:00"], ["3 days", "4 days, 01:04:00"]),
    ("syllogism", {}, "Yes", ["yes", "YES."], ["No", "yes or no"]),
    (
        "knights_knaves",
        {
            "names": ["Ann", "Bo"],
            "solution": (True, False),
            "knight_knave_terms": {"knight": "hero", "knave": "villain"},
        },
        "Ann is a hero, and Bo is a villain.",
        ["Bo is a villain, and Ann is a hero", "ann is a hero and bo is a villain."],
        [
            "Ann is a hero.",
            "Ann is a villain, and Bo is a hero.",
            "Ann is a hero, Ann is a villain, and Bo is a villain.",
            "Ann is a hero, and Bo is not a villain.",
        ],
    ),
    (
        "n_queens",
        {"valid_answers": ["_ Q _ _\n_ _ _ Q\nQ _ _ _\n_ _ Q _", "_ _ Q _\nQ _ _ _\n_ _ _ Q\n_ Q _ _"]},
        "_ Q _ _\n_ _ _ Q\nQ _ _ _\n_ _ Q _",
        ["_ _ Q _\nQ _ _ _\n_ _ _ Q\n_ Q _ _", "_ _ Q _ \nQ  _ _ _\n_ _ _ Q\n_ Q _ _\n"],
        ["_ Q _ _ _ _ _ Q Q _ _ _ _ _ Q _ x", "Q _ _ _\n_ Q _ _\n_ _ Q _\n_ _ _ Q"],
    ),
    (
        "mini_sudoku",
        {"puzzle": [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]},
        "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1",
        ["1 3 2 4\n2 4 1 3\n3 1 4 2\n4 2 3 1"],
        ["2 1 3 4\n3 4 1 2\n1 2 4 3\n4 3 2 1", "1 2 3 4\n2 1 4 3\n3 4 1 2\n4 3 2 1", "1 2 3 4"],
    ),
    (
        "survo",
        {"puzzle": [[0, 0, 5], [0, 0, 5], [5, 5, 10]], "candidate_numbers": [1, 4, 4, 1]},
        "1 4 5\n4 1 5\n5 5 10",
        ["4 1 5\n1 4 5\n5 5 10"],
        ["2 3 5\n3 2 5\n5 5 10"],
    ),
]


@pytest.mark.parametrize("name, metadata, reference, equal, other", EQUAL, ids=[case[0] for case in EQUAL])
def test_equal_answers_are_right_and_others_are_wrong(name, metadata, reference, equal, other):
    right = sound_scorer(name, {"size": 1, "seed": 0})
    entry = {"answer": reference, "metadata": metadata}
    assert [text for text in [reference, *equal] if not right(text, entry)] == []
    assert [text for text in other if right(text, entry)] == []


def test_several_right_answers_are_never_matched_as_text_unless_asked():
    """The default accepts an answer in another order, where exact match knows one; a share of the credit is none."""
    sound = open_task({"gym": "prime_factorization", "size": 20, "heldout": 0})
    item = next(item for item in sound.items("train") if len(set(item.reference.split(" × "))) > 1)
    other = " × ".join(reversed(item.reference.split(" × ")))
    verdicts = sound.verify(
        [
            (item, other),
            (item, f"<answer>{other}</answer>"),
            (item, f"it is {item.reference}, I think"),
            (item, "7 × 7"),
        ]
    )
    assert [(v.score, v.content) for v in verdicts] == [(1, 1), (1, 1), (0, 1), (0, 0)]
    exact = open_task({"gym": "prime_factorization", "size": 20, "heldout": 0, "scorer": "exact"})
    assert [v.score for v in exact.verify([(item, other), (item, item.reference)])] == [0, 1]


def test_native_scores_below_one_are_wrong():
    task = open_task({"gym": "palindrome_generation", "size": 3, "heldout": 0})
    item = task.items("train")[0]
    assert [v.score for v in task.verify([(item, item.reference), (item, "ab"), (item, "aa")])] == [1, 0, 0]


def test_a_composite_is_checked_by_its_parts_and_refused_with_one_that_cannot_be():
    task = open_task(
        {"gym": "composite", "datasets": [{"name": "lcm"}, {"name": "countdown"}], "size": 12, "heldout": 0}
    )
    items = task.items("train")
    assert {item.family for item in items} == {"lcm", "countdown"}
    assert [v.score for v in task.verify([(item, item.reference) for item in items])] == [1] * len(items)
    assert {
        v.score for v in task.verify([(item, f"({item.reference})") for item in items if item.family == "countdown"])
    } == {1}
    for spec in (
        "gym:propositional_logic",
        {"gym": "composite", "datasets": [{"name": "lcm"}, {"name": "propositional_logic"}]},
    ):
        with pytest.raises(ConfigError, match="answers to propositional_logic cannot be checked"):
            open_task(spec)
