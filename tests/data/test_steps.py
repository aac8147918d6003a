"""Solutions in steps with labels: where steps end, and what is refused."""

import numpy as np
import pytest

from offon.data import load_steps
from offon.errors import DataError
from tests.data import tokenizing

ROW = {"prompt": "3 + 4 + 5?\n", "completions": ["3 + 4 = 7", "7 + 5 = 13"], "labels": [True, False]}


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizing.byte_level()


def steps_of(group, tokenizer):
    member = group.members[0]
    return [(tokenizer.decode(member.tokens[s.start : s.end]), s.signals["label"]) for s in member.spans]


def test_a_step_ends_with_its_separator_and_the_last_with_eos(tokenizer):
    [group] = load_steps([ROW], tokenizer)
    eos = tokenizer.eos_token
    assert steps_of(group, tokenizer) == [("3 + 4 = 7\n", 1.0), (f"7 + 5 = 13\n{eos}", 0.0)]
    assert [s.name for s in group.members[0].spans] == ["step", "step"]


def test_each_step_is_tokenised_by_itself(tokenizer):
    [group] = load_steps([ROW], tokenizer)
    alone = [tokenizer(text, add_special_tokens=False).input_ids for text in ("3 + 4 = 7\n", "7 + 5 = 13\n")]
    assert group.members[0].tokens.tolist() == [*alone[0], *alone[1], tokenizer.eos_token_id]


def test_a_row_names_its_own_separator(tokenizer):
    [group] = load_steps([ROW | {"separator": ""}], tokenizer)
    assert steps_of(group, tokenizer)[0] == ("3 + 4 = 7", 1.0)


def test_steps_over_the_limit_are_cut_off_with_their_labels(tokenizer):
    [whole] = load_steps([ROW], tokenizer)
    member = whole.members[0]
    limit = len(whole.prompt) + member.spans[0].end + 2
    loaded = load_steps([ROW], tokenizer, max_length=limit)
    assert steps_of(loaded[0], tokenizer) == [("3 + 4 = 7\n", 1.0)]
    assert np.array_equal(loaded[0].members[0].tokens, member.tokens[: member.spans[0].end])
    with pytest.raises(DataError):
        load_steps([ROW], tokenizer, max_length=len(whole.prompt) + 2)


def test_messages_are_answered_in_steps(tokenizer):
    [group] = load_steps([ROW | {"prompt": [{"role": "user", "content": "3 + 4 + 5?"}]}], tokenizer)
    assert steps_of(group, tokenizer)[0] == ("3 + 4 = 7\n", 1.0)
    assert tokenizer.decode(group.prompt).endswith("assistant\n")


def test_soft_labels_and_missing_ones_are_read(tokenizer):
    [group] = load_steps([ROW | {"labels": [0.25, None]}], tokenizer)
    assert [label for _, label in steps_of(group, tokenizer)] == [0.25, None]


@pytest.mark.parametrize(
    "change", [{"labels": [True]}, {"labels": [2, 0]}, {"completions": ["", "x"], "separator": ""}, {"labels": None}]
)
def test_rows_that_say_no_labels_are_refused(tokenizer, change):
    with pytest.raises(DataError):
        load_steps([ROW | change], tokenizer)
