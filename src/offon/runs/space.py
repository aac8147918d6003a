"""Room on the disk, compared with what a run will write before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from offon.errors import StorageError
from offon.runs.atomic import files_below

NEAR = 0.8  # of the free space: above it a run is warned
WEIGHT, MOMENTS = 4, 8  # bytes of a trained parameter in a result, and besides of its optimizer in a checkpoint


def stage_bytes(trained: int, written: int, steps: int, save_steps: int, keep: int | None) -> int:
    """What a stage leaves in float32: its result, and as many checkpoints as stay, with one more for the moment in
    which the newest is written and the oldest still there. trained: parameters that move; written: of the result."""
    made = max(0, (steps - 1) // save_steps)
    kept = made if keep is None else min(made, keep + 1)
    return WEIGHT * written + kept * (WEIGHT * written + MOMENTS * trained)


def require_room(output: Path, needed: int) -> str:
    """Refuse a run that certainly does not fit; "" or a warning where it nearly does. needed: bytes of weights and
    optimizer states, which is the least; the ledger and the probes come on top. What is there already counts as
    written."""
    folder = next(path for path in (output, *output.absolute().parents) if path.is_dir())
    there = sum(path.stat().st_size for path in files_below(output)) if output.is_dir() else 0
    free, left = shutil.disk_usage(folder).free, max(0, needed - there)
    words = f"results and checkpoints need {in_bytes(left)}, {in_bytes(free)} are free"
    if left > free:
        raise StorageError(
            f"the disk is too small: {words}",
            where=str(folder),
            why="the ledger and the probes come on top",
            fix="--output on a larger disk, save_total_limit: 1, a larger save_steps, or lora: true",
            kept="nothing was touched",
        )
    return f"{words} in {folder}; the ledger and the probes come on top" if left > NEAR * free else ""


def in_bytes(n: float) -> str:
    """812 B, 1.2 GB"""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n:.0f} B"
