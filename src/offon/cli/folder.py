"""A run's folder from the outside: whether a run may start there, and what is kept when it fails."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from offon.errors import ConfigError, OffonError, of_the_machine


def make_way(output: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to start where something is already, unless told what to do with it."""
    if resume and overwrite:
        raise ConfigError("--resume continues a run and --overwrite replaces it", fix="choose one")
    from offon.runs.directory import refuse_if_running, refuse_unless_free

    refuse_if_running(output)
    refuse_unless_free(output, resume or overwrite)


@contextlib.contextmanager
def recorded(output: Path) -> Iterator[None]:
    """Keep the traceback of whatever goes wrong in the run's error.log; a person gets the message."""
    try:
        yield
    except Exception as error:
        log = output / "error.log"
        if output.is_dir() and not getattr(error, "kept", "").startswith("nothing was touched"):
            from offon.runs.secrets import redact_text

            with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:  # a full disk is the news
                file.write(redact_text(traceback.format_exc()) + "\n")
        if isinstance(error, OffonError):
            raise
        raise as_bug(error, f"the traceback is in {log}") from error


def as_bug(error: Exception, where_to_look: str) -> OffonError:
    if known := of_the_machine(error):
        return known
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return OffonError(
        f"{type(error).__name__}: {error}",
        where=f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}",
        why="this is a fault of offon or of code it was given, not of the recipe",
        fix=f"{where_to_look}; --debug shows it here",
    )
