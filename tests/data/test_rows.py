"""Rows: every source gives the same ones, and every mistake in them is named with its place, all at once."""

import datetime
import decimal
import json

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from offon.data.rows import read_rows
from offon.errors import DataError

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d\u2028e"}]
COLUMNS = ("prompt", "completion")


def lines(*texts: str) -> bytes:
    return "\n".join(texts).encode()


def values(source, **kwargs):
    return [row for _, row in read_rows(source, kwargs.get("columns"), COLUMNS)]


def test_all_sources_give_the_same_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(*map(json.dumps, ROWS)))
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for source in (
        tmp_path / "a.jsonl",
        str(tmp_path / "a.json"),
        tmp_path / "a.parquet",
        datasets.Dataset.from_list(ROWS),
    ):
        assert values(source) == ROWS


@pytest.mark.fault("F13")
def test_byte_order_mark_crlf_blank_lines_and_unicode_line_separators_are_no_errors(tmp_path):
    path = tmp_path / "a.jsonl"
    raw = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([raw[0], "", raw[1], ""]).encode())
    assert values(path) == ROWS
    assert [where for where, _ in read_rows(path, None, COLUMNS)] == ["a.jsonl:1", "a.jsonl:3"]


@pytest.mark.fault("F13")
def test_a_broken_line_is_named_by_file_and_line_with_its_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines('{"prompt": "a", "completion": "b"}', '{"prompt": "a", "compl', "[1]"))
    with pytest.raises(DataError) as caught:
        values(path)
    assert caught.value.exit_code == 3
    assert "2 of 3 rows" in str(caught.value)
    assert "a.jsonl:2: not JSON" in str(caught.value) and '{"prompt": "a", "compl' in str(caught.value)
    assert "a.jsonl:3: not an object but a list" in str(caught.value)


@pytest.mark.fault("F12")
def test_five_bad_rows_are_shown_and_the_rest_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*["{"] * 9))
    with pytest.raises(DataError, match="a.jsonl:5: .*\n.*and 4 more") as caught:
        values(path)
    assert "a.jsonl:6" not in str(caught.value)


@pytest.mark.fault("F10")
def test_missing_columns_come_with_the_mapping_that_would_do():
    with pytest.raises(DataError) as caught:
        values([{"question": "a", "answer": "b"}])
    assert "columns prompt + completion not found" in str(caught.value)
    assert caught.value.fix == "columns: {prompt: question, completion: answer}"


def test_the_mapping_renames_and_keeps_other_columns():
    row = {"question": "a", "answer": "b", "id": 7}
    assert values([row], columns={"prompt": "question", "completion": "answer"}) == [
        {"prompt": "a", "completion": "b", "id": 7}
    ]
    with pytest.raises(DataError, match="row 0: no column 'quest', which the mapping names"):
        values([row], columns={"prompt": "quest"})


@pytest.mark.parametrize("name", ["none.jsonl", "notes.txt"])
def test_files_that_are_missing_or_of_another_kind_are_refused(tmp_path, name):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="a .jsonl, .json or .parquet file"):
        values(tmp_path / name)


@pytest.mark.fault("F11")
def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n")
    with pytest.raises(DataError, match="there are no rows"):
        values(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(map(json.dumps, ROWS)),
        json.dumps({"data": ROWS}),
        json.dumps({"version": 1, "rows": ROWS}, indent=1),
        json.dumps(ROWS, indent=2),
    ],
    ids=["lines", "under data", "under rows", "indented"],
)
def test_a_json_file_may_hold_lines_or_rows_under_a_name(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8-sig")
    assert values(path) == ROWS


def test_a_json_file_of_one_object_is_one_row(tmp_path):
    """`messages` is a list of objects too, and no list of rows."""
    path = tmp_path / "a.json"
    row = {"messages": [{"role": "user", "content": "a"}]}
    path.write_text(json.dumps(row))
    assert read_rows(path, None, ("messages",)) == [("row 0", row)]


@pytest.mark.parametrize("text", ['{"prompt": "a",', "[1, 2]", '"text"', '{"prompt": "a"}\n[1]'])
def test_json_that_holds_no_rows_is_refused_with_what_would_do(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        values(path)
    assert caught.value.fix == "an array of objects, or one object per line"


def test_numbers_that_json_does_not_have_are_read_as_those_it_has(tmp_path):
    """From every kind of source: decimals are the numbers that are written the same, NaN (a missing number) is null."""
    columns = {
        "prompt": ["a"],
        "price": pyarrow.array([decimal.Decimal("1.50")]),
        "count": pyarrow.array([decimal.Decimal("12345678901234567890")]),
        "score": [float("nan")],
        "deep": [[{"x": float("nan"), "y": decimal.Decimal("0.1")}]],
        "day": [datetime.date(2026, 1, 2)],
    }
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    expected = {"prompt": "a", "price": 1.5, "count": 12345678901234567890, "score": None}
    expected |= {"deep": [{"x": None, "y": 0.1}]}
    for source in (tmp_path / "a.parquet", table.to_pylist(), datasets.Dataset(table)):
        [(_, row)] = read_rows(source, None, ("prompt",))
        assert {name: row[name] for name in expected} == expected and type(row["count"]) is int
        assert row["day"] == datetime.date(2026, 1, 2)
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "score": NaN}')
    (tmp_path / "a.json").write_text('[{"prompt": "a", "score": NaN}]')
    for name in ("a.jsonl", "a.json"):
        assert read_rows(tmp_path / name, None, ("prompt",))[0][1] == {"prompt": "a", "score": None}
    numpy = {"prompt": "a", "n": np.int64(3), "x": np.float32("nan"), "list": np.array([1, 2])}
    assert read_rows([numpy], None, ("prompt",))[0][1] == {"prompt": "a", "n": 3, "x": None, "list": [1, 2]}


@pytest.mark.parametrize(
    "value, fix",
    [
        (decimal.Decimal("0.1234567890123456789"), "write it as text"),
        (float("inf"), "null, or the number as text"),
    ],
)
def test_numbers_that_none_of_its_holds_are_refused_with_row_and_fix(tmp_path, value, fix):
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "x": [value, value]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 1: x is ") as caught:
        read_rows(tmp_path / "a.parquet", None, ("prompt",))
    assert caught.value.fix == fix


def test_infinity_in_json_is_refused_with_its_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "x": -Infinity}')
    with pytest.raises(DataError, match="a.jsonl:2: a number is -inf"):
        read_rows(tmp_path / "a.jsonl", None, ("prompt",))
