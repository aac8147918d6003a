"""The worker's side of a killable pool: build one checker, answer calls to it until end of file.

Every message from the parent is a length and a pickle, which begins with a token; every answer is one JSON line with
that token, {"token": ..., "value": ...} or {"token": ..., "failure": why}. A worker that `forks` answers each call in
a child of its own, so that what one call does to its interpreter does not reach the next.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import importlib.util
import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from offon.console import Unbroken
from offon.errors import ConfigError

REASON_CHARS = 200
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def serve(descriptor: int) -> None:
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rb") as stream:
        token, parent, factory, arguments, memory_bytes, forks = _read(stream)
        if parent is not None:
            _die_with(parent)
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        checker = None

        def build():
            nonlocal checker
            checker = load_function(factory)(*arguments)

        sys.stdout, sys.stderr = Unbroken(sys.stdout), Unbroken(sys.stderr)  # what a checker prints never fails it
        _write(connection, _answer(token, build))
        while checker is not None and (call := _read(stream)) is not None:
            token, *values = call
            if forks:
                _in_a_child(connection, token, checker, values)
            else:
                _write(connection, _answer(token, checker, *values))


def _in_a_child(connection: socket.socket, token: str, checker: Callable, values: list) -> None:
    child = os.fork()
    if not child:
        _write(connection, _answer(token, checker, *values))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        _write(connection, json.dumps({"token": token, "failure": f"its process died ({status})"}))


def load_function(target: str) -> Callable:
    """The function named by "module:function" or "path/to/file.py:function"."""
    module_name, _, name = target.rpartition(":")
    if not module_name:
        raise ConfigError(f"{target!r} does not name a function", fix="write module:function or file.py:function")
    module = _module_of_file(module_name) if module_name.endswith(".py") else importlib.import_module(module_name)
    functions = {key: value for key, value in vars(module).items() if callable(value)}
    if name not in functions:
        public = sorted(key for key in functions if not key.startswith("_"))
        raise ConfigError(f"{module_name} has no function {name!r}, it has {', '.join(public[:8]) or 'none'}")
    return functions[name]


def _module_of_file(name: str):
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"no file {name}")
    sys.path.append(str(path.parent))  # the file may import its neighbours, as under `python file.py`
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies; the check closes the race at start-up."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _answer(token: str, function: Callable, *arguments) -> str:
    """One JSON line. SystemExit is caught like the rest: checked code must not end a worker."""
    try:
        return json.dumps({"token": token, "value": function(*arguments)}, default=_plain)
    except BaseException as error:
        text = error.what if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        return json.dumps({"token": token, "failure": text.replace("\n", " ")[:REASON_CHARS]})


def _plain(value):
    """What checkers return and JSON does not know: dataclasses as objects, array scalars as numbers."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    if callable(getattr(value, "item", None)):
        return value.item()
    raise TypeError(f"a checker returned a {type(value).__name__}")


def _read(stream) -> tuple | None:
    header = stream.read(8)
    return pickle.loads(stream.read(struct.unpack("!Q", header)[0])) if len(header) == 8 else None


def _write(connection: socket.socket, line: str) -> None:
    connection.sendall(line.encode() + b"\n")
