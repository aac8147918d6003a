"""`verifier: unit_tests`: model-written Python against the tests of its row.

The code is the last ```python block of the response, else the whole response. Score 1: every test passes. Content 1:
they pass for another reading of the response too lenient to be a reward (its blocks in one, any one of its blocks).

A row's tests, in the column `answer`, are one of

- a program of asserts, `check(candidate)` with a column `entry_point`, functions test_*(), or unittest's cases
- a list of such programs ("assert add(1, 2) == 3"), all of which count
- pairs of standard input and output: [{"input": .., "output": ..}, ..] or {"inputs": [..], "outputs": [..]}

also as JSON text. Asserts run in a box of their own and call the code in another (`offon.tasks.sandbox.peers`); of
pairs only the input enters the box, and the output is compared outside, spaces at the ends of lines aside.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from offon.data.rows import BadRow
from offon.tasks.api import Pair
from offon.tasks.references import listed
from offon.tasks.sandbox import peers
from offon.tasks.sandbox.box import Boxed, How, Limits, best_way, limit_of, run, start
from offon.types import Verdict

PYTHON = [sys.executable, "-s", "-P"]
BLOCK = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
PYTHON_NAMES = ("python", "py", "python3")
LENIENT_READINGS = 3  # each costs a run
WALL_PER_CPU = 2.0  # on a busy machine the clock runs ahead of the work


@dataclass(frozen=True)
class Tests:
    """programs   sources of asserts          wanted   the names that they take from the code
    entry_point   what their check() is given          pairs    (standard input, expected output)"""

    programs: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    entry_point: str = ""
    pairs: tuple[tuple[str, str], ...] = ()


def tests_of(row: Mapping[str, Any]) -> Tests:
    """The tests of a row; BadRow where they are none."""
    answer, entry_point = listed(row.get("answer")), str(row.get("entry_point") or "")
    if isinstance(answer, str) and answer.lstrip().startswith(("{", "[")):
        try:
            answer = json.loads(answer)
        except ValueError as error:
            raise BadRow(f"answer is neither Python nor JSON: {error}") from error
    if isinstance(answer, Mapping):
        if set(answer) != {"inputs", "outputs"} or len(answer["inputs"]) != len(answer["outputs"]):
            raise BadRow(
                f"answer has {', '.join(map(str, answer))}: write as many inputs as outputs, or a list of tests"
            )
        answer = [{"input": one, "output": other} for one, other in zip(*answer.values(), strict=True)]
    parts = answer if isinstance(answer, list) else [answer]
    if parts and all(isinstance(part, Mapping) and set(part) == {"input", "output"} for part in parts):
        return Tests(pairs=tuple((lines(part["input"]), lines(part["output"])) for part in parts))
    if not parts or not all(isinstance(part, str) and part.strip() for part in parts):
        raise BadRow("answer holds no tests: write asserts, a list of them, or pairs of input and output")
    return Tests(tuple(parts), names_wanted(tuple(parts), entry_point), entry_point)


def lines(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def names_wanted(programs: tuple[str, ...], entry_point: str) -> tuple[str, ...]:
    """The names that tests take from the code: those that they use and neither bind nor find in Python itself, so that
    code cannot bring a `len` or an `isclose` of its own into tests that import theirs."""
    used, bound, checks = {entry_point} - {""}, set(dir(builtins)), False
    for source in programs:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError) as error:
            raise BadRow(f"its tests are no Python: {error}") from error
        for node in ast.walk(tree):
            match node:
                case ast.Name(id=name, ctx=ast.Load()):
                    used.add(name)
                case ast.Name(id=name) | ast.arg(arg=name):
                    bound.add(name)
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                    bound.add(name)
                case ast.ImportFrom(module="solution", names=aliases):
                    used |= {alias.name for alias in aliases}
                case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                    bound |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
                case ast.Attribute(value=ast.Name(id="solution"), attr=name):
                    used.add(name)
            checks = checks or isinstance(node, ast.Assert | ast.Raise) or "assert" in called(node)
    if not checks:
        raise BadRow("its tests assert nothing, so any code would pass")
    return tuple(sorted(used - bound))


def called(node: ast.AST) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", "")).lower()


def code_of(text: str) -> str:
    """The last ```python block, else all of it."""
    blocks = [body for name, body in BLOCK.findall(text) if name.lower() in PYTHON_NAMES]
    return blocks[-1] if blocks else text


def lenient_readings(text: str) -> list[str]:
    """Other programs that the response may have meant: its blocks of any name in one, then each from the last."""
    blocks = [body for _, body in BLOCK.findall(text)]
    readings = dict.fromkeys(["\n".join(blocks), *reversed(blocks)])
    return [one for one in readings if one.strip() and one != code_of(text)][:LENIENT_READINGS]


def unit_tests_check(limit_s: float, allow_unsandboxed: bool = False) -> Callable[[Sequence[Pair]], list[Verdict]]:
    """Verdicts on responses that are code. `limit_s` bounds the computing of a run in seconds, and twice it the time by
    the clock. A ConfigError where code cannot be contained here and may not run without."""
    how = best_way(allow_unsandboxed=allow_unsandboxed)
    limits = Limits(cpu_s=limit_s, wall_s=WALL_PER_CPU * limit_s)
    # Threads that live as long as the checker: a box dies with the thread that started it.
    threads = ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1)), thread_name_prefix="unit_tests")

    def judge(pair: Pair) -> Verdict:
        item, text = pair
        try:
            return verdict(text, tests_of(item.columns), how, limits)
        except BadRow as error:
            return Verdict(None, reason=str(error))

    return lambda pairs: list(threads.map(judge, pairs))


def verdict(text: str, tests: Tests, how: How, limits: Limits) -> Verdict:
    """1 if the code of a response passes; unscored if no box could be made."""
    passed, reason = outcome(code_of(text), tests, how, limits)
    if passed is None:
        return Verdict(None, reason=reason)
    content = passed or any(outcome(code, tests, how, limits)[0] for code in lenient_readings(text))
    return Verdict(float(passed), content=float(content), reason=reason)


def outcome(code: str, tests: Tests, how: How, limits: Limits) -> tuple[bool | None, str]:
    """Whether code passes (None: it could not be tried), and why not."""
    try:
        compile(code, "response", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return False, f"no Python: {error}"[:160]
    if tests.pairs:
        return by_output(code, tests.pairs, how, limits)
    return by_asserts(code, tests, how, limits)


def by_output(code: str, pairs: Sequence[tuple[str, str]], how: How, limits: Limits) -> tuple[bool | None, str]:
    """Each input in a box of its own, to the first that fails."""
    for number, (given, expected) in enumerate(pairs, 1):
        ended = run([*PYTHON, "solution.py"], how=how, limits=limits, files={"solution.py": code}, stdin=given.encode())
        if ended.failure:
            return None, f"no box: {ended.failure}"
        if ended.killed:
            return False, f"test {number} of {len(pairs)}: killed, {ended.killed}"
        if ended.status != 0:
            last = ended.errors.decode(errors="replace").strip().splitlines()[-1:]
            return False, f"test {number} of {len(pairs)}: exit status {ended.status} {''.join(last)}"[:200]
        if comparable(ended.output.decode(errors="replace")) != comparable(expected):
            return False, f"test {number} of {len(pairs)}: another output"
    return True, ""


def comparable(output: str) -> list[str]:
    return [line.rstrip() for line in output.rstrip().splitlines()]


def by_asserts(code: str, tests: Tests, how: How, limits: Limits) -> tuple[bool | None, str]:
    """The code in one box, its tests in another; the verdict comes from the tests' own descriptor."""
    ours, theirs = socket.socketpair()
    verdict_fd, verdict_theirs = os.pipe()
    orders = {
        "code": {"source": code},
        "tests": {"tests": tests.programs, "wanted": tests.wanted, "entry_point": tests.entry_point},
    }
    descriptors = {"code": [theirs.fileno()], "tests": [ours.fileno(), verdict_theirs]}
    with ExitStack() as stack:
        stack.callback(os.close, verdict_fd)
        boxes = []
        try:
            for role, passed in descriptors.items():
                program = [*PYTHON, "-c", peers_source(), role, *map(str, passed)]
                files = {f"{role}.json": json.dumps(orders[role])}
                boxes.append(stack.enter_context(start(program, how=how, limits=limits, files=files, pass_fds=passed)))
        finally:
            ours.close()
            theirs.close()
            os.close(verdict_theirs)
        line, killed = awaited(verdict_fd, boxes[1], limits)
        if not line and (failure := boxes[0].failure() or boxes[1].failure()):
            return None, f"no box: {failure}"
        try:
            result = json.loads(line)
            passed, problem = int(result["passed"]), str(result["problem"])
        except (ValueError, KeyError, TypeError):
            return False, f"killed, {killed}" if killed else "its tests broke off"
        if passed < len(tests.programs) and (killed := cause(boxes[0], limits)):
            problem = f"killed, {killed}"
    count = f"{passed} of {len(tests.programs)} pass; " if len(tests.programs) > 1 else ""
    return passed == len(tests.programs), count + problem if problem else ""


def awaited(descriptor: int, boxed: Boxed, limits: Limits) -> tuple[bytes, str]:
    """The line of the tests' box, and what it was killed for in place of one."""
    line = b""
    deadline = boxed.started + limits.wall_s
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while time.monotonic() < deadline and len(line) <= limits.output_bytes:
            if selector.select(max(0.0, deadline - time.monotonic())):
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    return line, ""
                line += chunk
    return b"", f"over {limits.wall_s:g} s"


def cause(boxed: Boxed, limits: Limits) -> str:
    """What limit ended the code's box, if one did."""
    try:
        return limit_of(boxed.process.wait(0.2), limits)
    except subprocess.TimeoutExpired:
        return ""


@lru_cache(maxsize=1)
def peers_source() -> str:
    return Path(peers.__file__).read_text()
