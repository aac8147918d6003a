"""Responses that nobody could score: counted with their reasons, and an end to a stage that has too many of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from scipy import special

from offon.errors import EngineError
from offon.tasks.api import ABSTAINED

WINDOW = 64  # responses over which a share is a share; fewer have to leave no doubt
DOUBT = 1e-3  # how probable so many would be of fewer, were the share the one allowed
REASONS = 20  # kinds that are counted apart
REASON_CHARS = 120
OTHERS = "other reasons"


class Unscored:
    """What became of the responses of a stage whose number was asked for.

    limit    share of unscored responses among the newest WINDOW above which the stage ends
    recent   (asked, unscored) of the newest calls, oldest first: as many as the window needs
    reasons  how many for each reason, over the whole stage

    `recent` and `reasons` belong to whoever keeps the stage's state, and are changed in place.
    """

    def __init__(self, limit: float, recent: list[list[int]], reasons: Counter, where: str):
        self.limit, self.recent, self.reasons, self.where = limit, recent, reasons, where

    def __call__(self, reasons: Sequence[str | None], *, first: bool = False) -> None:
        """Take in one reason for each response, None where it was scored; an EngineError where it is enough.

        first: of a stage's first buffer, of which one has to be scored at least, whatever is allowed."""
        missing = [reason or "no reason was given" for reason in reasons if reason is not None]
        for reason in missing:
            kind = reason[:REASON_CHARS]
            self.reasons[kind if kind in self.reasons or len(self.reasons) < REASONS else OTHERS] += 1
        if not reasons:
            return
        self.recent.append([len(reasons), len(missing)])
        while sum(asked for asked, _ in self.recent[1:]) >= WINDOW:
            del self.recent[0]
        asked, unscored = (sum(column) for column in zip(*self.recent, strict=True))
        if first and len(missing) == len(reasons):
            raise self._error(f"the checker scored none of {len(reasons)} responses", Counter(missing))
        if is_too_many(unscored, asked, self.limit):
            more = f"{unscored} of the last {asked} responses are unscored ({unscored / asked:.0%})"
            raise self._error(f"{more}, more than the {self.limit:.0%} allowed", self.reasons)

    def recall(self, recent: Sequence[Sequence[int]], reasons: Mapping[str, int]) -> None:
        """Be where another process was after its last part."""
        self.recent[:] = [list(call) for call in recent]
        self.reasons.clear()
        self.reasons.update(reasons)

    def _error(self, what: str, reasons: Counter[str]) -> EngineError:
        return EngineError(
            what,
            where=self.where,
            why=in_words(reasons),
            fix="mend the checker or judge, or the answers it compares with; `unscored: 0.3` at the node allows 30%",
            kept="nothing was trained on these responses; --resume goes on at the last checkpoint",
        )


def is_too_many(unscored: int, asked: int, limit: float) -> bool:
    """Whether more are unscored than a share of `limit` allows; of less than a window, only beyond doubt."""
    if not unscored or unscored <= limit * asked:
        return False
    if asked >= WINDOW or limit == 0:
        return True
    at_least = special.bdtrc(unscored - 1, asked, limit)  # P(X >= unscored), X ~ Binomial(asked, limit)
    return bool(at_least < DOUBT)


def in_words(reasons: Counter[str], most: int = 3) -> str:
    """ "12 x killed after 5 s; 3 x ValueError: odd; 4 for other reasons" """
    common = reasons.most_common(most)
    rest = sum(reasons.values()) - sum(count for _, count in common)
    others = [f"{rest} for other reasons"] if rest else []
    return "; ".join([*(f"{count} x {reason}" for reason, count in common), *others])


def is_news(reasons: Counter[str]) -> bool:
    """Whether any was unscored for another reason than that the function did not want to say."""
    return any(reason != ABSTAINED for reason in reasons)
