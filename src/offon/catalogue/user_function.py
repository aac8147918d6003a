"""A function in a file of the user's: `prepare.py:base`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from offon.errors import ConfigError, OffonError, nearest_path
from offon.objects import held, is_object


def function_at(place: str) -> Callable:
    """Import the file and return the function. The file's folder is importable while it loads. A function that was
    handed over in Python is itself."""
    if is_object(place):
        return held(place).value
    name, colon, function_name = place.rpartition(":")
    if not colon or not name:
        raise ConfigError(f"{place!r} names no function", fix="write it as path/to/file.py:function")
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"file {path} does not exist", fix=nearest_path(path) or "path/to/file.py:function")
    module_spec = importlib.util.spec_from_file_location(f"offon_user_{path.stem}", path)
    module = importlib.util.module_from_spec(module_spec)
    sys.path.insert(0, str(path.parent))
    try:
        module_spec.loader.exec_module(module)
    except OffonError:
        raise
    except Exception as error:
        raise ConfigError(f"{path} cannot be imported", why=f"{type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    function = getattr(module, function_name, None)
    if not callable(function):
        defined = [n for n, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__]
        raise ConfigError(f"{path} has no function {function_name!r}", fix=f"it defines {', '.join(defined) or 'none'}")
    return function
