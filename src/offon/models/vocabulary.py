"""Whether two tokenizers mean the same by every token id."""

from __future__ import annotations

from offon.errors import ModelError


def same_vocabulary(student, teacher, name: str) -> None:
    """A teacher grades the student's token ids: the same size is not enough, every id must mean the same token."""
    mine, theirs = student.get_vocab(), teacher.get_vocab()
    if mine != theirs:
        differing = [token for token in mine if theirs.get(token) != mine[token]]
        raise ModelError(
            f"{name} has another vocabulary than the learner",
            why=f"{len(mine)} and {len(theirs)} tokens; {len(differing)} of the learner's mean something else there"
            + (f", e.g. {differing[0]!r}" if differing else ""),
            fix="a teacher with the same tokenizer, or write its answers to a file and use sft with data: FILE",
        )
