"""What a stage may learn from: rows that do not ask what the probe holds out, and most of the rows it was given.

A prompt is compared by its content: as text without its system message, case and white space aside. Documents have no
prompt and are not searched; of a conversation the words before the first learned answer are its prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from offon.behavior.stage import data_quality
from offon.data.report import Loaded
from offon.errors import DataError
from offon.measure.dataset import asked

EXAMPLES = 3


def rows_kept(loaded: Loaded, limit: float, node: str) -> dict[str, Any]:
    """How many rows of a source were dropped, and why, and cut. More than the share `limit` dropped is refused."""
    report = loaded.report
    dropped = report.dropped.total()
    share = dropped / max(1, dropped + len(loaded))
    if share > limit:
        reasons = "; ".join(f"{count} of {report.rows}: {reason}" for reason, count in report.dropped.most_common())
        raise DataError(
            f"{share:.1%} of the rows would be dropped, more than {limit:.1%}",
            where=report.source,
            why=reasons,
            fix=f"mend the rows or raise max_length; dropped: {_rounded_up(share)} in {node} goes on without them",
        )
    return {
        "source": _named(report.source),
        "rows": report.rows,
        "dropped": {"rows": dropped, "share": share, "reasons": dict(report.dropped)},
        "cut": {"trajectories": report.cut, "of": report.trajectories, "tokens": report.tokens_cut},
    }


def held_out_asked(
    prompts: Sequence[Any], heldout: Mapping[str, Iterable[Any]], limit: float | None, node: str
) -> dict[str, dict[str, Any]]:
    """Per probe task how many of a stage's prompts it holds out. More than the share `limit` of them is refused; None
    refuses none.

    prompts, heldout: text or messages, one per row.
    """
    texts = [data_quality.normalised(asked(prompt)) for prompt in prompts]
    if not texts:
        return {}
    held = {task: [asked(prompt) for prompt in ones] for task, ones in heldout.items()}
    overlaps = {task: data_quality.overlap(texts, ones) for task, ones in held.items()}
    for task, overlap in overlaps.items():
        if limit is not None and overlap["share"] > limit:
            known = set(map(data_quality.normalised, held[task]))
            examples = list(dict.fromkeys(text for text in texts if text in known))[:EXAMPLES]
            raise DataError(
                f"{overlap['rows']} of {len(texts)} training prompts ({overlap['share']:.1%}) are held out of {task}, "
                f"more than {limit:.1%}",
                why=f"the probe would measure memory: {', '.join(f'{ascii(text):.60}' for text in examples)}",
                fix=f"take them out of the training data, or probe on other prompts; contamination: "
                f"{_rounded_up(overlap['share'])} in {node} trains on them all the same",
            )
    return overlaps


def sentences(admitted: Mapping[str, Any]) -> list[str]:
    """What a reader of the stage's numbers has to know of its data."""
    lines = []
    for source in admitted.get("sources", ()):
        dropped, cut = source["dropped"], source["cut"]
        if dropped["rows"]:
            reasons = ", ".join(f"{count}: {reason}" for reason, count in dropped["reasons"].items())
            lines.append(f"{dropped['share']:.1%} of the rows of {source['source']} were dropped ({reasons})")
        if cut["trajectories"]:
            share = cut["trajectories"] / cut["of"]
            lines.append(f"{share:.1%} of the responses of {source['source']} were cut, by {cut['tokens']} tokens")
    for task, overlap in admitted.get("contamination", {}).items():
        if overlap["rows"]:
            lines.append(
                f"{overlap['rows']} training prompts ({overlap['share']:.1%}) ask {overlap['prompts']} of the "
                f"{overlap['heldout']} held-out prompts of {task}: success on those says nothing about what was learned"
            )
    return lines


def _named(source: str) -> str:
    """A source without where it lies: of what a node made the node, of a file its name."""
    path = Path(source)
    return path.parent.parent.name if path.parent.name == "final" else path.name


def _rounded_up(share: float) -> str:
    return f"{min(1.0, int(share * 100 + 1) / 100):g}"
