"""Checkers for data sets of reasoning-gym with several right answers. Each is a function of the response's answer, the
reference and the item's metadata, and says whether the answer is right. A response is parsed, never evaluated.
"""

from __future__ import annotations

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from offon.tasks import numbers

Rule = Callable[[str, str, Mapping[str, Any]], bool]
LONGEST = 2000  # characters of an expression or of data
LARGEST_EXPONENT = 64
TOLERANCE = 1e-6


def caseless(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    return text.strip().rstrip(".").casefold() == answer.strip().casefold()


def unspaced(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    one, other = ("".join(part.split()).rstrip(".").casefold() for part in (text, answer))
    return one == other


def listing(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    one, other = ([word.strip() for word in part.split(",")] for part in (text, answer))
    return one == other


# --- numbers ---


def rounded(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    """The same numbers in the same rows, each within half a unit of the reference's last place."""
    rows, wanted = ([_pieces(line) for line in part.strip().splitlines()] for part in (text, answer))
    return [len(row) for row in rows] == [len(row) for row in wanted] and all(
        _near(one, other) for row, want in zip(rows, wanted, strict=True) for one, other in zip(row, want, strict=True)
    )


def solutions(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    """The same numbers in any order."""
    given, wanted = (sorted(_pieces(part), key=lambda piece: _value(piece) or 0) for part in (text, answer))
    return len(given) == len(wanted) and all(map(_near, given, wanted))


def three_figures(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    try:
        given, wanted = Decimal(f"{float(_value(text)):.2e}"), Decimal(f"{float(answer):.2e}")
    except (TypeError, ValueError, OverflowError, InvalidOperation):
        return False
    return given == wanted


def _pieces(text: str) -> list[str]:
    return re.sub(r"[(),;]", " ", text).split()


def _value(text: str) -> Fraction | None:
    """One number, with no words, brackets or lines around it."""
    number = None if re.search(r"[A-DF-Za-df-z]{2}|[\[\]\n]", text.strip()) else numbers.whole_number(text)
    return number and number.value


def _near(given: str, wanted: str) -> bool:
    one, other = _value(given), _value(wanted)
    if one is None or other is None:
        return given == wanted
    places = re.search(r"\.(\d+)(?:[eE]([-+]?\d+))?", wanted)
    last = Fraction(10) ** (int(places[2] or 0) - len(places[1])) if places else 0
    return one == other or abs(one - other) <= last / 2


def reduced(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    fraction = re.fullmatch(
        r"\$*\s*(?:\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}|(-?\d+)\s*/\s*(-?\d+))\s*\$*\.?", text.strip()
    )
    wanted = (str(metadata["simplified_numerator"]), str(metadata["simplified_denominator"]))
    return bool(fraction) and tuple(filter(None, fraction.groups())) == wanted


def complex_number(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    given = _complex(text)
    return given is not None and abs(given - complex(*metadata["result"])) <= TOLERANCE * max(1.0, abs(given))


def _complex(text: str) -> complex | None:
    text = re.sub(r"[\s$()*]", "", text.translate(numbers.DASHES)).rstrip(".")
    parts = re.findall(r"([-+]?)(\d{1,40}(?:\.\d{0,40})?)?([ijIJ]?)", text)
    if not text or "".join(map("".join, parts)) != text:
        return None
    total = 0j
    for k, (sign, digits, unit) in enumerate(part for part in parts if any(part)):
        if (k and not sign) or not (digits or unit):
            return None
        total += (-1 if sign == "-" else 1) * float(digits or 1) * (1j if unit else 1)
    return total


def factors(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    text = re.sub(r"\\times|\\cdot|[x×·⋅*]", " × ", numbers.plain(text.replace("**", "^")).replace("*", " × "))
    given: list[int] = []
    for piece in text.split("×"):
        power = re.fullmatch(r"\s*(\d{1,12})\s*(?:\^\s*\(?\s*(\d{1,2})\s*\)?)?\s*", piece)
        if not power:
            return False
        given += [int(power[1])] * int(power[2] or 1)
    return sorted(given) == sorted(metadata["factors"])


# --- expressions ---

BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def countdown(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    """Exact arithmetic over + - * / and brackets that uses every number once."""
    tree, used = _tree(_operators(text)), []

    def value(node: ast.AST) -> Fraction:
        match node:
            case ast.BinOp(left, op, right) if type(op) in BINARY:
                return BINARY[type(op)](value(left), value(right))
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case ast.Constant(int(number)) if not isinstance(number, bool):
                used.append(number)
                return Fraction(number)
        raise ValueError

    try:
        right = tree is not None and value(tree) == metadata.get("target", 24)
    except (ValueError, ZeroDivisionError):
        return False
    return right and sorted(used) == sorted(metadata["numbers"])


def polynomial(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    import sympy

    names = {name: sympy.Symbol(name) for name in map(str, metadata["variables"])}
    given, wanted = (_expression(part, names) for part in (text, answer))
    return given is not None and wanted is not None and sympy.expand(given - wanted) == 0


def antiderivative(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    """The derivative is the integrand at points off the axes' special ones, in complex arithmetic."""
    import sympy

    variable = sympy.Symbol(metadata["variable"])
    names = {
        variable.name: variable,
        "C": sympy.Symbol("C"),
        "c": sympy.Symbol("C"),
        "E": sympy.E,
        "e": sympy.E,
        "pi": sympy.pi,
    }
    given, integrand = (_expression(part, names) for part in (text, metadata["integrand"]))
    if given is None or integrand is None:
        return False
    derivative, checked = sympy.diff(given, variable), 0
    if derivative.has(sympy.Symbol("C")):
        return False
    for k in range(1, 9):
        point = sympy.Rational(37 * k, 101) * (-1) ** k
        one, other = (complex(part.subs(variable, point).evalf(30)) for part in (derivative, integrand))
        if not all(map(math.isfinite, (one.real, one.imag, other.real, other.imag))):
            continue
        if abs(one - other) > 1e-9 * max(1.0, abs(other)):
            return False
        checked += 1
    return checked >= 3


FUNCTIONS = (
    "sin",
    "cos",
    "tan",
    "exp",
    "log",
    "ln",
    "sqrt",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "sec",
    "csc",
    "cot",
)


def _expression(text: str, names: Mapping[str, Any]) -> Any:
    """A sympy expression of Python's arithmetic, named symbols and functions; None for anything else."""
    import sympy

    def value(node: ast.AST) -> Any:
        match node:
            case ast.BinOp(left, op, right) if type(op) in BINARY:
                return BINARY[type(op)](value(left), value(right))
            case ast.BinOp(left, ast.Pow(), right):
                base, exponent = value(left), value(right)
                if exponent.is_number and abs(exponent) > LARGEST_EXPONENT:
                    raise ValueError
                return base**exponent
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case ast.UnaryOp(ast.UAdd(), operand):
                return value(operand)
            case ast.Constant(int(number)) if not isinstance(number, bool):
                return sympy.Integer(number)
            case ast.Constant(float(number)):
                return sympy.Rational(str(number))
            case ast.Name(name) if name in names:
                return names[name]
            case ast.Call(ast.Name(name), [argument], []) if name in FUNCTIONS:
                return getattr(sympy, name)(value(argument))
        raise ValueError

    try:
        tree = _tree(_operators(text))
        return None if tree is None else value(tree)
    except (ValueError, TypeError, AttributeError, ZeroDivisionError):
        return None


def _operators(text: str) -> str:
    text = text.translate(numbers.DASHES).translate(str.maketrans("×⋅·÷", "***/")).replace("^", "**")
    return text.strip().strip("$`").strip().rstrip(".")


def _tree(text: str) -> ast.AST | None:
    try:
        return ast.parse(text, mode="eval").body if len(text) <= LONGEST else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# --- data, boards and sentences ---


def data(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    given, wanted = _data(text), _data(answer)
    return given is not None and given == wanted


def _data(text: str) -> Any:
    """JSON or a Python literal; numbers in quotes are numbers. None where it is neither."""
    if len(text) > 100 * LONGEST:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return (_numbers(read(text.strip())),)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def _numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d{1,40}(?:\.\d{1,40})?", value):
        return float(value)
    return ("truth", value) if isinstance(value, bool) else value  # 1 == True in Python


def queens(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    boards = (_rows(board) for board in metadata["valid_answers"])
    return _rows(text) in boards


def sudoku(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    """Rows, columns and boxes hold every digit once, and the clues stand."""
    clues, n = metadata["puzzle"], len(metadata["puzzle"])
    grid = _integers(text, n)
    if grid is None:
        return False
    box, every = math.isqrt(n), list(range(1, n + 1))
    boxes = [
        [grid[i + di][j + dj] for di in range(box) for dj in range(box)]
        for i in range(0, n, box)
        for j in range(0, n, box)
    ]
    columns = [list(column) for column in zip(*grid, strict=True)]
    return all(sorted(part) == every for part in (*grid, *columns, *boxes)) and _keeps(grid, clues)


def survo(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    """The empty cells take the numbers given, once each, and the last of each row and column is its sum."""
    clues = metadata["puzzle"]
    grid = _integers(text, len(clues))
    if grid is None or not _keeps(grid, clues):
        return False
    n = len(clues)
    filled = [grid[i][j] for i in range(n) for j in range(n) if not clues[i][j]]
    lines = [*grid, *zip(*grid, strict=True)]
    return sorted(filled) == sorted(metadata["candidate_numbers"]) and all(sum(line[:-1]) == line[-1] for line in lines)


def _keeps(grid: list[list[int]], clues: list[list[int]]) -> bool:
    pairs = zip(grid, clues, strict=True)
    return all(not clue or cell == clue for row, given in pairs for cell, clue in zip(row, given, strict=True))


def _integers(text: str, n: int) -> list[list[int]] | None:
    """An n by n grid of integers, separated by spaces."""
    rows = _rows(text)
    if len(rows) != n or any(len(row) != n or not all(re.fullmatch(r"\d{1,4}", cell) for cell in row) for row in rows):
        return None
    return [[int(cell) for cell in row] for row in rows]


def _rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def kinds_of_people(text: str, answer: str, metadata: Mapping[str, Any]) -> bool:
    """Every name once, each with its kind, and nothing else."""
    terms = metadata["knight_knave_terms"]
    rest, roles = text.casefold(), {}
    for name in map(str, metadata["names"]):
        claim = rf"\b{re.escape(name.casefold())}\s+is\s+(?:an?\s+)?({{}}|{{}})\b".format(
            *(re.escape(str(terms[kind]).casefold()) for kind in ("knight", "knave"))
        )
        given = re.findall(claim, rest)
        if len(given) != 1:
            return False
        roles[name], rest = given[0], re.sub(claim, "", rest)
    wanted = [str(terms["knight" if true else "knave"]).casefold() for true in metadata["solution"]]
    return list(roles.values()) == wanted and not re.search(r"\w", re.sub(r"\band\b", "", rest))


RULES: dict[str, Rule] = {
    "caseless": caseless,
    "unspaced": unspaced,
    "listing": listing,
    "rounded": rounded,
    "solutions": solutions,
    "three_figures": three_figures,
    "reduced": reduced,
    "complex": complex_number,
    "factors": factors,
    "countdown": countdown,
    "polynomial": polynomial,
    "antiderivative": antiderivative,
    "data": data,
    "queens": queens,
    "sudoku": sudoku,
    "survo": survo,
    "kinds_of_people": kinds_of_people,
}
