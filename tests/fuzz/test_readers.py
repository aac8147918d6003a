"""Whatever is written into a recipe, a data file, a conversation, a template, an answer: a result or an OffonError that
says what is wrong, and an end in time. `OFFON_FUZZ=10000` (make fuzz) is how many inputs each reader gets."""

import functools
import json
import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offon.data import (
    load_demonstrations,
    load_labelled,
    load_preferences,
    load_rankings,
    load_steps,
)
from offon.data.render import Renderer
from offon.errors import OffonError
from offon.recipe import parse, resolve
from offon.tasks.jsonl import jsonl_task
from offon.tasks.verifiers import VERIFIERS
from tests.data.tokenizing import byte_level

INPUTS = int(os.environ.get("OFFON_FUZZ", "60"))
DEADLINE_S = 20

fuzzed = settings(
    max_examples=INPUTS,
    deadline=None,
    database=None,
    derandomize=INPUTS < 1000,
    suppress_health_check=list(HealthCheck),
)

anything = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["\ud800", "\0", "<|im_end|>", "<|im_start|>", "user", "assistant", "system", "tool", "", " ", "7"]
)
numbers = st.integers() | st.floats() | st.booleans() | st.none()
values = st.recursive(
    numbers | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3),
    max_leaves=8,
)
words = st.sampled_from(
    ["role", "content", "from", "value", "tool_calls", "reasoning_content", "name", "weight", "train"]
)
turn = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | values, "content": anything | values},
    optional={"tool_calls": values, "weight": values, "reasoning_content": values},
) | st.dictionaries(words, values, max_size=3)
conversation = st.lists(turn, max_size=4) | values
COLUMNS = [
    "prompt", "completion", "messages", "conversations", "text", "chosen", "rejected", "completions", "labels", "label",
    "instruction", "output", "input", "tools", "system", "margin", "separator", "answer", "views", "offon",
    "chat_template_kwargs",
]  # fmt: skip
row = st.dictionaries(st.sampled_from(COLUMNS), conversation | values, max_size=5) | values
LOADERS = {
    load_demonstrations: [
        ("prompt", "completion"),
        ("messages",),
        ("text",),
        ("conversations",),
        ("instruction", "output"),
    ],
    load_preferences: [("prompt", "chosen", "rejected"), ("chosen", "rejected")],
    load_labelled: [("prompt", "completion", "label")],
    load_rankings: [("prompt", "completions")],
    load_steps: [("prompt", "completions", "labels")],
}
FORMS = [(loader, names) for loader, forms in LOADERS.items() for names in forms]


def reads(call):
    """A result or an OffonError in time; the error's text can be printed."""

    def late(signum, frame):
        raise TimeoutError(f"still at it after {DEADLINE_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(DEADLINE_S)
    try:
        return call()
    except OffonError as error:
        assert error.what
        str(error).encode()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@functools.cache
def renderer():
    return Renderer(byte_level())


@pytest.mark.parametrize(("loader", "names"), FORMS, ids=lambda v: getattr(v, "__name__", None) or "+".join(v))
def test_rows_of_every_form(loader, names):
    required = st.fixed_dictionaries(
        {name: conversation | anything for name in names},
        optional={
            "tools": values,
            "system": values,
            "offon": values,
            "margin": values,
            "separator": values,
            "input": values,
            "chat_template_kwargs": values,
        },
    )

    @fuzzed
    @given(st.lists(required | row, min_size=1, max_size=2))
    def check(rows):
        reads(lambda: loader(rows, renderer().tokenizer))

    check()


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.parquet"])
def test_files_of_any_bytes(name, tmp_path):
    content = (
        st.binary(max_size=40)
        | st.lists(row, max_size=3).map(lambda rows: json.dumps(rows).encode())
        | row.map(lambda r: json.dumps(r).encode())
    )

    @fuzzed
    @given(content)
    def check(content):
        (tmp_path / name).write_bytes(content)
        reads(lambda: load_demonstrations(tmp_path / name, renderer().tokenizer))

    check()


def test_task_rows():
    @fuzzed
    @given(
        st.lists(
            st.fixed_dictionaries(
                {"prompt": anything | conversation, "answer": values},
                optional={"views": values, "system": values, "tools": values},
            )
            | row,
            min_size=1,
            max_size=2,
        )
    )
    def check(rows):
        reads(lambda: jsonl_task(rows, heldout=0.0).items("train"))

    check()


KEYS = st.sampled_from(
    [
        "model",
        "task",
        "seed",
        "probe",
        "pipeline",
        "method",
        "data",
        "init",
        "steps",
        "with",
        "loop",
        "gate",
        "limits",
        "lora",
        "jsonl",
        "python",
        "gym",
        "verifier",
        "prompts",
        "s",
    ]
)
NAMES = st.sampled_from(["sft", "grpo", "dpo", "testbed:demo", "$s", "./x", "best_of_n", "gym:x"]) | values
tree = st.recursive(
    NAMES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def test_recipes():
    nodes = st.dictionaries(
        st.sampled_from(["s", "t", "0", ""]),
        st.fixed_dictionaries(
            {"method": NAMES, "steps": values},
            optional={"data": NAMES, "task": tree, "with": tree, "init": NAMES, "lora": tree},
        )
        | tree,
        max_size=3,
    )
    recipe = (
        st.fixed_dictionaries(
            {"model": NAMES, "pipeline": nodes | tree}, optional={"task": tree, "probe": tree, "seed": values}
        )
        | tree
    )
    text = recipe.map(lambda r: json.dumps(r)) | st.text(
        st.sampled_from("abc:-[]{}&*!?|>'\"\n <#%@,0.~\\ud8"), max_size=40
    )

    @fuzzed
    @given(text)
    def check(text):
        with tempfile.TemporaryDirectory() as folder:
            reads(lambda: resolve(parse(text, folder=Path(folder))))

    check()


def test_templates():
    pieces = st.sampled_from(
        [
            "{{",
            "}}",
            "{%",
            "%}",
            "for m in messages",
            "endfor",
            "m.content",
            "m['role']",
            "if ",
            "endif",
            "{{ m.content }}",
            "{% for m in messages %}",
            "{% endfor %}",
            "{{ 'a' * 9 }}",
            "<|im_end|>",
            "x",
            "{{ raise_exception('no') }}",
            "{{ messages[9].role }}",
            "{{ 1 / 0 }}",
            "{{ [] + 1 }}",
        ]
    )

    @fuzzed
    @given(st.lists(pieces, min_size=1, max_size=8).map(" ".join), st.lists(turn, min_size=1, max_size=3))
    def check(template, messages):
        made = byte_level(template)
        reads(lambda: Renderer(made).prompt(messages))

    check()


@pytest.mark.parametrize("name", [name for name, verifier in VERIFIERS.items() if verifier.verdict])
def test_verifiers(name):
    @fuzzed
    @given(anything, anything)
    def check(text, answer):
        reads(lambda: VERIFIERS[name].verdict(text, answer))

    check()
