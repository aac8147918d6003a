"""A function counts by what it does: its code, and the values it brings along."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import threading

import datasets
import pytest

from offon.api.code import parts_of
from offon.errors import ConfigError
from tests.support import qwen3, tokenizer


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The function `f` of a module with this text."""

    def load(text: str):
        path = tmp_path / f"made{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
        return module.f

    return load


PLAIN = "def f(x, scale=2):\n    return scale * x\n"


@pytest.mark.parametrize(
    "same",
    [
        "# a comment\n\n\ndef f(x,\n      scale=2):\n    '''What it is.'''\n    return (scale\n        * x)  # twice\n",
        "import os\nOTHER = 3\n" + PLAIN + "def g():\n    return OTHER\n",
    ],
)
def test_form_comments_docstrings_and_what_stands_beside_it_do_not_count(written, same):
    assert parts_of(written(same)) == parts_of(written(PLAIN))


LIMIT = "LIMIT = 3\ndef f(x):\n    return x < LIMIT\n"
TABLE = "W = {'a': [1]}\ndef f(x):\n    return W[x]\n"
HELPED = "def g(x):\n    return 1\ndef f(x):\n    return [g(y) for y in x]\n"
MADE = "class A:\n    m = 1\ndef f(x):\n    return A.m\n"
CALLED = "class A:\n    n = 1\n    def __init__(self, m):\n        self.m = m\n"
CALLED += "    def __call__(self, x):\n        return x\nf = A(3)\n"
BOUND = CALLED.replace("__call__", "g").replace("A(3)", "A(3).g")


@pytest.mark.parametrize(
    ("text", "change", "part"),
    [
        (PLAIN, ("scale * x", "scale + x"), "code"),
        (PLAIN, ("scale=2", "scale=3"), "values"),
        (LIMIT, ("= 3", "= 4"), "values"),
        (TABLE, ("[1]", "[2]"), "values"),
        (HELPED, ("return 1", "return 2"), "code"),
        (MADE, ("m = 1", "m = 2"), "code"),
        ("f = lambda x: x + 1\n", ("+ 1", "+ 2"), "code"),
        (CALLED, ("A(3)", "A(4)"), "values"),
        (CALLED, ("return x", "return -x"), "code"),
        (BOUND, ("A(3)", "A(4)"), "values"),
        (BOUND, ("n = 1", "n = 2"), "code"),
    ],
)
def test_code_defaults_state_helpers_and_named_values_count(written, text, change, part):
    first, second, again = (parts_of(written(one)) for one in (text, text.replace(*change), text))
    assert first == again and first[part] != second[part]


def closing_over(value):
    def f(x):
        return x, value

    return f


def test_what_a_closure_or_a_partial_holds_counts_by_content():
    rows = [datasets.Dataset.from_list([{"a": n}]) for n in (1, 1, 2)]
    values = {
        "numbers": ((1, 1.5), (1, 1.5), (1, 2.5)),
        "models": (qwen3(0), qwen3(0), qwen3(1)),
        "rows": rows,
        "functions": (closing_over(1), closing_over(1), closing_over(2)),
        "sets": ({"a", "b"}, {"b", "a"}, {"a", "c"}),
    }
    for name, (one, same, other) in values.items():
        for bring in (closing_over, functools.partial(functools.partial, print)):
            first, again, differs = (parts_of(bring(value)) for value in (one, same, other))
            assert first == again != differs, (name, bring)
    assert parts_of(closing_over(tokenizer())) == parts_of(closing_over(tokenizer()))


def test_a_tokenizer_that_was_used_is_the_same_tokenizer():
    """A fast tokenizer remembers how its last call padded and cut."""
    used = tokenizer()
    before = parts_of(closing_over(used))
    used(["w1 w2 w3", "w1"], padding=True, truncation=True, max_length=2)
    assert parts_of(closing_over(used)) == before


def test_a_function_that_calls_itself_has_a_hash(written):
    text = "def f(x):\n    return g(x)\ndef g(x):\n    return f(x - 1) if x else 0\n"
    assert parts_of(written(text)) == parts_of(written(text))


def test_hashes_are_those_of_another_process(tmp_path):
    """Neither addresses nor the order of a set, which differ from process to process, enter one."""
    text = "def made(value):\n    def f(x):\n        return x, value\n    return f\n"
    text += "f = made({'a': (1, {'x', 'y', 'z'}), 'b': print})\n"
    (tmp_path / "named.py").write_text(text)
    code = "from named import f; from offon.api.code import parts_of; print(parts_of(f))"
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    shown = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed}
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        shown.add(ended.stdout)
    assert len(shown) == 1 and "code" in shown.pop()


def test_what_has_no_content_that_can_be_read_is_refused_with_how_to_name_it():
    pair = [lambda x: 1, lambda x: 2]
    namespace: dict = {}
    exec("def typed(x):\n    return x\n", namespace)
    refused = {
        "lock": closing_over(threading.Lock()),
        "2 lambdas": pair[0],
        "source is not there": namespace["typed"],
        "its default 0 is a generator": closing_over_default(n for n in range(3)),
    }
    for words, function in refused.items():
        with pytest.raises(ConfigError, match=words) as caught:
            parts_of(function)
        assert "./file.py:NAME" in caught.value.fix and caught.value.why, words


def closing_over_default(value):
    def f(x=value):
        return x

    return f
