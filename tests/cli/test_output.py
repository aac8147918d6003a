"""Tables for people, JSON for programs."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offon.cli.output import only_results_on_stdout, plain, print_json, table


@dataclass
class Line:
    name: str
    size: int


def test_json_has_no_nan_and_knows_arrays_paths_and_dataclasses(capsys):
    print_json(
        {
            "a": float("nan"),
            "b": np.array([1.5, np.inf]),
            "c": Path("x/y"),
            "d": [Line("l", 2)],
            "e": np.int64(3),
            4: True,
        }
    )
    document = json.loads(capsys.readouterr().out)
    assert document == {"a": None, "b": [1.5, None], "c": "x/y", "d": [{"name": "l", "size": 2}], "e": 3, "4": True}


def test_plain_keeps_text_whole():
    assert plain("abc") == "abc" and plain(("a",)) == ["a"]


def test_a_table_aligns_numbers_right_and_cuts_long_cells():
    text = table(("name", "n"), [("a", 5), ("bb", 12.34567), ("c" * 99, None)], widest=8)
    assert text.split("\n") == ["name          n", "--------  -----", "a             5", "bb        12.35", "ccccc..."]


def test_a_table_of_nothing_is_its_header():
    assert table(("a", "b"), []) == "a  b\n-  -"


def test_while_a_command_works_prints_go_to_stderr(capsys):
    with only_results_on_stdout():
        print("a library's chatter")
    print("result")
    captured = capsys.readouterr()
    assert captured.out == "result\n" and captured.err == "a library's chatter\n"
