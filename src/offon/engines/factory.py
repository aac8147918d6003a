"""The one place where an engine is made. Whoever samples is handed an `Engine` and does not know which."""

from __future__ import annotations

from offon.engines.api import Engine


def create_engine() -> Engine:
    """The embedded engine: torch decoding on the model's own weights (`offon.engines.native`)."""
    from offon.engines.native import NativeEngine

    return NativeEngine()
