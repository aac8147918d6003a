"""Real trajectories to read: a few per stage, chosen to differ, each token marked with who produced it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from offon.reporting import words
from offon.reporting.summary import SOURCES
from offon.runs import RunDirectory, ledger

PER_STAGE = 6
LONGEST = 1500  # characters shown of a prompt or a response

# One trajectory for each way of being different: its fate, right or wrong, who produced its tokens, under which prompt.
# The first and the last of each kind, so that what the stage learned shows.
_CHOOSE = """
with kinds as (
    select id, buffer, draw, member, struct_pack(
        fate := split_part(fate, ':', 1),
        right := signals['reward'] >= 1,
        sources := list_sort(list_distinct(source)),
        scaffolded := list_contains(scaffold, true),
        conditioned := prompt_tokens <> train_prompt_tokens,
        chosen := list_contains(tags, 'chosen'), rejected := list_contains(tags, 'rejected')) as kind
    from trajectories where node = $node and fate <> 'probe'
), ranked as (
    select id, buffer, draw, member,
           row_number() over (partition by kind order by buffer, draw, member) as from_first,
           row_number() over (partition by kind order by buffer desc, draw desc, member) as from_last
    from kinds
), picked as (
    select id from ranked where from_first = 1 or from_last = 1
    order by from_first > 1, buffer, draw, member limit $most
)
select * from trajectories
where node = $node and fate <> 'probe' and id in (select id from picked)
order by buffer, draw, member limit $most
"""


def samples(run: RunDirectory, nodes: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """node -> trajectories with their text in segments of one source, oldest first."""
    return {node: _of_node(run, node) for node in nodes}


def marked(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample with the checker's verdict in a word."""
    reward = sample["signals"].get("reward", "none")
    verdict, css = "", ""
    if reward is None:
        verdict = "unscored"
    elif reward != "none":
        verdict, css = ("right", "up") if reward >= 1 else ("wrong", "down")
    return {**sample, "verdict": verdict, "verdict_class": css}


def sources_of(chosen: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The key to the marks of tokens in these samples."""
    parts = [part for sample in chosen for part in sample["response"]]
    names = {name: words.SOURCES[name] for name in SOURCES if any(part["source"] == name for part in parts)}
    if any(part["scaffold"] for part in parts):
        names["scaffold"] = "dotted underline: present in training only"
    return names


def _of_node(run: RunDirectory, node: str) -> list[dict[str, Any]]:
    with ledger.connect(run.path, node) as connection:
        rows = connection.sql(_CHOOSE, params={"node": node, "most": PER_STAGE}).to_arrow_table().to_pylist()
    tokenizer = _tokenizer(run.node(node).path)
    return [_sample(row, tokenizer) for row in rows]


def _tokenizer(node: Path) -> Any | None:
    """The tokenizer saved with the stage's model; None if it has saved none yet."""
    from tokenizers import Tokenizer

    saved = [*node.glob("final/tokenizer.json"), *sorted(node.glob("checkpoint-*/tokenizer.json"))]
    return Tokenizer.from_file(str(saved[0])) if saved else None


def _sample(row: Mapping[str, Any], tokenizer: Any | None) -> dict[str, Any]:
    prompt, response = row["prompt_text"], segments(row, tokenizer)
    return {
        "id": row["id"],
        "family": row["family"],
        "fate": row["fate"],
        "tags": row["tags"],
        "step": row["step_sampled"] if row["temperature"] is not None else None,
        "temperature": row["temperature"],
        "view": row["view_sampled"] if row["view_sampled"] != "prompt" else None,
        "conditioned": row["prompt_tokens"] != row["train_prompt_tokens"],
        "tokens": len(row["tokens"]),
        "signals": dict(row["signals"]),
        "prompt": prompt[:LONGEST],
        "prompt_rest": max(0, len(prompt) - LONGEST),
        "response": _cut(response),
        "response_rest": max(0, sum(len(part["text"]) for part in response) - LONGEST),
    }


def segments(row: Mapping[str, Any], tokenizer: Any | None) -> list[dict[str, Any]]:
    """The response as runs of tokens with one source: {"text", "source", "scaffold", "tokens"}.

    A run's text is what it adds to the decoded text before it, so that spaces and multi-byte characters stay whole.
    Without a tokenizer a response of several sources cannot be divided, and is one run of source "mixed".
    """
    marks = list(zip(row["source"], row["scaffold"], strict=True))
    runs = [(mark, len(list(same))) for mark, same in groupby(marks)]
    if not runs or (tokenizer is None and len(runs) > 1):
        return [{"text": row["text"], "source": "mixed", "scaffold": False, "tokens": len(marks)}]
    if tokenizer is None:
        ((source, scaffold), _) = runs[0]
        return [{"text": row["text"], "source": SOURCES[source], "scaffold": bool(scaffold), "tokens": len(marks)}]
    parts, start, before = [], 0, ""
    for (source, scaffold), length in runs:
        start += length
        whole = tokenizer.decode(row["tokens"][:start], skip_special_tokens=False)
        if whole.startswith(before):
            text = whole[len(before) :]
        else:
            text = tokenizer.decode(row["tokens"][start - length : start], skip_special_tokens=False)
        before = whole
        parts.append({"text": text, "source": SOURCES[source], "scaffold": bool(scaffold), "tokens": length})
    return parts


def _cut(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    left, kept = LONGEST, []
    for part in parts:
        if left <= 0:
            break
        kept.append({**part, "text": part["text"][:left]})
        left -= len(part["text"])
    return kept
