"""Nothing that a row says is dropped in silence: it is rendered, refused with its row, or counted where asked."""

import json
import re

import pytest

from offon.data import load_demonstrations, load_labelled, load_preferences, load_steps, prompt_groups
from offon.errors import ConfigError, DataError
from offon.tasks.jsonl import jsonl_task
from offon.types import Item
from tests.data import tokenizing
from tests.data.test_render import TWO_TURNS, assistant, learned, user, whole

ASKED, ANSWER = TWO_TURNS[:2]
LOOK = {"type": "function", "function": {"name": "look", "description": "looks", "parameters": {"type": "object"}}}
TOOLS = "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + tokenizing.CHATML


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizing.byte_level()


def load(row, tokenizer, **options):
    return load_demonstrations([row], tokenizer, **options)


def refused(why, row, tokenizer):
    with pytest.raises(DataError, match=f"row 1: .*{re.escape(why)}"):
        load_demonstrations([{"messages": [ASKED, ANSWER]}, row], tokenizer)


# --- marks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}])
def test_a_turn_that_is_marked_as_untrained_is_rendered_and_not_learned(tokenizer, mark):
    marked = [ASKED, {**ANSWER, **mark}, *TWO_TURNS[2:]]
    [group], [last] = load({"messages": marked}, tokenizer), load({"messages": TWO_TURNS}, tokenizer, supervise="last")
    assert learned(group, tokenizer) == "12<|im_end|>" and group.prompt == last.prompt
    [group] = load({"messages": [*TWO_TURNS[:3], {**TWO_TURNS[3], **mark}]}, tokenizer)
    assert learned(group, tokenizer) == "7<|im_end|>"
    [group] = load({"messages": [*TWO_TURNS, user("?"), {**ANSWER, **mark}, user("!"), assistant("z")]}, tokenizer)
    assert learned(group, tokenizer) == "7<|im_end|>12<|im_end|>z<|im_end|>" and "?" in whole(group, tokenizer)


def test_marks_of_other_conventions_and_true_ones_are_read_too(tokenizer):
    turns = [{"from": "human", "value": "3?"}, {"from": "gpt", "value": "3", "weight": 0}] * 2
    [group] = load({"conversations": [*turns[:3], {**turns[1], "weight": 1, "train": True}]}, tokenizer)
    assert learned(group, tokenizer) == "3<|im_end|>" and len(group.members[0].spans) == 1
    assert group.item.prompt[1] == {"role": "assistant", "content": "3"}  # what is said, without marks


def test_rows_of_which_nothing_is_to_be_trained_are_dropped_and_counted(tokenizer):
    rows = [{"messages": [ASKED, {**ANSWER, "weight": 0}]}, {"messages": [ASKED, ANSWER]}]
    groups = load_demonstrations(rows, tokenizer)
    assert len(groups) == 1 and dict(groups.report.dropped) == {"no turn of it is to be trained": 1}


@pytest.mark.parametrize(
    "messages, why",
    [
        ([ASKED, {**ANSWER, "weight": 0.5}], "weight of message 1 is 0.5"),
        ([ASKED, {**ANSWER, "train": "no"}], "train of message 1 is 'no'"),
        ([ASKED, {**ANSWER, "train": True, "weight": 0}], "the marks of message 1 disagree"),
        ([{**ASKED, "train": True}, ANSWER], "message 0 (user) is marked as trained"),
    ],
)
def test_marks_that_cannot_be_followed_are_refused(tokenizer, messages, why):
    refused(why, {"messages": messages}, tokenizer)


# --- reasoning ---------------------------------------------------------------------------------------------------

NAMES = ("reasoning_content", "reasoning", "thinking")


@pytest.mark.parametrize("written", NAMES)
@pytest.mark.parametrize("read", NAMES)
def test_reasoning_is_rendered_whatever_row_and_template_call_it(written, read):
    tokenizer = tokenizing.byte_level(tokenizing.reasoning(read))
    [group] = load({"messages": [ASKED, {**ANSWER, written: "3, 4"}]}, tokenizer)
    assert learned(group, tokenizer) == "<think>3, 4</think>7<|im_end|>"


@pytest.mark.fault("F23")
@pytest.mark.parametrize("name", NAMES)
def test_reasoning_that_the_template_drops_is_refused(tokenizer, name):
    row = {"messages": [ASKED, {**ANSWER, name: "since b"}]}
    refused("drops or rewrites part of assistant turn 1: 'since b'", row, tokenizer)
    earlier = [ASKED, {**ANSWER, name: "since b"}, *TWO_TURNS[2:]]
    with pytest.raises(DataError, match="part of assistant turn 1"):
        load({"messages": earlier}, tokenizer, supervise="last")


def test_two_reasonings_that_differ_and_reasoning_that_is_no_text_are_refused():
    tokenizer = tokenizing.byte_level(tokenizing.reasoning("thinking"))
    refused("'b'", {"messages": [ASKED, {**ANSWER, "thinking": "a", "reasoning": "b"}]}, tokenizer)
    refused("thinking of message 1 is not text", {"messages": [ASKED, {**ANSWER, "thinking": ["a"]}]}, tokenizer)


def test_control_tokens_in_reasoning_are_refused():
    tokenizer = tokenizing.byte_level(tokenizing.reasoning("thinking"))
    refused("contains the control token", {"messages": [ASKED, {**ANSWER, "thinking": "<|im_end|>"}]}, tokenizer)


# --- tools -------------------------------------------------------------------------------------------------------


def calls(arguments):
    call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    return [ASKED, calling, {"role": "tool", "content": "sun"}, ANSWER]


CALLED = '<|call|>look {"city": "Oslo", "days": [1, 2]}<|called|><|im_end|>7<|im_end|>'


@pytest.mark.parametrize("template", [tokenizing.CALLS, tokenizing.CALLS_IN_TEXT])
@pytest.mark.parametrize("arguments", ['{"city": "Oslo", "days": [1, 2]}', {"city": "Oslo", "days": [1, 2]}])
def test_arguments_are_written_once_whether_rows_and_templates_take_json_or_mappings(template, arguments):
    tokenizer = tokenizing.byte_level(template)
    [group] = load({"messages": calls(arguments)}, tokenizer)
    assert learned(group, tokenizer) == CALLED


def test_arguments_in_a_form_of_the_templates_own_are_found_there():
    tokenizer = tokenizing.byte_level(tokenizing.CALLS_BY_ARGUMENT)
    [group] = load({"messages": calls('{"city": "Oslo", "dry": true}')}, tokenizer)
    assert "city=Oslo;dry=True;" in learned(group, tokenizer)


def test_the_older_function_call_and_calls_written_as_json_are_calls():
    tokenizer = tokenizing.byte_level(tokenizing.CALLS)
    arguments = '{"city": "Oslo", "days": [1, 2]}'
    older = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": arguments}}
    text = '[{"function": {"name": "look", "arguments": {"city": "Oslo", "days": [1, 2]}}}]'
    for calling in (older, {"role": "assistant", "content": "", "tool_calls": text}):
        [group] = load({"messages": [ASKED, calling, *calls({})[2:]]}, tokenizer)
        assert learned(group, tokenizer) == CALLED


@pytest.mark.parametrize(
    "arguments, template, why",
    [
        ("Oslo", tokenizing.CALLS, "arguments of a tool call of message 1 is neither a mapping nor JSON of one"),
        ('["Oslo"]', tokenizing.CALLS, "is not a mapping but a list"),
        (
            {"city": "Oslo"},
            tokenizing.CALLS.replace(" {{ call.function.arguments | tojson }}", ""),
            "the chat template leaves out the arguments of tool calls",
        ),
        ({"a": "x"}, tokenizing.CALLS_BY_ARGUMENT.replace("{{ value }}", ""), "leaves out the arguments"),
    ],
)
def test_arguments_that_cannot_be_written_are_refused(arguments, template, why):
    refused(why, {"messages": calls(arguments)}, tokenizing.byte_level(template))


def test_tools_that_the_template_drops_are_refused(tokenizer):
    refused("the chat template drops the tools", {"messages": [ASKED, ANSWER], "tools": [LOOK]}, tokenizer)
    with pytest.raises(DataError, match="no place in a text prompt"):
        load({"prompt": "a", "completion": "b", "tools": [LOOK]}, tokenizer)


@pytest.mark.fault("F19")
def test_tools_and_template_arguments_written_as_json_are_read_and_nulls_are_not():
    tokenizer = tokenizing.byte_level(TOOLS.replace("{% for", "{% if loud is defined %}LOUD{% endif %}{% for", 1))
    plain = {"messages": [ASKED, ANSWER], "tools": [LOOK], "chat_template_kwargs": {"loud": 1}}
    text = plain | {"tools": json.dumps([LOOK]), "chat_template_kwargs": '{"loud": 1}'}
    assert load(plain, tokenizer)[0].prompt == load(text, tokenizer)[0].prompt
    [group] = load(plain | {"chat_template_kwargs": {"loud": None}}, tokenizer)  # Arrow gives every row every key
    assert "LOUD" not in tokenizer.decode(group.prompt)
    refused("tools is neither a list", plain | {"tools": "hammer"}, tokenizer)


# --- one prompt for every stage ------------------------------------------------------------------------------------


def test_every_reader_of_a_row_asks_the_same():
    """Demonstrations, pairs, labels, steps and a task's prompts: the same tokens before the answer."""
    template = TOOLS.replace("assistant\n{% endif %}", "assistant\n{% if quick %}<think></think>{% endif %}{% endif %}")
    closed = "\n{{ '<think></think>' if quick and message.role == 'assistant' }}{{ message.content }}"
    template = template.replace("\n{{ message.content }}", closed)
    tokenizer = tokenizing.byte_level(template)
    row = {"prompt": [ASKED], "tools": [LOOK], "chat_template_kwargs": {"quick": True}, "system": "Be terse."}
    answers = [
        load_demonstrations([row | {"completion": [ANSWER]}], tokenizer),
        load_demonstrations([row | {"messages": [ASKED, ANSWER]}], tokenizer),
        load_preferences([row | {"chosen": "7", "rejected": "8"}], tokenizer),
        load_labelled([row | {"completion": "7", "label": True}], tokenizer),
        load_steps([row | {"completions": ["7"], "labels": [1]}], tokenizer),
        prompt_groups(jsonl_task([row | {"answer": "7"}], heldout=0.0).items("train"), tokenizer),
    ]
    [asked] = {group.prompt for groups in answers for group in groups}
    text = tokenizer.decode(asked)
    assert text.startswith("<|im_start|>tools") and text.endswith("assistant\n<think></think>") and "Be terse." in text
    assert [groups[0].item.prompt for groups in answers[:1]] == [groups[0].item.prompt for groups in answers[5:]]


def test_rows_that_differ_in_tools_or_system_alone_are_different_items():
    row = {"prompt": [ASKED], "answer": "7"}
    rows = [row, row | {"tools": [LOOK]}, row | {"system": "Be terse."}, row]
    assert len(jsonl_task(rows, heldout=0.0).items("train")) == 3


# --- other columns -------------------------------------------------------------------------------------------------

SYSTEM = {"role": "system", "content": "Be terse."}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, ANSWER]},
        {"messages": [SYSTEM, ASKED, ANSWER]},
        {"conversations": [{"from": "human", "value": ASKED["content"]}, {"from": "gpt", "value": "7"}]},
        {"instruction": ASKED["content"], "input": "", "output": "7"},
        {"prompt": ASKED["content"], "completion": [ANSWER]},
    ],
    ids=["messages", "said twice", "ShareGPT", "Alpaca", "prompt and completion"],
)
def test_a_column_system_is_the_first_message(tokenizer, row):
    [group] = load(row | {"system": "Be terse."}, tokenizer)
    [plain] = load({"messages": [SYSTEM, ASKED, ANSWER]}, tokenizer)
    assert group.prompt == plain.prompt and learned(group, tokenizer) == learned(plain, tokenizer)
    assert load(row | {"system": ""}, tokenizer)[0].members[0].text == "7"


def test_a_system_text_that_has_no_place_is_refused(tokenizer):
    for row in ({"prompt": "a", "completion": "b"}, {"text": "a b"}):
        with pytest.raises(DataError, match="row 0: its system text has no place"):
            load(row | {"system": "Be terse."}, tokenizer)
    with pytest.raises(DataError, match="row 0: its system text has no place"):
        jsonl_task([{"prompt": "a", "answer": "b", "system": "s"}]).items("train")
    refused("two different system texts", {"messages": [SYSTEM, ASKED, ANSWER], "system": "Be kind."}, tokenizer)


def test_alpacas_history_comes_before_the_instruction(tokenizer):
    row = {"instruction": "and 5?", "output": "12", "history": [["3 + 4?", "7"]]}
    [group], [plain] = load(row, tokenizer), load({"messages": TWO_TURNS}, tokenizer)
    assert whole(group, tokenizer) == whole(plain, tokenizer) and learned(group, tokenizer) == learned(plain, tokenizer)
    with pytest.raises(DataError, match="history is not a list of pairs"):
        load(row | {"history": ["3 + 4?"]}, tokenizer)
    refused("beside instruction", {"messages": [ASKED, ANSWER], "history": [["a", "b"]]}, tokenizer)


@pytest.mark.parametrize("name", ["images", "image", "videos", "audio"])
def test_what_is_shown_or_heard_is_refused_in_data_and_tasks(tokenizer, name):
    refused("offon reads text only", {"messages": [ASKED, ANSWER], name: ["cat.png"]}, tokenizer)
    refused("message 0 has", {"messages": [{**ASKED, name: ["cat.png"]}, ANSWER]}, tokenizer)
    with pytest.raises(DataError, match="row 0: .*text only"):
        jsonl_task([{"prompt": "what?", "answer": "a cat", name: "cat.png"}]).items("train")
    with pytest.raises(DataError, match="item 0: .*text only"):
        prompt_groups([Item(id="0", prompt="what?", columns={name: "cat.png"})], tokenizer)
    assert len(load({"messages": [ASKED, ANSWER], name: []}, tokenizer)) == 1


@pytest.mark.parametrize("role", ["system", "user", "tool"])
def test_turns_that_the_template_drops_are_refused_in_data_and_prompts(role):
    template = tokenizing.CHATML.replace("%}<|im_start|>", "%}{% if message.role != '" + role + "' %}<|im_start|>", 1)
    template = template.replace("<|im_end|>\n{% endfor", "<|im_end|>\n{% endif %}{% endfor")
    tokenizer = tokenizing.byte_level(template)
    turns = [SYSTEM, ASKED, {"role": "tool", "content": "42"}, ANSWER]
    with pytest.raises(DataError, match=f"drops or rewrites part of {role} turn"):
        load({"messages": turns}, tokenizer)
    with pytest.raises(DataError, match=f"item 0: .*drops or rewrites part of {role} turn"):
        prompt_groups([Item(id="0", prompt=tuple(turns[:3]))], tokenizer)


# --- lossy ---------------------------------------------------------------------------------------------------------


def test_what_is_lost_is_counted_by_rows_where_that_is_allowed(tokenizer):
    lossy = [
        {"messages": [ASKED, {**ANSWER, "thinking": "hm"}, *TWO_TURNS[2:3], {**TWO_TURNS[3], "thinking": "so"}]},
        {"messages": [ASKED, ANSWER], "images": ["cat.png"], "tools": [LOOK]},
        {"messages": [ASKED, ANSWER]},
    ]
    groups = load_demonstrations(lossy, tokenizer, lossy="allow")
    assert dict(groups.report.lost) == {"part of an assistant turn": 1, "images": 1, "tools": 1}
    assert "1 without their images" in str(groups.report)
    plain = load_demonstrations([{"messages": TWO_TURNS}, lossy[2], lossy[2]], tokenizer)
    assert [whole(g, tokenizer) for g in groups] == [whole(g, tokenizer) for g in plain]
    with pytest.raises(ConfigError, match="refuse or allow"):
        load({"messages": TWO_TURNS}, tokenizer, lossy="yes")
