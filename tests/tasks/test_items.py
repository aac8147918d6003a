"""Prompt forms, duplicates, and splits by content."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offon.errors import ConfigError, DataError
from offon.tasks.items import ItemTask, PromptForm, content_split, distinct
from offon.types import Item, Verdict


def items(questions, answers=None):
    answers = answers or [None] * len(questions)
    return [
        Item(id=Item.content_id(q), prompt=q, columns={"answer": a}) for q, a in zip(questions, answers, strict=True)
    ]


def check(pairs):
    return [Verdict(1.0) for _ in pairs]


def test_a_form_writes_text_for_base_models_and_messages_for_others():
    assert PromptForm(form="text", template="Q: {question}\nA:")("1+1?") == "Q: 1+1?\nA:"
    assert PromptForm(form="chat", system="Be brief.")("1+1?") == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
    )


def test_braces_in_questions_are_left_alone():
    assert PromptForm(template="{question}!")("{x} {question}") == "{x} {question}!"


@pytest.mark.parametrize("options", [{"form": "poem"}, {"template": "Q:"}, {"form": "text", "system": "x"}])
def test_forms_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError):
        PromptForm(**options)


def test_repetitions_are_dropped_and_contradictions_counted():
    kept, conflicting = distinct(items(["a", "b", "a", "a"], ["1", "2", "1", "3"]))
    assert [item.prompt for item in kept] == ["a", "b"] and conflicting == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=40), st.randoms(), st.floats(0, 1))
@pytest.mark.slow
def test_which_side_an_item_is_on_depends_on_nothing_but_its_content(questions, random, share):
    sides = content_split(items(questions), share)
    shuffled = random.sample(questions, len(questions))
    again = content_split(items(shuffled[: len(shuffled) // 2]), share)
    heldout = {item.id for item in sides["heldout"]}
    assert heldout.isdisjoint(item.id for item in sides["train"])
    assert {item.id for item in again["heldout"]} <= heldout
    assert not heldout & {item.id for item in again["train"]}


def test_the_held_out_share_is_the_one_asked_for():
    """2,000 independent hashes at 0.2: 400 with standard deviation 18, so 4.5 of them is a chance of 1 in 150,000."""
    sides = content_split(items([f"question {i}" for i in range(2000)]), 0.2)
    assert abs(len(sides["heldout"]) - 400) < 4.5 * 18


def test_shares_of_0_and_1_leave_one_side_empty_which_is_an_error_when_asked_for():
    for share, empty in [(0, "heldout"), (1, "train")]:
        task = ItemTask("t", lambda: items(["a", "b"]), check, heldout=share)
        with pytest.raises(DataError, match=f"no items in split '{empty}'"):
            task.items(empty)


def test_a_file_of_held_out_items_takes_its_questions_from_training():
    task = ItemTask("t", lambda: items(["a", "b", "c"]), check, heldout=lambda: items(["c", "d"]))
    assert [i.prompt for i in task.items("train")] == ["a", "b"]
    assert [i.prompt for i in task.items("heldout")] == ["c", "d"]
    assert dict(task.counts) == {"loaded": 3, "distinct": 3, "conflicting": 0, "train": 2, "heldout": 2}


def test_items_are_loaded_once_and_only_when_asked_for():
    loads = []

    def load():
        loads.append(1)
        return items(["a", "b"])

    task = ItemTask("t", load, check, heldout=0)
    assert loads == []
    task.items("train"), task.items("train"), task.counts
    assert loads == [1]


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(ConfigError):
        ItemTask("t", lambda: [], check, heldout=share)
