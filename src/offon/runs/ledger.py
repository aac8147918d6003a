"""Every trajectory of a run, through SQL: DuckDB over the run's Parquet and JSON lines, read only.

trajectories   all stages and probes. fate: "dropped: reason", "probe", "trained" (some learner consumed it), "read"
               (others of its group were, it had no weight: a baseline, an answer put after another prompt),
               "pending" (its group waits). prompt_tokens is the prefix the sampler saw, train_prompt_tokens the
               prefix it is trained under. source: 0 external, 1 teacher, 2 learner, 3 environment, per token.
consumption    which optimizer step (from 1, as in metrics) of which learner consumed which trajectory
metrics        one row per optimizer step
nodes          the pipeline's nodes
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from offon.errors import ConfigError, StorageError
from offon.runs import trajectories
from offon.runs.directory import RunDirectory

# Shards and probes are two branches: a query about one of them does not read the other.
_TRAJECTORIES = """
create view trajectories as
with consumed as (select distinct node, id from consumption),
stepped as (select distinct s.node, s.draw from shards s join consumed c on c.node = s.node and c.id = s.id),
written as (
    select s.* replace (
        case when s.fate is not null then s.fate
             when exists (select 1 from consumed c where c.node = s.node and c.id = s.id) then 'trained'
             when exists (select 1 from stepped g where g.node = s.node and g.draw = s.draw) then 'read'
             else 'pending' end as fate) from shards s
    union all
    select p.* replace ('probe' as fate) from probes p)
select id, node, buffer, draw, member, item, family, fate, tags,
       case when temperature is null then null
            when list_contains(tags, 'truncated') then 'length' else 'stop' end as stop,
       producer, step_sampled, temperature, top_p, top_k, view_sampled, prompt_text, text,
       views['sample'] as prompt_tokens,
       coalesce(views['train'], views['sample']) as train_prompt_tokens,
       tokens, source, scaffold, behavior_logp, signals, token_signals, spans,
       item_json as item_columns
from written where member is not null
"""


# What a view has when its file does not exist yet.
_EMPTY = {
    "consumption": pa.schema(
        [("id", pa.string()), ("node", pa.string()), ("step", pa.int64()), ("learner", pa.string())]
    ),
    "metrics": pa.schema([("node", pa.string()), ("step", pa.int64()), ("time", pa.float64())]),
    "nodes": pa.schema([("name", pa.string()), ("kind", pa.string()), ("method", pa.string()), ("state", pa.string())]),
}


def _table(rows: list[dict[str, Any]], empty: pa.Schema) -> pa.Table:
    """Rows with different keys as one table; a column whose values do not share a type becomes JSON text."""
    names = list(dict.fromkeys([*empty.names, *(name for row in rows for name in row)]))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        fixed = empty.field(name).type if name in empty.names else None
        try:
            columns[name] = pa.array(values, type=fixed)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array([None if value is None else json.dumps(value) for value in values])
    return pa.table(columns)


def _consumption(run: RunDirectory, node: str) -> list[dict[str, Any]]:
    return [
        {"id": id, "node": node.name, "step": line["step"], "learner": line["learner"]}
        for node in (run.nodes() if node == "*" else [run.node(node)])
        for line in node.consumption()
        for id in line["ids"]
    ]


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def connect(path: Path, node: str = "*") -> duckdb.DuckDBPyConnection:
    """An in-memory connection with the four views over a run. It reads files below the run directory and no others;
    use `query` for SQL that somebody else wrote, which also refuses to write. `node`: its shards only, no probes."""
    run = RunDirectory.open(path)
    root = run.path.resolve()
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    small = {"consumption": _consumption(run, node), "metrics": run.metrics(), "nodes": run.pipeline().get("nodes", [])}
    for name, rows in small.items():
        connection.register("incoming", _table(rows, _EMPTY[name]))
        connection.execute(f"create table {name} as select * from incoming")
        connection.unregister("incoming")

    connection.execute("set enable_progress_bar = false")
    connection.execute(f"set allowed_directories = [{_quoted(root)}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")

    for name, pattern in (
        ("shards", f"nodes/{node}/trajectories/*.parquet"),
        ("probes", "probes/*.parquet" if node == "*" else "none"),
    ):
        if files := ", ".join(map(_quoted, sorted(root.glob(pattern)))):
            source = f"read_parquet([{files}], hive_partitioning = false)"
            connection.execute(f"create view {name} as select * from {source}")
        else:
            connection.register(f"no_{name}", trajectories.SCHEMA.empty_table())
            connection.execute(f"create table {name} as select * from no_{name}")
    connection.execute(_TRAJECTORIES)
    return connection


def query(path: Path, sql: str, node: str = "*") -> pa.Table:
    """The result of one SELECT (or DESCRIBE, SHOW, SUMMARIZE) over the views of a run."""
    with connect(path, node) as connection:
        try:
            statements = connection.extract_statements(sql)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
                raise ConfigError(
                    "the ledger answers one SELECT at a time",
                    where=sql.strip()[:200],
                    why=f"this is {kinds}; a run's ledger is never changed through SQL",
                    fix="select fate, count(*) from trajectories group by fate",
                )
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            if damaged := re.search(r"'([^']*\.parquet)'", str(error)):
                raise StorageError(
                    f"the ledger's {Path(damaged[1]).name} is damaged",
                    where=damaged[1],
                    why=str(error).split("\n")[0],
                    fix=f"put it back from a copy, or ask without it: rm {shlex.quote(damaged[1])}",
                ) from error
            tables = "trajectories, consumption, metrics, nodes"
            raise ConfigError(
                "the ledger could not answer",
                where=sql.strip()[:200],
                why=str(error).split("\n\n")[0].replace("\n", " "),
                fix=f"tables: {tables}; `describe trajectories` lists the columns",
            ) from error
