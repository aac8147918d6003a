"""Groups from rows: conventions agree, lengths are accounted for, pairs share a prompt."""

import numpy as np
import pytest

from offon.data import load_demonstrations, load_labelled, load_preferences, load_rankings
from offon.errors import ConfigError, DataError
from offon.types import Comparison, Source
from tests.data import tokenizing

MESSAGES = [{"role": "user", "content": "3 + 4?"}, {"role": "assistant", "content": "7"}]
WRONG = {"role": "assistant", "content": "8"}


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizing.byte_level()


def tokens(group):
    return [(member.prefix(), member.tokens.tolist(), member.source.tolist()) for member in group.members]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
        {"prompt": MESSAGES[:1], "completion": "7"},
        {"conversations": [{"from": "human", "value": "3 + 4?"}, {"from": "gpt", "value": "7"}]},
        {"instruction": "3 + 4?", "input": "", "output": "7"},
    ],
    ids=["prompt and completion", "text completion", "ShareGPT", "Alpaca"],
)
def test_every_convention_gives_the_tokens_of_messages(tokenizer, row):
    [group], [plain] = load_demonstrations([row], tokenizer), load_demonstrations([{"messages": MESSAGES}], tokenizer)
    assert tokens(group) == tokens(plain)
    assert group.item.id == plain.item.id and group.item.reference == "7"


def test_the_assistant_turns_of_a_prompt_are_not_learned(tokenizer):
    row = {"prompt": MESSAGES + MESSAGES[:1], "completion": [{"role": "assistant", "content": "still 7"}]}
    [group] = load_demonstrations([row], tokenizer)
    assert tokenizer.decode(group.members[0].tokens) == "still 7<|im_end|>"


def test_other_columns_travel_with_the_item(tokenizer):
    [group] = load_demonstrations([{"messages": MESSAGES, "answer": 7, "family": "sums"}], tokenizer)
    assert dict(group.item.columns) == {"answer": 7, "family": "sums"} and group.item.family == "sums"


def test_demonstrations_are_external_and_name_their_data_set(tokenizer, tmp_path):
    path = tmp_path / "demos.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    [member] = load_demonstrations(path, tokenizer)[0].members
    assert (member.source == Source.EXTERNAL).all() and member.behavior_logp is None
    assert member.producer.model == "demos.jsonl"


@pytest.mark.parametrize(
    "messages, why",
    [
        ([{"role": "user", "content": None}, MESSAGES[1]], "content of message 0 is null"),
        ([MESSAGES[0], {"role": "assistant", "content": 7}], "content of message 1 is a int"),
        ([{"role": "alien", "content": "x"}, MESSAGES[1]], "message 0 has role 'alien'"),
        (MESSAGES + MESSAGES[:1], "ends with a user turn"),
        ([MESSAGES[0], {"role": "assistant", "content": " "}], "assistant message 1 says nothing"),
        ([MESSAGES[1]], "the chat template refuses it"),
        ([], "there are no messages"),
        (None, "no messages"),
        ("hello", "messages is not a list of messages: 'hello'"),
        (["hello"], "messages is not a list of messages"),
    ],
)
def test_a_conversation_that_cannot_be_learned_is_an_error_with_its_row(tokenizer, messages, why):
    with pytest.raises(DataError) as caught:
        load_demonstrations([{"messages": MESSAGES}, {"messages": messages}], tokenizer)
    assert "1 of 2 rows" in str(caught.value) and "row 1: " in str(caught.value) and why in str(caught.value)


@pytest.mark.parametrize(
    "row, why",
    [
        ({"prompt": "a", "completion": ""}, "the completion is empty"),
        ({"prompt": "", "completion": "b"}, "the prompt is empty"),
        ({"prompt": "a", "completion": None}, "no completion"),
        ({"prompt": 3, "completion": "b"}, "the prompt is neither text nor a list of messages"),
    ],
)
def test_text_that_cannot_be_learned_is_an_error_with_its_row(tokenizer, row, why):
    with pytest.raises(DataError, match=f"row 0: {why}"):
        load_demonstrations([row], tokenizer)


@pytest.mark.fault("F14")
def test_a_long_row_is_cut_and_one_whose_prompt_fills_the_length_is_dropped(tokenizer):
    """Letters outside the merges are one token each: prompts of 2 and 9 tokens, completions of 5 and 1 with EOS."""
    rows = [{"prompt": "xy", "completion": "zwzw"}, {"prompt": "xyzxyzxyz", "completion": "w"}]
    groups = load_demonstrations(rows, tokenizer, max_length=5)
    [group] = groups
    assert tokenizer.decode(group.members[0].tokens) == "zwz" and "truncated" in group.members[0].tags
    report = groups.report
    assert (report.rows, report.trajectories, report.cut, report.tokens_cut) == (2, 1, 1, 2)
    assert dict(report.dropped) == {"truncated before its first supervised token": 1}
    assert report.supervised_share == 3 / 5


def test_a_row_of_exactly_the_length_is_kept_whole(tokenizer):
    [group] = load_demonstrations([{"prompt": "xy", "completion": "zwzw"}], tokenizer, max_length=7)
    assert tokenizer.decode(group.members[0].tokens) == "zwzw<eos>" and not group.members[0].tags


def test_spans_of_a_cut_conversation_end_with_it(tokenizer):
    [group] = load_demonstrations([{"messages": MESSAGES + MESSAGES}], tokenizer)
    length = len(group.prompt) + group.members[0].spans[1].start + 1
    [group] = load_demonstrations([{"messages": MESSAGES + MESSAGES}], tokenizer, max_length=length)
    assert [span.end for span in group.members[0].spans] == [2, len(group.members[0])]


def test_data_of_which_nothing_is_left_to_learn_is_an_error_that_says_so(tokenizer):
    with pytest.raises(DataError, match="every row is truncated before its first supervised token"):
        load_demonstrations([{"messages": MESSAGES}] * 3, tokenizer, max_length=4)


def test_the_report_reads_as_a_sentence(tokenizer):
    groups = load_demonstrations([{"prompt": "xy", "completion": "zwzw"}] * 2, tokenizer, max_length=5)
    assert str(groups.report) == (
        "a list of 2 rows: 2 rows (prompt + completion), 2 trajectories; 2 cut to max_length, losing 4 tokens; "
        "EOS added to 2; 60.0% of 10 tokens supervised"
    )


def test_supervise_takes_all_or_last(tokenizer):
    with pytest.raises(ConfigError, match="all or last"):
        load_demonstrations([{"messages": MESSAGES}], tokenizer, supervise="first")


PAIRS = {
    "messages": {"prompt": MESSAGES[:1], "chosen": MESSAGES[1:], "rejected": [WRONG]},
    "whole conversations": {"chosen": MESSAGES, "rejected": [MESSAGES[0], WRONG]},
    "whole conversations and a prompt": {"prompt": "3 + 4?", "chosen": MESSAGES, "rejected": [MESSAGES[0], WRONG]},
    "text answers to messages": {"prompt": MESSAGES[:1], "chosen": "7", "rejected": "8"},
}


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS)
def test_every_spelling_of_a_pair_gives_two_answers_to_one_prompt(tokenizer, row):
    [group] = load_preferences([row], tokenizer)
    chosen, rejected = group.members
    assert chosen.prefix() == rejected.prefix() == group.prompt
    assert tokenizer.decode(group.prompt).endswith("3 + 4?<|im_end|>\n<|im_start|>assistant\n")
    assert (tokenizer.decode(chosen.tokens), tokenizer.decode(rejected.tokens)) == ("7<|im_end|>", "8<|im_end|>")
    assert (chosen.tags, rejected.tags) == ({"chosen"}, {"rejected"})
    assert group.comparisons == (Comparison(0, 1),)


def test_a_pair_of_plain_texts(tokenizer):
    [group] = load_preferences([{"prompt": "3 + 4 =", "chosen": " 7", "rejected": " 8", "margin": 0.5}], tokenizer)
    assert [tokenizer.decode(member.tokens) for member in group.members] == [" 7<eos>", " 8<eos>"]
    assert group.comparisons[0].margin == 0.5


def test_conversations_part_where_they_first_differ_and_share_the_rest(tokenizer):
    """Turn 1 is common and stays prompt, although the assistant said it."""
    follow_up = [{"role": "user", "content": "sure?"}, {"role": "assistant", "content": "yes"}]
    other = [follow_up[0], {"role": "assistant", "content": "no"}]
    [group] = load_preferences([{"chosen": MESSAGES + follow_up, "rejected": MESSAGES + other}], tokenizer)
    assert [member.text for member in group.members] == ["yes", "no"]
    assert "7<|im_end|>" in tokenizer.decode(group.prompt)


@pytest.mark.fault("F20")
def test_pairs_that_differ_in_white_space_at_the_ends_are_equal(tokenizer):
    rows = [{"prompt": "xy", "chosen": "z", "rejected": "w"}, {"prompt": "xy", "chosen": "z", "rejected": "z \n"}]
    assert dict(load_preferences(rows, tokenizer).report.dropped) == {"chosen equals rejected": 1}


def test_equal_and_overlong_pairs_are_dropped_and_counted_never_cut(tokenizer):
    rows = [
        {"prompt": "xy", "chosen": "z", "rejected": "w"},
        {"prompt": "xy", "chosen": "z", "rejected": "z"},
        {"prompt": "xy", "chosen": "z", "rejected": "wzwzwzwz"},
    ]
    groups = load_preferences(rows, tokenizer, max_length=6)
    assert len(groups) == 1
    assert dict(groups.report.dropped) == {"chosen equals rejected": 1, "a member exceeds max_length": 1}
    with pytest.raises(DataError, match="no row is left to train on"):
        load_preferences(rows[1:], tokenizer, max_length=6)


@pytest.mark.parametrize(
    "row, why",
    [
        ({"prompt": "a", "chosen": "b", "rejected": None}, "no rejected"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "the completion is empty"),
        ({"chosen": "b", "rejected": "c"}, "no prompt, and chosen and rejected are not whole conversations"),
        ({"prompt": "a", "chosen": 1, "rejected": 2}, "chosen is not a list of messages"),
        ({"prompt": MESSAGES[:1], "chosen": [], "rejected": [WRONG]}, "nobody answers"),
    ],
)
def test_a_pair_that_cannot_be_compared_is_an_error_with_its_row(tokenizer, row, why):
    with pytest.raises(DataError) as caught:
        load_preferences([row], tokenizer)
    assert "row 0: " in str(caught.value) and why in str(caught.value)


def test_labelled_answers_are_tagged_by_their_label(tokenizer):
    rows = [
        {"prompt": MESSAGES[:1], "completion": "7", "label": True},
        {"prompt": "a", "completion": "b", "label": False},
    ]
    groups = load_labelled(rows, tokenizer)
    assert [member.tags for group in groups for member in group.members] == [{"desirable"}, {"undesirable"}]
    assert [group.members[0].text for group in groups] == ["7", "b"] and not groups[0].item.columns


def test_a_label_is_true_or_false(tokenizer):
    with pytest.raises(DataError, match="label is 'yes', neither true nor false"):
        load_labelled([{"prompt": "a", "completion": "b", "label": "yes"}], tokenizer)


def test_labelled_and_ranked_answers_are_dropped_and_counted_never_cut(tokenizer):
    labelled = [{"prompt": "xy", "completion": answer, "label": True} for answer in ("z", "zwzwzwzw")]
    ranked = [{"prompt": "xy", "completions": answers} for answers in (["z", "w"], ["z", "zwzwzwzw"])]
    for groups in (load_labelled(labelled, tokenizer, max_length=6), load_rankings(ranked, tokenizer, max_length=6)):
        assert len(groups) == 1 and dict(groups.report.dropped) == {"an answer exceeds max_length": 1}


def test_a_ranking_compares_every_two_of_its_answers(tokenizer):
    [group] = load_rankings([{"prompt": MESSAGES[:1], "completions": ["7", "8", "9"]}], tokenizer)
    assert [member.text for member in group.members] == ["7", "8", "9"]
    assert group.comparisons == (Comparison(0, 1), Comparison(0, 2), Comparison(1, 2))
    assert all(member.prefix() == group.prompt for member in group.members)


@pytest.mark.parametrize("completions", ["7", ["7"]])
def test_a_ranking_of_one_is_refused(tokenizer, completions):
    with pytest.raises(DataError, match="two completions or more"):
        load_rankings([{"prompt": "a", "completions": completions}], tokenizer)


def test_columns_are_read_only_arrays_of_the_promised_types(tokenizer):
    [member] = load_demonstrations([{"messages": MESSAGES}], tokenizer)[0].members
    assert (member.tokens.dtype, member.source.dtype) == (np.int32, np.int8)
    assert not member.tokens.flags.writeable


# --- samples of a model's own ------------------------------------------------------------------------------------


def sampled(tokenizer, tokens, *, chat=False, **written):
    """A row as a node that makes data writes it, of the tokens that were sampled."""
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    row = {"prompt": "3 + 4 =", "completion": text}
    if chat:
        row = {"prompt": MESSAGES[:1], "completion": [{"role": "assistant", "content": text}]}
    return row | {"offon": {"tokens": tokens, "signals": {}, **written}}


def broken(tokenizer, end="<eos>"):
    """The first of the two bytes of a character, a control token, and an end."""
    return [*tokenizer.encode("é")[:1], *tokenizer.convert_tokens_to_ids(["<|call|>", end])]


@pytest.mark.parametrize("chat, end", [(False, "<eos>"), (True, "<|im_end|>"), (True, "<eos>")])
def test_what_was_sampled_is_learned_in_its_tokens(tokenizer, chat, end):
    tokens = broken(tokenizer, end)
    row = sampled(tokenizer, tokens, chat=chat)
    assert "\ufffd" in str(row)
    [group] = load_demonstrations([row], tokenizer)
    [plain] = load_demonstrations([{**row, "completion": "7"}], tokenizer)
    assert group.members[0].tokens.tolist() == tokens and group.prompt == plain.prompt
    assert group.members[0].source.tolist() == [Source.EXTERNAL] * 3


@pytest.mark.parametrize("chat, end", [(False, "<eos>"), (True, "<|im_end|>")])
def test_a_sample_without_an_end_gets_that_of_its_prompt(tokenizer, chat, end):
    tokens = broken(tokenizer)[:1]
    groups = load_demonstrations([sampled(tokenizer, tokens, chat=chat)], tokenizer)
    assert groups[0].members[0].tokens.tolist() == [*tokens, *tokenizer.convert_tokens_to_ids([end])]
    assert groups.report.added_eos == 1


def test_text_that_was_changed_since_or_is_another_tokenizers_is_learned_as_text(tokenizer):
    row = sampled(tokenizer, tokenizer.encode("7") + [1])
    [group] = load_demonstrations([{**row, "completion": "seven"}], tokenizer)
    assert group.members[0].text == "seven"
    [group] = load_demonstrations([{**row, "offon": {"tokens": [10**6]}}], tokenizer)
    assert group.members[0].text == "7"


def test_broken_text_whose_tokens_are_not_known_is_dropped_and_counted(tokenizer):
    rows = [sampled(tokenizer, broken(tokenizer)), sampled(tokenizer, tokenizer.encode("7") + [1])]
    rows[0]["completion"] = "x" + rows[0]["completion"]
    groups = load_demonstrations(rows, tokenizer)
    assert len(groups) == 1 and sum(groups.report.dropped.values()) == 1
    written = {"prompt": "3 + 4 =", "completion": "about \ufffd"}  # by people: what they say is learned
    assert load_demonstrations([written], tokenizer)[0].members[0].text == "about \ufffd"


def test_both_answers_of_a_sampled_pair_are_learned_in_their_tokens(tokenizer):
    better, worse = broken(tokenizer), [*broken(tokenizer)[:1], *broken(tokenizer)]
    row = sampled(tokenizer, better, rejected_tokens=worse)
    row |= {"chosen": row.pop("completion"), "rejected": tokenizer.decode(worse, skip_special_tokens=True)}
    [group] = load_preferences([row], tokenizer)
    assert [member.tokens.tolist() for member in group.members] == [better, worse]
