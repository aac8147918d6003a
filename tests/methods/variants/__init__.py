"""Arguments each row is tested with, one module per family: VARIANTS maps a row's name to a list of arguments, MODIFIED
lists (row, arguments, (modifier, arguments))."""

import importlib
import pkgutil

_modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
VARIANTS = {name: cases for module in _modules for name, cases in getattr(module, "VARIANTS", {}).items()}
MODIFIED = [case for module in _modules for case in getattr(module, "MODIFIED", [])]
