"""Two peers over a socket: code under test in one box, its tests in another.

The tests see the code's functions, classes and objects as `Remote`s; only plain data crosses, so an object whose `==`
always says yes, a patched `assert`, `sys.exit()` or a forged line can do no more than give a wrong value. The code sees
the arguments it is called with, never what is expected: a Remote is not compared or combined with plain data.

Its source is the program text of both peers (`python -c`), so it uses the standard library only. One JSON line a
message: {"ask": ...}, answered by {"value": ...} or {"raise": ...}; while one waits it may be asked back.

Plain are: None, truth values, numbers (also complex, Fraction, Decimal), texts, bytes, lists, tuples, sets, dicts
(Counter, defaultdict and OrderedDict as dict), deque, range, dates and times, and Python's own types. Anything else is
a Remote. A list, dict or set that the code changes in place is changed for the tests too.
"""

from __future__ import annotations

import builtins
import collections
import importlib
import json
import operator
import os
import socket
import sys
import traceback
import types

MESSAGE_BYTES = 8 << 20
DICTS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
IN_PLACE = (list, dict, set)
WRITTEN = {  # type -> (its name on the wire, to JSON): what is written by its parts
    complex: ("complex", lambda value: [value.real, value.imag]),
    bytes: ("bytes", bytes.hex),
    bytearray: ("bytearray", bytearray.hex),
    range: ("range", lambda value: [value.start, value.stop, value.step]),
    ("fractions", "Fraction"): ("fraction", lambda value: [hex(value.numerator), hex(value.denominator)]),
    ("decimal", "Decimal"): ("decimal", str),
    ("datetime", "date"): ("date", lambda value: value.isoformat()),
    ("datetime", "datetime"): ("datetime", lambda value: value.isoformat()),
    ("datetime", "time"): ("time", lambda value: value.isoformat()),
    ("datetime", "timedelta"): ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
}
READ = {
    "complex": lambda value: complex(*value),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": lambda value: range(*value),
    "fraction": lambda value: _from("fractions").Fraction(int(value[0], 16), int(value[1], 16)),
    "decimal": lambda value: _from("decimal").Decimal(value),
    "date": lambda value: _from("datetime").date.fromisoformat(value),
    "datetime": lambda value: _from("datetime").datetime.fromisoformat(value),
    "time": lambda value: _from("datetime").time.fromisoformat(value),
    "timedelta": lambda value: _from("datetime").timedelta(*value),
}
_from = importlib.import_module


class Gone(BaseException):
    """The other peer ended or broke off. No test can catch it as an Exception."""


class Peer:
    """One end: values out and in, questions both ways. `answer` is what it does when asked."""

    def __init__(self, descriptor: int):
        connection = socket.socket(fileno=descriptor)
        self.reader, self.writer = connection.makefile("rb"), connection.makefile("wb")
        self.mine: dict[int, object] = {}  # handle -> what the other may name; kept for the whole run
        self.handles: dict[int, int] = {}  # id of an object -> its handle
        self.exceptions: dict[int, type] = {}  # the other's exception classes -> ours in their place

    def handle(self, value: object) -> int:
        handle = self.handles.setdefault(id(value), len(self.mine))
        self.mine.setdefault(handle, value)
        return handle

    def encode(self, value: object) -> object:
        kind = type(value)
        if value is None or kind in (bool, str, float):
            return value
        if kind is int:
            return value if abs(value) < 1 << 53 else {"t": "int", "v": hex(value)}
        if kind is list:
            return [self.encode(one) for one in value]
        if kind in (tuple, set, frozenset, collections.deque):
            return {"t": kind.__name__, "v": [self.encode(one) for one in value]}
        if kind in DICTS:
            return {"t": "dict", "v": [[self.encode(key), self.encode(one)] for key, one in value.items()]}
        if kind in WRITTEN or (kind.__module__, kind.__name__) in WRITTEN:
            name, write = WRITTEN.get(kind) or WRITTEN[kind.__module__, kind.__name__]
            return {"t": name, "v": write(value)}
        if isinstance(value, type) and value.__module__ == "builtins" and getattr(builtins, value.__name__, 0) is value:
            return {"t": "builtin", "v": value.__name__}
        if kind is types.ModuleType:
            return {"t": "module", "v": value.__name__}
        if kind is Remote:
            return {"t": "yours", "v": object.__getattribute__(value, "_handle")}
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"t": "exception", "v": [self.handle(value), value.__name__, builtin_base(value).__name__]}
        return {"t": "mine", "v": self.handle(value)}

    def decode(self, value: object) -> object:
        if isinstance(value, list):
            return [self.decode(one) for one in value]
        if not isinstance(value, dict):
            return value
        tag, value = value["t"], value["v"]
        if tag == "int":
            return int(value, 16)
        if tag in ("tuple", "set", "frozenset", "deque"):
            kind = collections.deque if tag == "deque" else getattr(builtins, tag)
            return kind(self.decode(one) for one in value)
        if tag == "dict":
            return {self.decode(key): self.decode(one) for key, one in value}
        if tag in READ:
            return READ[tag](value)
        if tag == "builtin":
            kind = getattr(builtins, value)
            return kind if isinstance(kind, type) else None
        if tag == "module":
            return importlib.import_module(value) if value.split(".")[0] in sys.stdlib_module_names else None
        if tag == "yours":
            return self.mine[value]
        if tag == "exception":
            handle, name, base = value
            return self.exceptions.setdefault(handle, type(name, (exception_class(base),), {}))
        return Remote(self, value)

    def send(self, message: dict) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")
        self.writer.flush()

    def receive(self) -> dict:
        line = self.reader.readline(MESSAGE_BYTES)
        if not line.endswith(b"\n"):
            raise Gone("it ended" if len(line) < MESSAGE_BYTES else f"it gave more than {MESSAGE_BYTES} bytes")
        return json.loads(line)

    def ask(self, what: str, *arguments: object, **named: object) -> object:
        """Send a question, answer those asked back, return what came."""
        asked = [self.encode(one) for one in arguments]
        try:
            self.send({"ask": what, "with": asked, "named": {key: self.encode(one) for key, one in named.items()}})
            while "ask" in (message := self.receive()):
                self.reply(message)
            problem, value = message.get("raise"), self.decode(message.get("value"))
            changed = {int(place): self.decode(one) for place, one in message.get("changed", {}).items()}
            error = self.decode(problem[0])(str(problem[1])) if problem else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise Gone(f"no answer: {error}") from error
        for place, new in changed.items():
            replace_contents(arguments[place], new)
        if error is not None:
            raise error
        return value

    def reply(self, message: dict) -> None:
        try:
            arguments = [self.decode(one) for one in message["with"]]
            named = {key: self.decode(one) for key, one in message["named"].items()}
            before = [self.encode(one) if type(one) in IN_PLACE else None for one in arguments]
            answer = {"value": self.encode(self.answer(message["ask"], *arguments, **named))}
            after = [self.encode(one) if type(one) in IN_PLACE else None for one in arguments]
            answer["changed"] = {place: one for place, one in enumerate(after) if one != before[place]}
        except Gone:
            raise
        except BaseException as error:
            answer = {"raise": [self.encode(type(error)), f"{error}"[:500]]}
        self.send(answer)

    def answer(self, what: str, *arguments: object, **named: object) -> object:
        raise NotImplementedError


def exception_class(name: str) -> type:
    kind = getattr(builtins, str(name), None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseException) else Exception


def builtin_base(kind: type) -> type:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def replace_contents(old: object, new: object) -> None:
    if type(old) is list is type(new):
        old[:] = new
    elif type(old) in (dict, set) and type(old) is type(new):
        old.clear()
        old.update(new)


# --- the code's side ---

ASKED = {
    "getattr": getattr,
    "setattr": setattr,
    "delattr": delattr,
    "isinstance": isinstance,
    "str": str,
    "repr": repr,
    "bool": bool,
    "len": len,
    "iter": iter,
    "next": next,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
}
BINARY = ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
BINARY += ("and_", "or_", "xor")
ASKED |= {name: getattr(operator, name) for name in BINARY} | {"neg": operator.neg}


class Code(Peer):
    """Answers for the code under test."""

    def __init__(self, descriptor: int, source: str):
        super().__init__(descriptor)
        self.source = source

    def answer(self, what, *arguments, **named):
        if what == "names":
            module = sys.modules["solution"] = types.ModuleType("solution")
            exec(compile(self.source, "solution.py", "exec"), module.__dict__)
            return {name: getattr(module, name) for name in arguments if hasattr(module, name)}
        if what == "call":
            function, *arguments = arguments
            return function(*arguments, **named)
        return ASKED[what](*arguments)

    def serve(self):
        while True:
            self.reply(self.receive())


# --- the tests' side ---


class Remote:
    """Something that the other side has, by its handle. Operations ask for it; results are data."""

    __slots__ = ("_peer", "_handle")

    def __init__(self, peer, handle):
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_handle", handle)

    def _ask(self, what, *arguments, **named):
        return object.__getattribute__(self, "_peer").ask(what, *arguments, **named)

    def __call__(self, *arguments, **named):
        return self._ask("call", self, *arguments, **named)

    def __getattr__(self, name):
        if name.startswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)
        return self._ask("getattr", self, name)

    def __setattr__(self, name, value):
        self._ask("setattr", self, name, value)

    def __delattr__(self, name):
        self._ask("delattr", self, name)

    def __getitem__(self, key):
        return self._ask("getitem", self, key)

    def __setitem__(self, key, value):
        self._ask("setitem", self, key, value)

    def __delitem__(self, key):
        self._ask("delitem", self, key)

    def __iter__(self):
        return _Iterator(self._ask("iter", self))

    def __next__(self):
        return self._ask("next", self)

    def __contains__(self, value):  # by looking at each: what is looked for is not shown
        return any(one == value for one in self)

    def __len__(self):
        return self._ask("len", self)

    def __bool__(self):
        return bool(self._ask("bool", self))

    def __str__(self):
        return str(self._ask("str", self))

    def __repr__(self):
        return str(self._ask("repr", self))

    def __hash__(self):
        return hash(object.__getattribute__(self, "_handle"))

    def __instancecheck__(self, value):
        return type(value) is Remote and bool(self._ask("isinstance", value, self))

    def __enter__(self):
        return self._ask("getattr", self, "__enter__")()

    def __exit__(self, *error):
        return bool(self._ask("getattr", self, "__exit__")(None, None, None))

    def __neg__(self):
        return self._ask("neg", self)

    def __eq__(self, other):
        if type(other) is not Remote:
            return False
        same = object.__getattribute__(self, "_handle") == object.__getattribute__(other, "_handle")
        return same or self._ask("eq", self, other) is True

    def __ne__(self, other):
        return not self == other


class _Iterator:
    def __init__(self, remote):
        self.remote = remote

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.remote)


def combining(name):
    def method(self, other):
        if type(other) is not Remote:
            raise TypeError(f"an object of the response is not combined with plain data ({name})")
        return self._ask(name, self, other)

    return method


for _name in BINARY[2:]:
    setattr(Remote, f"__{_name.rstrip('_')}__", combining(_name))


class Tests(Peer):
    """Runs tests; of what it has, the code may only call the functions that were handed to it."""

    def answer(self, what, *arguments, **named):
        function, *arguments = arguments
        if what != "call" or not callable(function) or isinstance(function, type):
            raise TypeError("only functions that were handed over can be called")
        return function(*arguments, **named)

    def run(self, tests: list[str], wanted: list[str], entry_point: str) -> dict:
        """How many of the tests passed, and why the first that did not."""
        problems = []
        try:
            names = self.ask("names", *wanted)
            solution = sys.modules["solution"] = types.ModuleType("solution")
            space = {"__name__": "tests", **names}
            solution.__dict__.update(names)
            for number, test in enumerate(tests, 1):
                try:
                    run_test(test, space, entry_point)
                except Exception as error:
                    problems.append(f"test {number}: {words(error)}")
        except Gone as error:
            problems.append(f"the code's process: {error}")
            return {"passed": 0, "problem": problems[0]}
        except BaseException as error:  # the code's own, as it is read, or a test that left
            problems.append(words(error))
            return {"passed": 0, "problem": problems[0]}
        return {"passed": len(tests) - len(problems), "problem": problems[0] if problems else ""}


def run_test(source: str, space: dict, entry_point: str) -> None:
    """A program of asserts; then `check(entry_point)`, functions test_*() and unittest's cases, where it has them."""
    exec(compile(source, "tests.py", "exec"), space)
    here = [value for value in list(space.values()) if getattr(value, "__module__", "") == "tests"]
    if entry_point and isinstance(space.get("check"), types.FunctionType):
        space["check"](space[entry_point])
    for value in here:
        if isinstance(value, types.FunctionType) and value.__name__.startswith("test"):
            value()
            space.pop(value.__name__, None)
    if any(isinstance(value, type) and hasattr(value, "assertEqual") for value in here):
        run_cases(here)


def run_cases(here: list) -> None:
    import unittest

    cases = [value for value in here if isinstance(value, type) and issubclass(value, unittest.TestCase)]
    suite = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, cases))
    result = unittest.TestResult()
    suite.run(result)
    if not result.wasSuccessful():
        raise AssertionError((result.failures + result.errors or [("", "unexpected success")])[0][1].strip()[-200:])


def words(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "tests.py"]
    line = f" (line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}".strip(": ")[:160] + line


def main(role: str, descriptor: int, verdict: int = -1) -> None:
    with open(f"{role}.json") as stream:
        orders = json.load(stream)
    if role == "code":
        Code(descriptor, orders["source"]).serve()
    else:
        os.set_inheritable(verdict, False)
        result = Tests(descriptor).run(orders["tests"], orders["wanted"], orders["entry_point"])
        os.write(verdict, json.dumps(result).encode())
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
