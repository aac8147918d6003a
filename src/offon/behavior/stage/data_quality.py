"""What a data set is made of: repetitions, who wrote it, and whether it asks what is held out for measuring.

Shares are counts over all rows, not estimates: an interval of theirs has no width unless a row is unknown.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from offon.behavior.statistics.intervals import Est

SHINGLE = 3  # words
SIMILAR = 0.8  # Jaccard similarity from which two rows are nearly the same
HASHES, LOOKED_AT, AGREE = 64, 20, 0.6
COMPARED = 10_000  # distinct rows compared with each other: the time grows with the square
_PRIME = 2**32 + 15


class Row(NamedTuple):
    """One row as text. answer: all that is learned from it; prompt: "" where the form has none."""

    prompt: str
    answer: str
    producer: str = ""
    right: bool | None = None


def describe(rows: Sequence[Row], heldout: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """The numbers of a data set. heldout: name of a probe task -> the prompts it measures on.

    duplicates       rows that repeat an earlier one, prompt and answer
    near_duplicates  further rows that nearly repeat an earlier one: see `near_duplicates`
    contamination    per task: rows that ask a held-out prompt (case and white space aside), and how many of those
    right            of the rows with a known verdict; the interval lets each unknown one be wrong, or right
    """
    n = len(rows)
    distinct = list(dict.fromkeys((row.prompt, row.answer) for row in rows))
    near = near_duplicates([" ".join(pair) for pair in distinct[:COMPARED]])
    producers = Counter(row.producer for row in rows)
    asked = [normalised(row.prompt) for row in rows]
    return {
        "rows": n,
        "prompts": len({row.prompt for row in rows if row.prompt}),
        "producers": [{"producer": who, "rows": count, "share": count / n} for who, count in producers.most_common()],
        "duplicates": {"rows": n - len(distinct), "share": 1 - len(distinct) / n},
        "near_duplicates": {"rows": near, "share": near / n, "compared": min(len(distinct), COMPARED)},
        "contamination": {task: overlap(asked, prompts) for task, prompts in heldout.items()},
        "right": _right([row.right for row in rows]),
    }


def overlap(asked: Sequence[str], prompts: Iterable[str]) -> dict[str, Any]:
    """Rows without a prompt are whole documents, which are not searched."""
    known = {normalised(prompt) for prompt in prompts} - {""}
    hits = [prompt for prompt in asked if prompt in known]
    share = len(hits) / len(asked)
    return {"rows": len(hits), "share": share, "prompts": len(set(hits)), "heldout": len(known)}


def _right(verdicts: Sequence[bool | None]) -> dict[str, Any] | None:
    known = [verdict for verdict in verdicts if verdict is not None]
    if not known:
        return None
    right, unknown = sum(known), len(verdicts) - len(known)
    bounds = right / len(verdicts), (right + unknown) / len(verdicts)
    return {"known": len(known), **Est(right / len(known), *bounds)._asdict()}


def normalised(text: str) -> str:
    return " ".join(text.lower().split())


def near_duplicates(texts: Sequence[str]) -> int:
    """How many texts, in their order, are nearly the same as an earlier one that is not itself such a repetition.

        J(a, b) = |A and B| / |A or B| >= .8,    A the set of a's stretches of three words (or signs)

    Each is compared exactly with the 20 earlier ones whose 64 minimum hashes agree most with its own (at least 60%: a
    pair with J = .8 agrees less with probability 3e-5; Broder 1997). So nothing is called similar that is not.
    """
    sets = [shingles(text) for text in texts]
    hashes = np.zeros((len(sets), HASHES), dtype=np.uint32)
    kept: list[int] = []
    for index, shingled in enumerate(sets):
        least = minimum_hashes(shingled)
        agreeing = np.count_nonzero(hashes[: len(kept)] == least, axis=1)
        (candidates,) = np.nonzero(agreeing >= AGREE * HASHES)
        near = candidates[np.argsort(-agreeing[candidates], kind="stable")[:LOOKED_AT]]
        if not any(similarity(shingled, sets[kept[k]]) >= SIMILAR for k in near):
            hashes[len(kept)] = least
            kept.append(index)
    return len(sets) - len(kept)


def shingles(text: str) -> frozenset[int]:
    """Hashes of all stretches of three words or signs; a shorter text is one."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    stretches = (words[start : start + SHINGLE] for start in range(max(1, len(words) - SHINGLE + 1)))
    return frozenset(zlib.crc32(" ".join(stretch).encode()) for stretch in stretches)


def similarity(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / len(one | other)


_RANDOM = np.random.default_rng(0)
_FACTORS, _OFFSETS = _RANDOM.integers(1, 2**31, (2, HASHES, 1), dtype=np.uint64)


def minimum_hashes(shingled: frozenset[int]) -> np.ndarray:
    """[64] the minimum over the set of each hash (a x + b) mod p; two sets agree in each with probability J."""
    values = np.fromiter(shingled, dtype=np.uint64)
    return ((_FACTORS * values + _OFFSETS) % _PRIME).min(axis=1).astype(np.uint32)
