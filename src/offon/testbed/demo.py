"""The demo's own preparation step: demonstrations of some families, as a data set on disk."""

from __future__ import annotations

import json
from pathlib import Path

from offon.testbed.task import TestbedTask


def demonstrations(directory: Path, *, families: list[str], n: int) -> None:
    """Right responses to n training prompts of the families, as JSONL with prompt and completion."""
    rows = TestbedTask(families).demonstrations("train", n)
    (directory / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
