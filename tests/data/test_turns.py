"""Where turns end: read off the template, learned, and the same ids wherever a response is to stop."""

import pytest

from offon.data import load_demonstrations, prompt_groups
from offon.data.render import Renderer
from offon.data.turns import turns_of
from offon.types import Item, Source
from tests.data import tokenizing
from tests.data.test_render import TWO_TURNS, assistant, learned, user

TOOL = [user("look"), assistant("I call"), {"role": "tool", "content": "42"}, assistant("it is 42")]


@pytest.mark.parametrize(
    "template, own, ends",
    [
        (tokenizing.CHATML, "<|im_end|>", {"<|im_end|>"}),
        (tokenizing.CLOSES_LAST, "<eos>", {"<eos>"}),
        (tokenizing.NEXT_ROLE, "", {"<|user|>", "<|observation|>"}),
        (tokenizing.CALLS, "<|im_end|>", {"<|im_end|>"}),
        (tokenizing.UNENDED, "", set()),
        ("{{ raise_exception('no') }}", None, set()),
    ],
    ids=["ChatML", "closes the last turn", "next role", "calls", "unended", "refuses"],
)
def test_what_ends_a_turn_is_read_off_the_template(template, own, ends):
    tokenizer = tokenizing.byte_level(template)
    turns = turns_of(tokenizer)
    assert turns.own == own and set(tokenizer.convert_ids_to_tokens(turns.ends)) == ends


def test_a_call_that_ends_with_another_token_than_words_has_that_as_an_end_too():
    other = tokenizing.CALLS.replace(
        "<|im_end|>\n{% endfor %}", "{{ '<|observation|>' if message.tool_calls else '<|im_end|>' }}\n{% endfor %}"
    ).replace("<|called|>", "")
    tokenizer = tokenizing.byte_level(other)
    assert set(tokenizer.convert_ids_to_tokens(turns_of(tokenizer).ends)) == {"<|observation|>", "<|im_end|>"}


def test_a_template_that_changes_is_read_again():
    tokenizer = tokenizing.byte_level()
    assert turns_of(tokenizer).own == "<|im_end|>"
    tokenizer.chat_template = tokenizing.NEXT_ROLE
    assert turns_of(tokenizer).own == ""


@pytest.mark.parametrize("template", [tokenizing.CHATML, tokenizing.NEXT_ROLE, tokenizing.UNENDED])
def test_prompts_that_the_template_wrote_are_told_from_text(template):
    tokenizer = tokenizing.byte_level(template)
    [chat] = prompt_groups([Item(id="0", prompt=(user("3 + 4?"),))], tokenizer)
    [text] = prompt_groups([Item(id="0", prompt="<bos>user: 3 + 4?<eos>")], tokenizer)
    turns = turns_of(tokenizer)
    assert turns.wrote(chat.prompt) and turns.wrote([*chat.prompt, *tokenizer.encode("so far")])
    assert not turns.wrote(text.prompt) and not turns.wrote(())


def test_a_turn_without_an_end_of_its_own_ends_with_what_the_next_one_begins_with():
    tokenizer = tokenizing.byte_level(tokenizing.NEXT_ROLE)
    [group] = load_demonstrations([{"messages": [*TOOL, *TWO_TURNS]}], tokenizer)
    assert learned(group, tokenizer) == "I call<|observation|>it is 42<|user|>7<|user|>12<eos>"
    [member] = group.members
    others = tokenizer.decode(member.tokens[member.source == Source.ENVIRONMENT])
    assert others == "\n42<|assistant|>\n" + "\n3 + 4?<|assistant|>\n" + "\nand 5?<|assistant|>\n"


def test_a_turn_that_the_template_shortens_later_ends_with_the_next_ones_role_all_the_same():
    forgets = tokenizing.NEXT_ROLE.replace(
        "{{ message.content }}", "{{ message.content if loop.last else message.content.split('=')[-1] }}"
    )
    tokenizer = tokenizing.byte_level(forgets)
    turns = [user("3?"), assistant("3=3"), user("4?"), assistant("4=4")]
    groups = load_demonstrations([{"messages": turns}], tokenizer)
    assert [learned(group, tokenizer) for group in groups] == ["3=3<|user|>", "4=4<eos>"]


def test_the_next_turn_follows_a_response_that_said_its_beginning():
    """The response ended with <|user|>, which the next turn would begin with: it stands there once."""
    tokenizer = tokenizing.byte_level(tokenizing.NEXT_ROLE)
    [end] = tokenizer.convert_tokens_to_ids(["<|user|>"])
    said = [*tokenizer.encode("7"), end]
    between = Renderer(tokenizer).turn((user("3 + 4?"),), said, "sure?")
    assert tokenizer.decode([*said, *between]) == "7<|user|>\nsure?<|assistant|>\n"


def test_a_turn_that_calls_ends_with_the_token_that_ends_turns_and_not_with_the_calls():
    tokenizer = tokenizing.byte_level(tokenizing.CALLS)
    call = {"function": {"name": "add", "arguments": {"a": 3}}}
    calling = {"role": "assistant", "content": "", "tool_calls": [call, call]}
    row = {"messages": [user("3?"), calling, {"role": "tool", "content": "3"}, assistant("3")]}
    [group] = load_demonstrations([row], tokenizer)
    one = '<|call|>add {"a": 3}<|called|>'
    assert learned(group, tokenizer) == f"{one}{one}<|im_end|>3<|im_end|>"


def test_a_whole_response_ends_as_its_prompt_says():
    tokenizer = tokenizing.byte_level()
    [chat] = prompt_groups([Item(id="0", prompt=(user("3?"),))], tokenizer)
    closing = turns_of(tokenizer).closing
    ends = [closing(chat.prompt), closing(tokenizer.encode("3?"))]
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|im_end|>", "<eos>"]
