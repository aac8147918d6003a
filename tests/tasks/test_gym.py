"""reasoning-gym: any dataset by exact match, few by their own scorer."""

import sys

import pytest

from offon.errors import ConfigError
from offon.tasks import open_task, parsed_spec
from offon.tasks.sandbox.box import tried

SMALL = "gym:chain_sum,min_terms=2,max_terms=2,min_digits=1,max_digits=2,size=300"
JUNK = [
    "",
    "zzz",
    "-",
    "[]",
    "{}",
    "[[1]]",
    "null",
    "1e999999",
    "A=1,B=2",
    "9" * 5000,
    "Move disk 1 from Peg 9 to Peg 2",
]


def test_a_missing_package_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "reasoning_gym"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r"pip install 'offon\[gym\]'"):
        open_task("gym:lcm")


@pytest.fixture(scope="module")
def gym():
    return pytest.importorskip("reasoning_gym")


def test_questions_are_distinct_and_split_by_content_whatever_the_seed(gym):
    first, second = open_task(SMALL), open_task(SMALL + ",seed=1")
    counts = first.counts
    assert counts["loaded"] == 300 > counts["distinct"] == counts["train"] + counts["heldout"]
    heldout = {item.id for item in (*first.items("heldout"), *second.items("heldout"))}
    train = {item.id for item in (*first.items("train"), *second.items("train"))}
    assert not heldout & train
    assert {i.id for i in first.items("train")} & {i.id for i in second.items("train")}  # the seeds do overlap


def test_the_same_specification_gives_the_same_items(gym):
    assert open_task(SMALL).items("train") == open_task(SMALL).items("train")


def test_the_reference_is_right_and_the_answer_in_a_sentence_is_right_in_content_only(gym):
    task = open_task(SMALL)
    item = task.items("train")[0]
    answer = item.reference
    verdicts = task.verify(
        [(item, answer), (item, f"it is {answer}."), (item, f"<answer>{answer}</answer>"), (item, "x")]
    )
    assert [(v.score, v.content) for v in verdicts] == [(1, 1), (0, 1), (1, 1), (0, 0)]


def test_prompts_are_messages_by_default_and_text_for_base_models(gym):
    chat, text = open_task(SMALL), open_task({**parsed_spec(SMALL), "form": "text", "template": "{question}\n"})
    question = chat.items("train")[0].columns["question"]
    assert chat.items("train")[0].prompt == ({"role": "user", "content": question},)
    assert text.items("train")[0].prompt == question + "\n"


def test_a_composite_reports_by_the_dataset_each_item_comes_from(gym):
    task = open_task({"gym": "composite", "datasets": [{"name": "lcm"}, {"name": "gcd"}], "size": 20, "heldout": 0})
    assert {item.family for item in task.items("train")} == {"lcm", "gcd"}


@pytest.mark.parametrize(
    "spec, words",
    [
        ("gym:chain_sums", "did you mean chain_sum?"),
        ("gym:chain_sum,max_term=2", "did you mean max_terms?"),
        ("gym:chain_sum,min_terms=9,max_terms=2", "max_terms must be >= min_terms"),
        ("gym:chain_sum,templat=x", "did you mean template?"),
        ("gym:chain_sum,size=0", "size is 0"),
        ("gym:chain_sum,scorer=fuzzy", "sound, exact or native"),
        ("gym:graph_color,scorer=exact", "scorer: native"),
        ("gym:prime_factorization,scorer=native", "raises ValueError on '2 x 3'"),
        ("gym:lcm,scorer=native", "credit for containing the answer"),
    ],
)
def test_a_mistaken_or_unsafe_task_is_refused_by_name_with_the_reason(gym, spec, words):
    with pytest.raises(ConfigError) as caught:
        open_task(spec)
    assert words in str(caught.value)


@pytest.mark.slow
def test_each_scorer_on_the_safe_list_keeps_its_promises(gym):
    """Reference 1; junk, and the reference within a sentence, at most 0.1; nothing raises."""
    from offon.tasks.gym import NATIVE, native_scorer

    for name in sorted(NATIVE):
        score = native_scorer(name, {"size": 2, "seed": 0})
        entry = gym.create_dataset(name, size=2, seed=0)[1]
        answer = entry["answer"]
        if answer is not None:
            assert score(answer, entry) == 1, name
        for text in [*JUNK, f"the answer is {answer}"]:
            assert score(text, entry) <= 0.1, (name, text)


def test_the_lists_of_scorers_name_datasets_and_do_not_overlap(gym):
    from reasoning_gym.factory import DATASETS

    from offon.tasks.gym import EVALUATES, FAULTY, NATIVE

    assert (NATIVE | set(EVALUATES) | set(FAULTY)) <= set(DATASETS)
    assert len(NATIVE) + len(EVALUATES) + len(FAULTY) == len(NATIVE | set(EVALUATES) | set(FAULTY))


@pytest.mark.slow
def test_a_native_scorer_accepts_another_right_answer(gym):
    """A palindrome's first half may come in any order; exact match knows one of them."""
    task = open_task({"gym": "palindrome_generation", "scorer": "native", "size": 5, "heldout": 0})
    item = next(item for item in task.items("train") if len(set(item.reference)) > 2)
    half = item.reference[: len(item.reference) // 2]
    other = half[::-1] + item.reference[len(half) : len(item.reference) - len(half)] + half
    assert other != item.reference
    assert [v.score for v in task.verify([(item, item.reference), (item, other)])] == [1, 1]


def test_a_scorer_that_evaluates_responses_is_refused_where_nothing_contains_it(gym, monkeypatch):
    monkeypatch.setattr("offon.tasks.gym.tried", lambda: {"namespaces": "closed"})
    for dataset, evaluator in [("countdown", "parse_expr"), ("spiral_matrix", "eval")]:
        with pytest.raises(ConfigError, match=f"{evaluator}, which can run code, and nothing contains it here"):
            open_task(f"gym:{dataset},scorer=native")


@pytest.mark.slow
def test_a_scorer_that_evaluates_responses_does_so_in_a_box(gym, tmp_path):
    """spiral_matrix's calls eval: the reference scores, an attack writes nothing outside and spoils no later call."""
    if all(tried().values()):
        pytest.skip(f"nothing contains code here: {tried()}")
    task = open_task("gym:spiral_matrix,scorer=native,size=3,heldout=0,form=text")
    item = task.items("train")[0]
    outside = tmp_path / "outside"
    tmp_path.chmod(0o777)
    attack = f"open({str(outside)!r}, 'w')"
    patch = "__import__('builtins').__dict__.update(float=None, eval=None)"
    scores = [
        one.score for text in (item.reference, attack, patch, item.reference) for one in task.verify([(item, text)])
    ]
    assert scores[0] == scores[3] == 1 and not outside.exists()
    assert all(score is None or score < 1 for score in scores[1:3])
