"""What a data set is made of: repetitions, who wrote it, and whether it asks what is held out for measuring.

Shares are counts over all rows, not estimates: an interval of theirs has no width unless a row is unknown.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from offon.behavior.intervals import Est

SHINGLE = 3  # words
SIMILAR = 0.8  # Jaccard similarity from which two rows are nearly the same
BANDS, ROWS_PER_BAND = 16, 4
COMPARED = 20_000  # distinct rows compared with each other: memory, and minutes on a larger set
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
        "contamination": {task: _overlap(asked, prompts) for task, prompts in heldout.items()},
        "right": _right([row.right for row in rows]),
    }


def _overlap(asked: Sequence[str], prompts: Iterable[str]) -> dict[str, Any]:
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

    Candidates share one of 16 bands of 4 minimum hashes (Broder 1997; Leskovec et al., Mining of Massive Datasets,
    ch. 3) and are then compared exactly: no pair is called similar that is not, and one of similarity J is looked at
    with probability 1 - (1 - J^4)^16, which is .9998 at .8.
    """
    sets = [shingles(text) for text in texts]
    kept: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    repeated = 0
    for index, own in enumerate(sets):
        bands = list(enumerate(_bands(own)))
        near = {other for band in bands for other in kept[band]}
        if any(similarity(own, sets[other]) >= SIMILAR for other in near):
            repeated += 1
            continue
        for band in bands:
            kept[band].append(index)
    return repeated


def shingles(text: str) -> frozenset[int]:
    """Hashes of all stretches of three words or signs; a shorter text is one."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    stretches = (words[start : start + SHINGLE] for start in range(max(1, len(words) - SHINGLE + 1)))
    return frozenset(zlib.crc32(" ".join(stretch).encode()) for stretch in stretches)


def similarity(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / len(one | other)


_RANDOM = np.random.default_rng(0)
_FACTORS = _RANDOM.integers(1, 2**31, BANDS * ROWS_PER_BAND, dtype=np.uint64)
_OFFSETS = _RANDOM.integers(0, 2**31, BANDS * ROWS_PER_BAND, dtype=np.uint64)


def _bands(own: frozenset[int]) -> list[bytes]:
    """The minimum over the set of each of 64 hashes, by band."""
    values = np.fromiter(own, dtype=np.uint64)
    least = ((_FACTORS[:, None] * values + _OFFSETS[:, None]) % _PRIME).min(axis=1)
    return [band.tobytes() for band in least.reshape(BANDS, ROWS_PER_BAND)]
