"""Successes out of scored samples, per prompt: what everything in this package is computed from.

Axes: P prompts; n samples of one prompt (may differ between prompts).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from offon.errors import DataError


class Counts(NamedTuple):
    """`successes` of `scored` samples for each prompt, both [P] int.

    Samples of a prompt are independent draws of one sampler, so their order carries nothing and counts suffice.
    """

    successes: np.ndarray  # [P]
    scored: np.ndarray  # [P]

    @staticmethod
    def of(successes, scored) -> Counts:
        """From plain numbers; `scored` may be one number for all prompts: `Counts.of([0, 3], 128)`."""
        c = np.atleast_1d(np.asarray(successes, dtype=np.int64))
        return checked(c, np.broadcast_to(np.asarray(scored, dtype=np.int64), c.shape))

    @property
    def rate(self) -> np.ndarray:
        """[P] observed success; NaN where nothing was scored."""
        with np.errstate(invalid="ignore"):
            return self.successes / self.scored

    def at(self, prompts) -> Counts:
        """The counts of some prompts (a mask or indices)."""
        return Counts(self.successes[prompts], self.scored[prompts])


def checked(successes, scored) -> Counts:
    """Arrays as they are, once 0 <= successes <= scored holds everywhere."""
    c, n = np.asarray(successes), np.asarray(scored)
    wrong = (c < 0) | (c > n)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise DataError(
            f"{np.ravel(np.broadcast_to(c, wrong.shape))[index]} successes out of "
            f"{np.ravel(np.broadcast_to(n, wrong.shape))[index]} samples",
            where=f"prompt {index} of {wrong.size}",
            why="successes lie between 0 and the number of scored samples",
        )
    return Counts(c, n)


def count(outcomes: Sequence[Sequence[float | None]]) -> Counts:
    """Count per-sample outcomes [P][n]: 1 success, 0 failure, None or NaN unscored (in neither number).

    Rows may have different lengths. `count([[1, 0, None], [0, 0, 0]])` is 1 of 2 and 0 of 3.
    """
    rows = [np.asarray(row, dtype=float).ravel() for row in outcomes]
    for index, row in enumerate(rows):
        odd = row[~np.isnan(row) & (row != 0) & (row != 1)]
        if odd.size:
            raise DataError(
                f"an outcome is {odd[0]:g}",
                where=f"prompt {index} of {len(rows)}",
                why="behaviour is measured on success: 1, 0, or unscored (None, NaN)",
                fix="turn scores into outcomes first, for example score >= 1",
            )
    return Counts(
        np.array([int(np.nansum(row)) for row in rows], dtype=np.int64),
        np.array([int((~np.isnan(row)).sum()) for row in rows], dtype=np.int64),
    )
