"""The testbed as a task: splits, verdicts, demonstrations."""

import pytest
from tests.support import ParityTask

from offon.errors import ConfigError
from offon.tasks.api import response_classes
from offon.testbed import FAMILIES, TestbedTask
from offon.testbed.grammar import UNSEEN_OPS, Program, response_words


def program(item):
    *_, start, o1, o2, o3, _ = item.prompt.split()
    return Program(start, (o1, o2, o3))


@pytest.mark.slow
def test_splits_share_no_program_whatever_the_family():
    task = TestbedTask(train=10**6, heldout=10**6)
    train, heldout = ({(program(item)) for item in task.items(split)} for split in ("train", "heldout"))
    assert train and heldout and not train & heldout


def test_every_family_has_enough_items_and_ids_are_unique():
    for split, least in (("train", 512), ("heldout", 64)):
        items = TestbedTask().items(split)
        for family in FAMILIES:
            assert sum(item.family == family for item in items) >= least
        assert len({item.id for item in items}) == len(items)


def test_the_first_items_are_a_mixture_of_families():
    counts = {family: 0 for family in FAMILIES}
    for item in TestbedTask().items("train")[:250]:
        counts[item.family] += 1
    assert min(counts.values()) >= 25  # 50 expected, sd 6


def test_a_family_alone_has_the_items_it_has_in_company():
    alone = TestbedTask("rare").items("heldout")
    together = [item for item in TestbedTask(["guard", "rare"]).items("heldout") if item.family == "rare"]
    assert [item.id for item in alone] == [item.id for item in together]


def test_only_absent_asks_for_unseen_operations():
    for item in TestbedTask().items("heldout"):
        unseen = set(program(item).ops) & set(UNSEEN_OPS)
        assert bool(unseen) == (item.family == "absent")


def test_the_hint_is_a_view_of_scaffold_items_only():
    for item in TestbedTask().items("heldout"):
        assert dict(item.views) == ({"hint": f"hint {item.prompt}"} if item.family == "scaffold" else {})


@pytest.fixture
def item():
    return TestbedTask("guard").items("heldout")[0]


def scored(item, text):
    (verdict,) = TestbedTask().verify([(item, text)])
    return verdict.score, verdict.content


def test_the_trace_and_its_format_symbol_are_checked_and_the_route_word_is_not_compared(item):
    trace = item.columns["trace"]
    assert item.reference == f"forward {trace} #"
    assert scored(item, item.reference) == (1, 1)
    assert scored(item, f"backward {trace} #") == (1, 1)
    assert scored(item, f"forward {trace} :") == (0, 1)
    assert scored(item, f"forward {trace}") == (0, 1)
    assert scored(item, f"forward {trace} # #") == (0, 0)
    assert scored(item, f"{trace} #") == (0, 0)
    assert scored(item, f"guard {trace} #") == (0, 0)
    assert scored(item, "forward") == scored(item, "") == (0, 0)


def test_decoy_routes_and_guesses_are_wrong_on_every_item():
    task = TestbedTask()
    for item in task.items("heldout"):
        for route in ("backward", "rotate"):
            assert scored(item, " ".join(response_words(program(item), route))) == (0, 0)


def test_demonstrations_are_right_and_in_item_order():
    task = TestbedTask(["absent", "guard"])
    rows, items = task.demonstrations("train", 100), task.items("train")[:100]
    assert [row["prompt"] for row in rows] == [item.prompt for item in items]
    assert all(
        verdict.score == 1 for verdict in task.verify([(i, r["completion"]) for i, r in zip(items, rows, strict=True)])
    )


def test_an_unknown_family_is_an_error_with_the_nearest_name():
    with pytest.raises(ConfigError, match="'rear'.*\n.*\n.*testbed: rare"):
        TestbedTask("rear")


def test_a_response_is_named_by_its_route_which_the_task_declares(item):
    task = TestbedTask()
    kind, name = response_classes(task)
    assert kind == "route" and name(item, "rotate 1 2 3 #") == ("rotate", "1 2 3")
    assert name(item, "rotate 1") == ("rotate", "") and name(item, "") == ("", "")
    assert task.route(item, "1 2 3") is None
    assert task.answer(item, "rotate 1 2 3 :") == task.answer(item, "forward 1 2 3") == "1 2 3"
    assert task.answer(item, "forward 1 2") is None


def test_a_task_that_names_nothing_has_no_classes():
    assert response_classes(ParityTask()) is None
