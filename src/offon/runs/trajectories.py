"""Groups as a Parquet table and back, exactly.

One row per trajectory, so that SQL reads it directly; what belongs to the group (item, views, comparisons, draw) is
repeated on its rows, which Parquet stores once. A group without trajectories is one row whose `member` is null.
The same file serves as the ledger's shard and as the scored buffer of a checkpoint.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offon.errors import DataError, StorageError
from offon.runs import atomic
from offon.types import Comparison, Group, Item, Producer, Sampling, Span, Trajectory

_IDS = pa.list_(pa.int32())
_VIEWS = pa.map_(pa.string(), _IDS)
_SIGNALS = pa.map_(pa.string(), pa.float64())
_DROPPED = "dropped: "

SCHEMA = pa.schema(
    [
        # the trajectory
        ("id", pa.string()),
        ("node", pa.string()),  # who wrote the row: a stage, or the stage whose model a probe sampled
        ("buffer", pa.int32()),
        ("draw", pa.int64()),
        ("group", pa.int32()),  # position of the group in the list that was written
        ("member", pa.int32()),  # position in the group, members first, then the dropped; null: an empty group
        ("item", pa.string()),
        ("family", pa.string()),
        (
            "fate",
            pa.string(),
        ),  # "dropped: reason", "probe", "kept" (as data); null: by what the learners consume
        ("tags", pa.list_(pa.string())),
        ("producer", pa.string()),
        ("step_sampled", pa.int64()),
        ("temperature", pa.float64()),  # this and the next three are null where nobody sampled
        ("top_p", pa.float64()),
        ("top_k", pa.int64()),
        ("max_tokens", pa.int64()),
        ("view_sampled", pa.string()),  # name of the group's view that the sampler saw, if it is one of them
        ("prompt_text", pa.string()),
        ("text", pa.string()),
        ("views", _VIEWS),
        ("tokens", _IDS),
        ("source", pa.list_(pa.int8())),
        ("scaffold", pa.list_(pa.bool_())),
        ("behavior_logp", pa.list_(pa.float32())),
        ("signals", _SIGNALS),
        ("token_signals", pa.map_(pa.string(), pa.list_(pa.float32()))),
        (
            "spans",
            pa.list_(
                pa.struct([("name", pa.string()), ("start", pa.int32()), ("end", pa.int32()), ("signals", _SIGNALS)])
            ),
        ),
        # the group
        ("item_json", pa.string()),
        ("group_views", _VIEWS),
        (
            "comparisons",
            pa.list_(pa.struct([("winner", pa.int32()), ("loser", pa.int32()), ("margin", pa.float64())])),
        ),
    ],
    metadata={"offon": "trajectories 1"},
)


# Item columns: whatever a data set's row can hold, as JSON. A dict that is not plain JSON carries one of these tags.
def _encode(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _encode(inner) for key, inner in value.items()}
        return {"$dict": [[_encode(key), _encode(inner)] for key, inner in value.items()]}
    if isinstance(value, list):
        return [_encode(inner) for inner in value]
    if isinstance(value, tuple):
        return {"$tuple": [_encode(inner) for inner in value]}
    if isinstance(value, np.ndarray):
        return {"$array": value.tolist(), "$dtype": str(value.dtype)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, (datetime.datetime, datetime.date)):
        return {f"${type(value).__name__}": value.isoformat()}
    raise TypeError(f"{type(value).__name__} values cannot be stored")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    tag = next((key for key in value if key.startswith("$")), None)
    if tag is None:
        return {key: _decode(inner) for key, inner in value.items()}
    content = value[tag]
    if tag == "$dict":
        return {_decode(key): _decode(inner) for key, inner in content}
    if tag == "$tuple":
        return tuple(_decode(content))
    if tag == "$array":
        return np.array(content, dtype=value["$dtype"])
    if tag == "$bytes":
        return base64.b64decode(content)
    return {"$datetime": datetime.datetime, "$date": datetime.date}[tag].fromisoformat(content)


def _item_to_json(item: Item) -> str:
    fields = ("prompt", "views", "columns", "reference")
    try:
        return json.dumps({name: _encode(getattr(item, name)) for name in fields})
    except TypeError as error:
        raise DataError(
            "an item's columns cannot be written to the ledger",
            where=f"item {item.id}, columns {', '.join(sorted(map(str, item.columns)))}",
            why=str(error),
            fix="keep columns to text, numbers, lists, dicts, arrays, bytes and dates",
        ) from error


def _item_from_json(id: str, family: str, text: str) -> Item:
    return Item(id=id, family=family, **{name: _decode(value) for name, value in json.loads(text).items()})


def prompt_as_text(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """A prompt to read: plain text as it is, chat messages as `role: content` paragraphs."""
    if not isinstance(prompt, str):
        prompt = "\n\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in prompt)
    return prompt.encode("utf-8", "replace").decode("utf-8")


def _sampled_view(group: Group, trajectory: Trajectory) -> str | None:
    """The name of the group's view whose tokens the sampler saw. "prompt" wins where several are equal."""
    seen = trajectory.views["sample"]
    names = [name for name, ids in group.views.items() if ids == seen]
    return "prompt" if "prompt" in names else next(iter(names), None)


def _sampled_prompt(group: Group, view: str | None) -> str:
    return prompt_as_text(group.item.views.get(view, group.item.prompt))


def _interned(values: Sequence[Any], key: Callable[[Any], Hashable], type: pa.DataType) -> pa.Array:
    """An Arrow array that converts each distinct value once: members of a group share most of what they carry."""
    position: dict[Hashable, int] = {}
    distinct, indices = [], []
    for value in values:
        index = position.setdefault(key(value), len(distinct))
        if index == len(distinct):
            distinct.append(value)
        indices.append(index)
    return pa.array(distinct, type=type).take(pa.array(indices, type=pa.int64()))


def _ragged(columns: Sequence[np.ndarray | None], type: pa.ListType) -> pa.Array:
    """Arrays of different lengths as one list column; None becomes null."""
    lengths = [0 if column is None else len(column) for column in columns]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    parts = [column for column in columns if column is not None]
    flat = np.concatenate(parts) if parts else np.array([])
    missing = np.array([column is None for column in columns], dtype=bool)
    values = pa.array(flat.astype(type.value_type.to_pandas_dtype(), copy=False), type=type.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=type, mask=pa.array(missing))


def _pairs(mapping: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(mapping.items())


def _signals(signals: Mapping[str, float | None]) -> list[tuple[str, float | None]]:
    return [(name, None if value is None else float(value)) for name, value in signals.items()]


def _span_row(span: Span) -> dict[str, Any]:
    return {"name": span.name, "start": span.start, "end": span.end, "signals": _signals(span.signals)}


def to_table(groups: Sequence[Group], *, node: str = "", buffer: int = 0, fate: str | None = None) -> pa.Table:
    """One row per trajectory, members and dropped alike, in order. `from_table` gives the same groups back."""
    rows: list[tuple[int, int | None, Trajectory | None, str | None]] = []  # group, member, trajectory, fate
    for g, group in enumerate(groups):
        kept = [(g, m, member, fate) for m, member in enumerate(group.members)]
        gone = [(g, len(kept) + d, member, _DROPPED + reason) for d, (member, reason) in enumerate(group.dropped)]
        rows += kept + gone or [(g, None, None, None)]

    index = [g for g, *_ in rows]
    members = [trajectory for _, _, trajectory, _ in rows]
    samplings = [None if member is None else member.producer.sampling for member in members]
    views = [
        None if member is None else _sampled_view(groups[g], member) for g, member in zip(index, members, strict=True)
    ]

    def of_group(value: Callable[[Group], Any], type: pa.DataType) -> pa.Array:
        return pa.array([value(group) for group in groups], type=type).take(pa.array(index, type=pa.int64()))

    def of_member(value: Callable[[Trajectory], Any]) -> list[Any]:
        return [None if member is None else value(member) for member in members]

    def of_sampling(name: str) -> list[Any]:
        return [getattr(sampling, name) if sampling else None for sampling in samplings]

    columns = {
        "id": of_member(lambda t: t.id),
        "node": [node] * len(rows),
        "buffer": [buffer] * len(rows),
        "draw": of_group(lambda group: group.draw, pa.int64()),
        "group": index,
        "member": [member for _, member, _, _ in rows],
        "item": of_group(lambda group: group.item.id, pa.string()),
        "family": of_group(lambda group: group.item.family, pa.string()),
        "fate": [fate for *_, fate in rows],
        "tags": of_member(lambda t: sorted(t.tags)),
        "producer": of_member(lambda t: t.producer.model),
        "step_sampled": of_member(lambda t: t.producer.step),
        **{name: of_sampling(name) for name in ("temperature", "top_p", "top_k", "max_tokens")},
        "view_sampled": views,
        "prompt_text": [_sampled_prompt(groups[g], view) for g, view in zip(index, views, strict=True)],
        "text": of_member(lambda t: t.text),
        "views": _interned(
            of_member(lambda t: _pairs(t.views)), lambda pairs: None if pairs is None else tuple(pairs), _VIEWS
        ),
        "tokens": _ragged(of_member(lambda t: t.tokens), _IDS),
        "source": _ragged(of_member(lambda t: t.source), pa.list_(pa.int8())),
        "scaffold": _ragged(of_member(lambda t: t.scaffold), pa.list_(pa.bool_())),
        "behavior_logp": _ragged(of_member(lambda t: t.behavior_logp), pa.list_(pa.float32())),
        "signals": of_member(lambda t: _signals(t.signals)),
        "token_signals": of_member(lambda t: _pairs(t.token_signals)),
        "spans": of_member(lambda t: [_span_row(span) for span in t.spans]),
        "item_json": of_group(lambda group: _item_to_json(group.item), pa.string()),
        "group_views": of_group(lambda group: _pairs(group.views), _VIEWS),
        "comparisons": of_group(
            lambda group: [{"winner": c.winner, "loser": c.loser, "margin": c.margin} for c in group.comparisons],
            SCHEMA.field("comparisons").type,
        ),
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, type=SCHEMA.field(name).type)
        for name, column in columns.items()
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _numpy(scalar: pa.ListScalar, dtype: Any) -> np.ndarray | None:
    if not scalar.is_valid:
        return None
    array = scalar.values.to_numpy(zero_copy_only=False).astype(dtype)
    array.setflags(write=False)
    return array


def _views(scalar: pa.MapScalar) -> dict[str, tuple[int, ...]]:
    return {name: tuple(ids) for name, ids in scalar.as_py()}


def _trajectory(row: Mapping[str, pa.Scalar], views: dict[str, tuple[int, ...]]) -> Trajectory:
    value = {
        name: row[name].as_py()
        for name in ("id", "tags", "producer", "step_sampled", "temperature", "top_p", "top_k", "max_tokens", "text")
    }
    sampling = None
    if value["temperature"] is not None:
        sampling = Sampling(**{name: value[name] for name in ("temperature", "top_p", "top_k", "max_tokens")})
    return Trajectory(
        tokens=_numpy(row["tokens"], np.int32),
        views=views,
        source=_numpy(row["source"], np.int8),
        scaffold=_numpy(row["scaffold"], bool),
        behavior_logp=_numpy(row["behavior_logp"], np.float32),
        signals=dict(row["signals"].as_py()),
        token_signals={pair["key"].as_py(): _numpy(pair["value"], np.float32) for pair in row["token_signals"].values}
        if len(row["token_signals"].values)
        else {},
        spans=tuple(Span(**{**span, "signals": dict(span["signals"])}) for span in row["spans"].as_py()),
        tags=frozenset(value["tags"]),
        producer=Producer(model=value["producer"], step=value["step_sampled"], sampling=sampling),
        text=value["text"],
        id=value["id"],
    )


def from_table(table: pa.Table) -> list[Group]:
    """The groups that `to_table` was given, in order."""
    if missing := set(SCHEMA.names) - set(table.column_names):
        raise StorageError("this is not a table of trajectories", why=f"columns missing: {', '.join(sorted(missing))}")
    columns = {name: table.column(name).combine_chunks() for name in SCHEMA.names}
    shared: dict[Any, dict[str, tuple[int, ...]]] = {}  # equal views become one object, as they were when written
    groups: list[Group] = []
    last = None
    for i in range(table.num_rows):
        row = {name: column[i] for name, column in columns.items()}
        if row["group"].as_py() != last:
            last = row["group"].as_py()
            groups.append(
                Group(
                    item=_item_from_json(*(row[name].as_py() for name in ("item", "family", "item_json"))),
                    views=_views(row["group_views"]),
                    comparisons=tuple(Comparison(**pair) for pair in row["comparisons"].as_py()),
                    draw=row["draw"].as_py(),
                )
            )
        if not row["member"].is_valid:
            continue
        views = _views(row["views"])
        trajectory = _trajectory(row, shared.setdefault(tuple(views.items()), views))
        fate = row["fate"].as_py() or ""
        if fate.startswith(_DROPPED):
            groups[-1] = groups[-1].replace(dropped=(*groups[-1].dropped, (trajectory, fate[len(_DROPPED) :])))
        else:
            groups[-1] = groups[-1].add(trajectory)
    return groups


def write(path: Path, groups: Iterable[Group], **where: Any) -> Path:
    """One Parquet file, atomically. `where`: node, buffer, fate, see `to_table`."""
    table = to_table(list(groups), **where)
    return atomic.write_with(Path(path), lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def read(path: Path, ids: Sequence[str] | None = None) -> list[Group]:
    """The groups that were written; with `ids` only those trajectories, without comparisons, which name positions."""
    try:
        table = pq.read_table(path, partitioning=None, filters=None if ids is None else [("id", "in", list(ids))])
        groups = from_table(table)
        return groups if ids is None else [group.replace(comparisons=()) for group in groups]
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(f"{Path(path).name} cannot be read", where=str(path), why=str(error)) from error
