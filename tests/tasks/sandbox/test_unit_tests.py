"""Verdicts on model-written code: right code passes, wrong code fails, and neither can say that it passed."""

from __future__ import annotations

import json

import pytest

from offon.data.rows import BadRow
from offon.errors import ConfigError, DataError
from offon.tasks import open_task
from offon.tasks.sandbox import box, unit_tests
from offon.tasks.sandbox.box import Limits
from offon.tasks.sandbox.unit_tests import code_of, comparable, lenient_readings, verdict

WAYS = [how for how, problem in box.tried().items() if not problem]
LIMITS = Limits(wall_s=30, cpu_s=10)
ADD = "assert add(1, 2) == 3"

boxed = pytest.mark.skipif(not WAYS, reason=f"nothing contains code here: {box.tried()}")


def judged(code: str, answer, limits: Limits = LIMITS, **columns):
    return verdict(f"```python\n{code}\n```", unit_tests.tests_of({"answer": answer, **columns}), WAYS[0], limits)


FORGERIES = {
    "leaves with success": "import sys\ndef add(a, b): sys.exit(0)",
    "leaves at once": "import os\nprint('1 passed')\nos._exit(0)",
    "equals everything": "class Yes:\n def __eq__(s, o): return True\n def __sub__(s, o): return 0\n"
    "def add(a, b): return Yes()",
    "a number that equals everything": "class Yes(int):\n def __eq__(s, o): return True\ndef add(a, b): return Yes(4)",
    "patched built-ins": "import builtins\nbuiltins.AssertionError = type('E', (), {})\n"
    "builtins.exec = lambda *a: None\ndef add(a, b): return 0",
    "names of the tests' own": "def isinstance(*a): return True\ndef abs(x): return 3\ndef add(a, b): return None",
    "writes verdicts to every descriptor": "import os\nfor fd in range(3, 64):\n try: os.write(fd, b'"
    '{"passed": 1, "problem": ""}\\n{"value": 3}\\n{"value": 3}\\n'
    + "')\n except OSError: pass\ndef add(a, b): return 0",
    "reads what is expected": "import glob, sys, gc\ndef add(a, b):\n text = ''.join(open(f).read() for f in "
    "glob.glob('/box/*') + glob.glob('/proc/*/cmdline'))\n return 3 if '=' * 2 + ' 3' in text else 0",
    "raises the wrong way": "def add(a, b): raise StopIteration",
    "is no Python": "def add(a, b) return a + b",
    "an empty program": "",
}


@boxed
@pytest.mark.parametrize("forgery", FORGERIES)
def test_no_code_passes_without_the_right_value(forgery):
    outcome = judged(FORGERIES[forgery], ADD)
    assert outcome.score == 0 and outcome.content == 0 and outcome.reason


@boxed
def test_plain_data_crosses_as_it_is_and_keeps_its_types():
    """Each value comes back equal and of its own type: 1 is not 1.0, a tuple no list."""
    values = (
        "[None, True, 1, 1.0, 2**80, -(10**5000), 1e-300, float('inf'), 1j, 'é\\ud800', b'\\0',"
        " [1, (2, {3})], {'a': {1: 2}}, frozenset({1}), range(3),"
        " Fraction(1, 3), Decimal('0.10'), date(2020, 2, 29), int, ValueError]"
    )
    imports = "from fractions import Fraction\nfrom decimal import Decimal\nfrom datetime import date\n"
    test = f"{imports}for x in {values}:\n    y = same(x)\n    assert y == x and type(y) is type(x), (x, y)"
    outcome = judged("def same(x): return x", test)
    assert outcome.score == 1, outcome


@boxed
def test_classes_exceptions_callbacks_generators_and_changes_in_place_work():
    code = """
class Empty(ValueError): pass
class Stack:
    def __init__(self): self.items = []
    def push(self, x): self.items.append(x); return self
    def pop(self):
        if not self.items: raise Empty("nothing")
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]
def apply(f, xs): return [f(x) for x in xs]
def halves(n):
    while n: yield n; n //= 2
def sort(xs): xs.sort()
"""
    test = """
from solution import Stack as S
s = S().push(1).push("b")
assert len(s) == 2 and s[0] == 1 and "b" in s and isinstance(s, Stack) and not isinstance(3, Stack)
assert s.pop() == "b" and s.items == [1]
s.items = []
try: s.pop(); assert False
except Empty as error: assert str(error) == "nothing" and isinstance(error, ValueError)
assert apply(lambda x: x * 2, (1, 2)) == [2, 4]
assert list(halves(5)) == [5, 2, 1]
xs = [3, 1, 2]; sort(xs); assert xs == [1, 2, 3]
"""
    assert judged(code, test).reason == ""


@pytest.mark.slow
@boxed
def test_tests_may_be_functions_cases_or_a_check_with_an_entry_point():
    right, wrong = "def add(a, b): return a + b", "def add(a, b): return a - b"
    case = "import unittest\nclass T(unittest.TestCase):\n def test_it(self): self.assertEqual(add(1, 2), 3)"
    for answer, columns in [
        (f"def test_it():\n    {ADD}", {}),
        (case, {}),
        ("def check(candidate):\n    assert candidate(1, 2) == 3", {"entry_point": "add"}),
        ([ADD, "assert add(2, 0) == 2"], {}),
    ]:
        assert [judged(code, answer, **columns).score for code in (right, wrong)] == [1, 0], answer
    assert judged(wrong, [ADD, "assert add(2, 0) == 2"]).reason == "1 of 2 pass; test 1: AssertionError (line 1)"


@boxed
def test_programs_are_judged_by_their_output_for_each_input():
    pairs = [{"input": "3\n", "output": "9"}, {"input": "4\n", "output": "16\n\n"}]
    assert judged("print(int(input()) ** 2, '')", pairs).score == 1  # spaces at the end of a line aside
    assert judged("print(9)", json.dumps(pairs)).reason == "test 2 of 2: another output"
    assert judged("print(9); raise KeyError(1)", pairs).reason == "test 1 of 2: exit status 1 KeyError: 1"
    assert judged("print(input()); import sys; sys.exit(0)", {"inputs": ["1"], "outputs": ["2"]}).score == 0


@pytest.mark.slow
@boxed
def test_what_a_limit_killed_is_named():
    assert "of computing" in judged("while True: pass", ADD, Limits(wall_s=30, cpu_s=1)).reason
    assert judged("import time; time.sleep(99)", ADD, Limits(wall_s=1)).reason == "killed, over 1 s"
    assert "MemoryError" in judged("def add(a, b): return len(bytearray(8 << 30))", ADD).reason
    assert judged("def add(a, b): return 'x' * (9 << 20)", ADD).score == 0


@boxed
def test_the_content_is_right_where_only_the_form_is_not():
    right = "def add(a, b):\n    return a + b\n"
    tests = unit_tests.tests_of({"answer": ADD})
    untagged = verdict(f"Here:\n```\n{right}```\nDone.", tests, WAYS[0], LIMITS)
    example = verdict(f"```python\n{right}```\nUse it:\n```python\nprint(add(1, 2))\n```", tests, WAYS[0], LIMITS)
    bare = verdict(right, tests, WAYS[0], LIMITS)
    assert [(one.score, one.content) for one in (untagged, example, bare)] == [(0, 1), (0, 1), (1, 1)]


def test_the_code_is_the_last_python_block_or_everything():
    assert code_of("a\n```python\nx = 1\n```\n```py\nx = 2\n```\n```\nx = 3\n```") == "x = 2\n"
    assert code_of("```python\nx = 1") == "x = 1" and code_of("x = 1") == "x = 1"
    assert lenient_readings("```python\nx = 1\n```\n```\ny\n```") == ["x = 1\n\ny\n", "y\n"]
    assert comparable("a  \nb\n\n") == ["a", "b"] and comparable(" a") == [" a"]


@pytest.mark.parametrize(
    "answer, why",
    [
        ("add(1, 2)", "assert nothing"),
        ("assert add(1,", "no Python"),
        ([], "no tests"),
        ({"inputs": ["1"], "outputs": []}, "as many inputs"),
        ([{"input": "1"}], "no tests"),
        ('[{"input": 1,', "neither Python nor JSON"),
        (5, "no tests"),
    ],
)
def test_rows_without_tests_are_refused(answer, why):
    with pytest.raises(BadRow, match=why):
        unit_tests.tests_of({"answer": answer})
    with pytest.raises(DataError, match=why):
        open_task(
            {"jsonl": [{"prompt": "p", "answer": answer}], "verifier": "unit_tests", "allow_unsandboxed": True}
        ).items("train")


def test_tests_take_from_the_code_only_names_that_they_lack():
    answer = "import math\nfrom solution import helper\ndef check(f):\n    assert math.isclose(abs(f(x)), limit)"
    assert unit_tests.tests_of({"answer": answer, "entry_point": "run"}).wanted == ("helper", "limit", "run", "x")


@boxed
def test_a_task_checks_responses_and_its_tests_are_no_response():
    task = open_task({"jsonl": [{"prompt": "Write add.", "answer": ADD}], "verifier": "unit_tests", "heldout": 0})
    [item] = task.items("train")
    assert item.reference is None and task.answer is None
    verdicts = task.verify([(item, "I do not know."), (item, "```python\nadd = lambda a, b: a + b\n```")])
    assert [one.score for one in verdicts] == [0, 1]


def test_a_box_that_cannot_be_made_leaves_a_response_unscored(monkeypatch):
    monkeypatch.setattr(unit_tests, "run", lambda *a, **k: box.Ended(failure="no memory"))
    tests = unit_tests.tests_of({"answer": [{"input": "", "output": ""}]})
    assert verdict("pass", tests, "none", LIMITS).score is None


def test_only_code_can_be_allowed_without_a_box():
    with pytest.raises(ConfigError, match="runs no code"):
        open_task({"jsonl": [{"prompt": "p", "answer": "1"}], "allow_unsandboxed": True})
