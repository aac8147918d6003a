"""Two spellings of a task, and mistakes in either answered with the nearest right word."""

import subprocess
import sys

import pytest

from offon.errors import ConfigError
from offon.tasks import Task, open_task, parsed_spec
from offon.tasks.api import scored
from offon.types import Verdict


@pytest.mark.parametrize(
    "text, mapping",
    [
        ("gym:chain_sum,max_terms=2,size=2000", {"gym": "chain_sum", "max_terms": 2, "size": 2000}),
        ("gym:lcm,form=text,allow_negation=true", {"gym": "lcm", "form": "text", "allow_negation": True}),
        ("testbed:rare", {"testbed": "rare"}),
        ("testbed:rare,absent,seed=1", {"testbed": ["rare", "absent"], "seed": 1}),
        ("jsonl:dir/file.jsonl,verifier=numeric", {"jsonl": "dir/file.jsonl", "verifier": "numeric"}),
        ("python:package.module:function,data=p.jsonl", {"python": "package.module:function", "data": "p.jsonl"}),
        ("python:file.py:function", {"python": "file.py:function"}),
        ('gym:lcm,template="{question}\\n"', {"gym": "lcm", "template": "{question}\n"}),
        ("jsonl:a.jsonl,pattern=x=(.)", {"jsonl": "a.jsonl", "pattern": "x=(.)"}),
    ],
)
def test_the_string_form_says_what_the_mapping_says(text, mapping):
    assert parsed_spec(text) == mapping


@pytest.mark.parametrize(
    "spec, words",
    [
        ("chain_sum", "names no kind"),
        ("gim:chain_sum", "did you mean gym?"),
        ({"gymn": "chain_sum"}, "did you mean gym?"),
        ({"jsonl": "a", "python": "b"}, "names jsonl and python"),
        ({}, "has only nothing"),
        ({"jsonl": "a.jsonl", "verifer": "exact"}, "did you mean verifier?"),
        ("jsonl:a.jsonl,verifier=numerical", "did you mean numeric?"),
        ("jsonl:a.jsonl,verifier=regex", "regex needs a pattern"),
        ("jsonl:a.jsonl,verifier=exact,pattern=x", "exact takes no pattern"),
        ({"jsonl": "a.jsonl", "verifier": "regex", "pattern": "("}, "does not compile"),
        ("python:a:b", "missing key 'data'"),
        (7, "not a int"),
    ],
)
def test_a_mistaken_task_is_a_config_error_with_a_way_out(spec, words):
    with pytest.raises(ConfigError) as caught:
        open_task(spec)
    assert words in str(caught.value) and caught.value.exit_code == 2


def test_a_task_object_is_returned_as_it_is():
    class Own:
        name = "own"

        def items(self, split):
            return []

        def verify(self, pairs):
            return []

    own = Own()
    assert open_task(own) is own and isinstance(own, Task)


def test_only_finite_numbers_are_scores():
    assert scored(0.5) == Verdict(0.5) and scored(True).score == 1.0
    for value in (None, float("nan"), float("inf"), "1.0", [1.0]):
        verdict = scored(value)
        assert verdict.score is None and verdict.reason


def test_importing_tasks_and_data_imports_nothing_heavy():
    heavy = "torch transformers datasets pyarrow reasoning_gym sympy"
    modules = "offon.tasks.gym, offon.tasks.jsonl, offon.tasks.python, offon.data"
    code = f"import sys, {modules}; print(*(m for m in {heavy.split()} if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
