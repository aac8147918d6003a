"""Rows that a model which is trained on the others is measured on: whole prompts, chosen by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from offon.types import Group


def hold_out(groups: Sequence[Group], share: float) -> tuple[list[Group], list[Group]]:
    """(to train on, held out). A prompt is on one side with all its rows, whatever the order, size or seed of the data.

    The hash is salted: tasks hold out by the same prompts' hashes, and data made from a task's training prompts would
    otherwise have none below the share.
    """
    sides: tuple[list[Group], list[Group]] = ([], [])
    for group in groups:
        digest = hashlib.sha256(f"held out of data {group.item.id}".encode()).hexdigest()[:16]
        sides[int(digest, 16) < share * 16**16].append(group)
    return sides
