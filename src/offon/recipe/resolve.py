"""From what a recipe says to what it means: every key known, every value in range, every path and reference found.

All problems are reported together, each with its file and line; nothing is loaded but the rows and functions named.
Precedence of a value: the recipe, then the row's recommendation, then the library.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from offon.catalogue.arguments import names_of
from offon.catalogue.user_function import function_at
from offon.errors import DataError, ModelError, OffonError
from offon.objects import is_object
from offon.recipe import fields
from offon.recipe.fields import MakeSettings, NodeSettings, Probe, Settings
from offon.recipe.gates import completed, read_gate
from offon.recipe.problems import BAD, Reader, did_you_mean
from offon.recipe.resolved import (
    LIBRARY,
    RECIPE,
    ROW,
    FunctionNode,
    GateNode,
    Input,
    MakeNode,
    MethodNode,
    Modifier,
    Node,
    ResolvedRecipe,
    TrainNode,
)  # fmt: skip
from offon.recipe.trl import RENAMED
from offon.recipe.values import annotation_of
from offon.recipe.yaml_reader import Document, Keys, override, read

KEYS = {"stage": fields.keys_of(NodeSettings), "make": fields.keys_of(MakeSettings)}  # of a node, by its method's kind
SECTIONS = {"stage": NodeSettings, "make": MakeSettings}
ANY = KEYS["stage"] | KEYS["make"]
NODE_NAME = r"[A-Za-z_][\w\-]*"
EDGES = {name: name for name in ("init", "teacher", "data", "reward", "reference")} | {"model": "init"}
Given = dict[str, tuple[Any, Keys]]  # key -> what was written, and where


def resolve(
    recipe: str | Path | Mapping[str, Any] | Document, *, overrides: Iterable[str] = (), registry: Any = None
) -> ResolvedRecipe:
    """A recipe (a file, a document, or plain Python values) with everything filled in. Raises what is wrong with it."""
    if isinstance(recipe, str | Path):
        recipe = read(recipe)
    elif not isinstance(recipe, Document):
        recipe = Document(data=dict(recipe), name="recipe", folder=Path.cwd())
    return _Resolver(override(recipe, overrides), registry).recipe()


class _Resolver(Reader):
    """One pass over one document."""

    def __init__(self, document: Document, registry: Any):
        super().__init__(document)
        self._registry = registry
        self.model, self.default_task, self.seed = None, None, 0
        self.trained: str | None = None  # the language model that a node trained last

    @property
    def registry(self) -> Any:
        """The catalogue, imported only once a recipe names a method: it brings torch with it."""
        if self._registry is None:
            from offon.catalogue import registry

            self._registry = registry
        return self._registry

    def recipe(self) -> ResolvedRecipe:
        self.document = self.expanded()
        data = self.document.data
        self._refuse_unknown_sections(data)
        self.seed = self.value(fields.Seed, data.get("seed", 0), ("seed",))
        if data.get("model") is not None:
            self.model = self.located(data["model"], ("model",), ModelError)
        if data.get("task") is not None:
            self.default_task = self.task(data["task"], ("task",))
        if not self.nodes:
            what = "pipeline is not a mapping of nodes" if data.get("pipeline") else "there is no pipeline"
            self.problem(what, ("pipeline",), fix="pipeline: {sft: {method: sft, data: demos.jsonl, steps: 100}}")
        nodes = [self.node(name, keys) for name, keys in self.nodes.items()]
        probe, origins = self.probe(data.get("probe"), nodes)
        nodes = completed(self, nodes, probe)
        self.raise_problems()
        nodes = self.ordered(nodes)
        self.raise_problems()
        return ResolvedRecipe(
            model=self.model, task=self.default_task, seed=self.seed, probe=probe, nodes=tuple(nodes),
            name=Path(self.document.name).stem, notes=tuple(self.notes),
            origins=origins | ({} if "seed" in data else {"seed": LIBRARY}),
        )  # fmt: skip

    def _refuse_unknown_sections(self, data: Mapping[str, Any]) -> None:
        for key in data:
            if key in fields.RECIPE:
                continue
            if key in ANY or key in ("method", "with", "make", "gate", "limits", "on_fail"):
                self.problem(f"{key!r} belongs in a node", (key,), fix=f"pipeline: {{NAME: {{{key}: ...}}}}")
            elif key == "model_name_or_path":
                self.problem(f"unknown key {key!r}", (key,), fix="model")
            else:
                self.unknown(key, (key,), fields.RECIPE, why=f"a recipe has {', '.join(fields.RECIPE)}")

    def ordered(self, nodes: list[Node]) -> list[Node]:
        """Each node after what it reads, otherwise as written."""
        reads = {node.name: [*self.edges.get(node.name, ())] for node in nodes}
        waiting, done = {node.name: node for node in nodes}, []
        while waiting:
            ready = next((name for name in waiting if not any(read in waiting for read in reads[name])), None)
            if ready is None:
                circle = [next(iter(waiting))]
                while circle.count(circle[-1]) < 2:
                    circle.append(next(read for read in reads[circle[-1]] if read in waiting))
                circle = circle[circle.index(circle[-1]) :]
                self.problem(f"nodes wait for each other: {' -> '.join(circle)}", ("pipeline", circle[0]))
                return done
            done.append(waiting.pop(ready))
        return done

    # ---- nodes

    def node(self, name: str, keys: Any) -> Node | None:
        position = ("pipeline", name)
        if not re.fullmatch(NODE_NAME, name):
            self.problem(f"{name!r} cannot name a node", position, fix="letters, digits, _ and -: it names a folder")
        if not isinstance(keys, dict):
            self.problem(f"node {name!r} is not a mapping", position, fix=f"{name}: {{method: sft, steps: 100}}")
        elif len(kinds := [key for key in ("method", "make", "gate") if key in keys]) != 1:
            has = f"both {' and '.join(kinds)}" if kinds else "neither method nor make nor gate"
            fix = "method: NAME, make: ./file.py:function, or gate: $NODE"
            self.problem(f"node {name!r} has {has}", position, fix=fix)
        elif kinds == ["gate"]:
            return self.by_gate(name, keys)
        else:
            return self.by_method(name, keys) if kinds == ["method"] else self.by_function(name, keys)
        return None

    def by_gate(self, name: str, keys: Mapping[str, Any]) -> GateNode | None:
        gate = read_gate(self, name, keys)
        if gate and gate.gate == f"${self.trained}":
            self.trained = name  # what comes next continues what the gate lets through
        return gate

    def by_method(self, name: str, keys: Mapping[str, Any]) -> TrainNode | MakeNode | None:
        position, before = ("pipeline", name), len(self.problems)
        method, info = self.row(keys["method"], (*position, "method"), "stage", "make")
        known = KEYS[info.kind] if info else ANY
        given = self.entries(keys, position, info, known)
        written = {key: self.setting(key, *given[key]) for key in known if key in given}
        inherited = self.inherited(written, name)
        modifiers, references = self.modifiers(*given.get("with", ([], position)))
        arguments, more = self.arguments(info, given, position) if info else ({}, [])
        if len(self.problems) > before:
            return None
        stage = self.composed(info, {**inherited, **written}, arguments, modifiers, position)
        settings, origins = self.filled(info, stage, given, written, inherited, position) if stage else (None, {})
        if settings is None:
            return None
        sources = {key: getattr(settings, key) for key in ("init", "teacher", "data") if key in origins}
        edges = [Input(key, source) for key, source in sources.items() if isinstance(source, str)]
        if isinstance(apart := getattr(settings, "heldout", None), str):
            edges.append(Input("data", apart))
        origins |= {key: RECIPE if key in given else ROW for key in arguments}
        return {"stage": TrainNode, "make": MakeNode}[info.kind](
            name=name, method=method, settings=settings, arguments=arguments, modifiers=modifiers,
            inputs=(*edges, *more, *references), reads=stage.reads, makes=self.made(info, stage), origins=origins,
            place=self.document.place(position),
        )  # fmt: skip

    @staticmethod
    def made(info: Any, stage: Any) -> str | None:
        """What kind of thing comes out of a node."""
        if info.kind == "make":
            return stage.makes
        if stage.main.head is None:
            return "policy"
        return "process model" if stage.reads == "steps" else "reward model"

    def _kind(self, name: str) -> str | None:
        kinds = ("stage", "modifier", "make", "loop")
        return next((kind for kind in kinds if name in self.registry.names(kind)), None)

    def row(self, name: Any, position: Keys, *kinds: str) -> tuple[str, Any]:
        """The catalogue's entry for a method or modifier, or for a function in a file; (name, None) after a problem."""
        known = self.registry.names(*kinds)
        word = "modifier" if "modifier" in kinds else "method"
        if not isinstance(name, str):
            self.problem(f"{word}: {name!r} is not a name", position, of="value", fix=f"one of {', '.join(known)}")
            return "", None
        if ":" in name:
            name = self.path(name, position)
            if name is BAD:
                return "", None
        elif name not in known and (kind := self._kind(name)):
            how = f"with: [{name}]" if kind == "modifier" else f"a node of its own: {{method: {name}, ...}}"
            self.problem(f"{name} is a {kind}, not a {word}", position, of="value", fix=how)
            return name, None
        elif name not in known:
            fix = f"{did_you_mean(name, known)} known: {', '.join(known)}, or ./file.py:NAME".strip()
            self.problem(f"unknown {word} {name!r}", position, of="value", fix=fix)
            return name, None
        try:
            info = self.registry.get(name)
            info.arguments  # noqa: B018  a signature that cannot be read is a problem of this line
        except OffonError as error:
            self.problem(error.what, position, of="value", why=error.why, fix=error.fix)
        except Exception as error:
            self.problem(f"{name} cannot be imported", position, of="value", why=f"{type(error).__name__}: {error}")
        else:
            if info.kind in kinds:
                return name, info
            self.problem(f"{name} is a {info.kind}, not a {word}", position, of="value")
        return name, None

    def entries(self, keys: Mapping[str, Any], position: Keys, info: Any, known: Iterable[str]) -> Given:
        """What a node with a method says, TRL's words renamed, unknown keys refused."""
        own = info.arguments if info else {}
        known = [*own, *known, "method", *(["with"] if info is None or info.kind == "stage" else [])]
        given: Given = {}
        for key, value in keys.items():
            place = (*position, key)
            name = key if key in known else RENAMED.get(key, key)
            if name not in known:
                if info is not None:  # without the method its arguments are unknown too
                    self.unknown(key, place, known, **self._advice(key, keys["method"]))
            elif name in given:
                self.problem(f"{given[name][1][-1]} and {key} are the same setting", place, fix=f"keep {name}")
            else:
                if name != key:
                    self.notes.append(f"{self.document.place(place)}: {key} is called {name} here")
                given[name] = (value, place)
        return given

    def _advice(self, key: str, method: str) -> dict[str, str]:
        owners = [
            name for name in self.registry.names("stage", "make", "loop") if key in self.registry.get(name).arguments
        ]
        why = f"{key} belongs to {', '.join(owners)}; this node's method is {method}" if owners else ""
        return {"why": why, "elsewhere": f"`offon methods {method}` lists what it takes"}

    def setting(self, key: str, value: Any, position: Keys) -> Any:
        match key:
            case "init" | "teacher":
                return self.located(value, position, ModelError)
            case "data":
                objects = not isinstance(value, str | Path | dict | list | int | float | None)
                return value if objects else self.located(value, position, DataError)
            case "task":
                return self.task(value, position)
            case "lora":
                return self.lora(value, position)
            case "heldout" if isinstance(value, str):
                return self.located(value, position, DataError)
        return self.value(ANY[key], value, position)

    def inherited(self, written: Mapping[str, Any], name: str) -> dict[str, Any]:
        """What the recipe says once for all nodes. A model that is a node becomes an edge of this node too."""
        inherited = {"init": self.model, "task": self.default_task, "seed": self.seed}
        inherited = {key: value for key, value in inherited.items() if key not in written and value is not None}
        if isinstance(model := inherited.get("init"), str) and model.startswith("$"):
            self.edges.setdefault(name, []).append(model[1:])
        return inherited

    def modifiers(self, items: Any, position: Keys) -> tuple[tuple[Modifier, ...], list[Input]]:
        form = "with: [{kl_anchor: {coef: 0.05}}]"
        if not isinstance(items, list):
            self.problem("with is not a list", position, of="value", fix=form)
            return (), []
        found, references = [], []
        for index, item in enumerate(items):
            place = (*position, index)
            item = {item: None} if isinstance(item, str) else item
            if not isinstance(item, dict) or len(item) != 1:
                self.problem("an item of with is one modifier and its arguments", place, of="value", fix=form)
                continue
            ((written, values),) = item.items()
            name, info = self.row(written, (*place, written), "modifier")
            if info is None:
                continue
            if not isinstance(values or {}, dict):
                self.problem(f"{written} takes named arguments", (*place, written), of="value", fix=form)
                continue
            given = {key: (value, (*place, written, key)) for key, value in (values or {}).items()}
            for key, (_, where) in given.items():
                if key not in info.arguments:
                    takes = f"{written} takes {', '.join(info.arguments) or 'no arguments'}"
                    self.unknown(key, where, info.arguments, why=takes)
            arguments, more = self.arguments(info, given, (*place, written))
            found.append(Modifier(name, arguments))
            references += more
        return tuple(found), references

    def arguments(self, info: Any, given: Given, position: Keys) -> tuple[dict[str, Any], list[Input]]:
        """The arguments of a row or modifier, defaults included, and the models and files among them."""
        return self._arguments(info.arguments, info.name, given, position)

    def _arguments(
        self, parameters: Mapping[str, inspect.Parameter], owner: str, given: Given, position: Keys
    ) -> tuple[dict[str, Any], list[Input]]:
        values, inputs = {}, []
        for name, parameter in parameters.items():
            if name not in given and parameter.default is inspect.Parameter.empty:
                self.problem(f"{owner} needs {name}", position, fix=f"add {name}: ...")
            elif name in given or isinstance(parameter.default, bool | int | float | str | tuple):
                found: list[Input] = []
                annotation = annotation_of(parameter)
                value, place = given.get(name, (parameter.default, position))
                if name in given or names_of(annotation):
                    value = self.argument(annotation, value, place, EDGES.get(name, "reference"), found)
                bad = any(edge.source is BAD for edge in found)
                values[name] = BAD if bad else self.value(annotation, value, place) if name in given else value
                inputs += found
        return values, inputs

    def composed(self, info: Any, values: Mapping[str, Any], arguments, modifiers, position: Keys) -> Any:
        """The stage, with names standing for what it will be given; a problem if its parts cannot work together."""
        missing = [name for name, needed in info.inputs.items() if needed and values.get(name) is None]
        if missing:
            fix = ", ".join(f"{name}: ..." for name in missing)
            return self._none(f"method {info.name} needs {' and '.join(missing)}", position, fix=f"add {fix}")
        inputs = {name: values[name] for name in info.inputs if values.get(name) is not None}
        name, place = info.name, position
        try:
            stage = info.composed(**inputs, **arguments)
            for index, modifier in enumerate(modifiers):
                name, place = modifier.name, (*position, "with", index, modifier.name)
                stage = self.registry.get(name).function(stage, **modifier.arguments)
            name, place = info.name, position
            return stage.validate()
        except OffonError as error:
            return self._none(error.what, place, why=error.why, fix=error.fix)
        except Exception as error:
            return self._none(f"{name} cannot be composed", place, why=f"{type(error).__name__}: {error}")

    def _none(self, what: str, position: Keys, **details: str) -> None:
        self.problem(what, position, **details)

    def adapted(self, source: Any, depth: int = 0) -> frozenset[bool]:
        """Whether a source carries an adapter that a stage trained, which is then continued: one answer, or both where
        a gate may go either way."""
        earlier = self.nodes.get(source[1:]) if isinstance(source, str) and source.startswith("$") else None
        if not isinstance(earlier, Mapping) or depth > len(self.nodes):  # deeper: a circle, which is told elsewhere
            return frozenset({False})
        if "gate" in earlier:
            sides = [earlier["gate"]]
            if earlier.get("on_fail") == "rollback":
                candidate = self.nodes.get(str(earlier["gate"]).removeprefix("$")) or {}
                sides.append(earlier.get("init", candidate.get("init", self.model)))
            return frozenset().union(*(self.adapted(side, depth + 1) for side in sides))
        return frozenset({True}) if earlier.get("lora") else self.adapted(earlier.get("init", self.model), depth + 1)

    def filled(
        self, info: Any, stage: Any, given: Given, written: dict[str, Any], inherited: dict[str, Any], position: Keys
    ) -> tuple[Settings | None, dict[str, str]]:
        """Every setting of a node, and the origin of those that mean something for it."""
        before, defaults = len(self.problems), fields.defaults_of(SECTIONS[info.kind])
        recommended = {**(dataclasses.asdict(stage.updates) if stage.updates else {}), **stage.recommends}
        init = written.get("init", inherited.get("init"))
        carried = self.adapted(init)
        if len(carried) > 1 and "lora" not in written:
            self.problem(
                f"{init} may or may not be an adapter, as its gate goes", position,
                why="a stage continues an adapter and trains all weights of a model, at another learning rate",
                fix="lora: true, which trains an adapter either way",
            )  # fmt: skip
        lora = written.get("lora", recommended.get("lora")) or True in carried
        layers = (
            (written, dict.fromkeys(written, RECIPE)),
            (recommended, dict.fromkeys(recommended, ROW)),
            (inherited, {key: f"the recipe's {'model' if key == 'init' else key}" for key in inherited}),
            (defaults, dict.fromkeys(defaults, LIBRARY)),
        )
        values, origins = {}, {}
        for key in KEYS[info.kind]:
            layer, origin = next(((layer, origin) for layer, origin in layers if key in layer), ({}, {}))
            if layer:
                values[key], origins[key] = layer[key], origin[key]
        if lora and origins.get("learning_rate", RECIPE) != RECIPE:
            values["learning_rate"] *= fields.LORA_FACTOR
            origins["learning_rate"] += f" x {fields.LORA_FACTOR} for LoRA"
        needed = {"steps": "steps: 100"} if info.kind == "stage" else {}
        needed |= {"init": "init: ./model, or model: ./model at the top"} if stage.uses_init else {}
        for key, fix in needed.items():
            if values.get(key) is None:
                self.problem(f"node {position[1]!r} has no {key}", position, fix=fix)
        idle = self._idle(info, stage, written)
        values |= {key: defaults.get(key) for key in idle if key in values and key not in given}
        for key in given:
            if key in idle:
                self.problem(f"{key} has no effect here", given[key][1], why=idle[key], fix="take it out")
        if "init" in inherited and stage.uses_init and self.trained and f"${self.trained}" != values["init"]:
            start = f"{position[1]} starts from {values['init']}"
            self.notes.append(f"{start}; to continue {self.trained} write init: ${self.trained}")
        if info.kind == "stage":
            self._check_batches(values, info.name, stage.least, position)
            self.trained = position[1] if stage.main.head is None else self.trained
        if len(self.problems) > before:
            return None, {}
        shown = {k: o for k, o in origins.items() if k not in idle and (o != LIBRARY or values[k] is not None)}
        return SECTIONS[info.kind](**values), shown

    @staticmethod
    def _idle(info: Any, stage: Any, written: Mapping[str, Any]) -> dict[str, str]:
        """Keys that nothing of this stage reads, with the reason."""
        idle = {} if stage.uses_init else {"init": f"{info.name} uses no model but those it names"}
        for name in ("teacher", "data"):
            if name not in info.inputs:
                idle[name] = f"{info.name} takes {' and '.join(info.inputs) or 'no inputs'}, no {name}"
        if info.kind == "stage" and stage.main.head is None:
            idle["heldout"] = f"{info.name} trains a policy, which is measured on the probe's prompts"
        if not stage.samplers:
            idle |= dict.fromkeys(fields.SAMPLING, f"{info.name} samples nothing here")
        if written.get("data") is None:
            idle |= dict.fromkeys(fields.READING, f"{info.name} reads no data here")
        elif stage.reads != "demonstrations":
            idle["supervise"] = f"{info.name} reads {stage.reads}, and learns from all of an answer"
        return idle

    def _check_batches(self, values: Mapping[str, Any], method: str, least: int, position: Keys) -> None:
        from offon.parts.stage import Updates

        try:
            updates = Updates(**{field.name: values[field.name] for field in dataclasses.fields(Updates)})
        except OffonError as error:
            return self._none(error.what, position, why=error.why, fix=error.fix)
        if updates.buffer < least:
            why = f"{method} looks from one prompt to another"
            self.problem(
                f"a buffer of {updates.buffer} prompt", position, why=why, fix=f"prompts_per_step: {least} or more"
            )

    # ---- methods that are several nodes

    def expanded(self) -> Document:
        """The document with the nodes of every loop in its place. What is written for a loop goes to those of its nodes
        that have such a key: sampling to what makes, training to what trains."""
        document = self.document
        for name, keys in self.nodes.items():
            if self.kind_of(keys) == "loop" and (nodes := self.unrolled(name, keys)):
                document = document.with_nodes(name, nodes)
        self.raise_problems()
        return document

    def unrolled(self, name: str, keys: Mapping[str, Any]) -> dict[str, Any] | None:
        """The nodes of one loop by name, or None after a problem."""
        position, before = ("pipeline", name), len(self.problems)
        _, info = self.row(keys["method"], (*position, "method"), "loop")
        given = self.entries(keys, position, info, ANY)
        values = {key: value for key, (value, _) in given.items()}
        base = values.pop("init", self.document.data.get("model"))
        if base is None:
            self.problem(f"node {name!r} has no init", position, fix="init: ./model, or model: ./model at the top")
        arguments, _ = self.arguments(info, given, position)
        inputs = {key: values[key] if key == "task" else values.pop(key) for key in info.inputs if key in values}
        if "task" in info.inputs and self.document.data.get("task") is not None:
            inputs.setdefault("task", self.document.data["task"])
        loop = self.composed(info, inputs, arguments, (), position) if len(self.problems) == before else None
        if loop is None:
            return None
        nodes = loop.expanded(name, base, lambda node: self.kind_of(node) == "stage")
        taken = [node for node in nodes if node in self.nodes and node != name]
        if taken:
            return self._none(f"{name} makes a node {taken[0]}, which exists", position, fix="another name")
        shared = {key: value for key, value in values.items() if key in ANY}
        return {node: {**self._fitting(shared, own), **own} for node, own in nodes.items()}

    def _fitting(self, shared: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
        """Of the keys written for a loop, those that mean something for one of its nodes."""
        info = self.info_of(node)
        read = {"data": "data"} if "data" in node and "data" in info.inputs else {}
        idle = () if info.example(**read).samplers else fields.SAMPLING
        idle = (*idle, *(fields.READING if "data" not in node else ()))
        return {key: value for key, value in shared.items() if key in KEYS[info.kind] and key not in idle}

    def kind_of(self, node: Any) -> str | None:
        """What a node's method is (stage, make, loop); None where that cannot be said."""
        info = self.info_of(node)
        return info and info.kind

    def info_of(self, node: Any) -> Any:
        method = node.get("method") if isinstance(node, Mapping) else None
        if isinstance(method, str) and ":" in method and not is_object(method):
            name, _, function = method.partition(".py:")
            method = f"{self._absolute(name + '.py', ('pipeline',))}:{function}"
        elif not is_object(method) and method not in self.registry.names("stage", "make", "loop"):
            return None
        with contextlib.suppress(Exception):  # what is wrong with a file is said where the node is resolved
            return self.registry.get(method)
        return None

    # ---- functions

    def by_function(self, name: str, keys: Mapping[str, Any]) -> FunctionNode | None:
        position, before = ("pipeline", name), len(self.problems)
        place = (*position, "make")
        target = keys["make"]
        if not is_object(target) and (not isinstance(target, str) or ".py:" not in target):
            self.problem(f"make: {target!r} names no function", place, of="value", fix="make: ./prepare.py:function")
            return None
        target = self.path(target, place)
        if target is BAD:
            return None
        try:
            directory, *others = (
                parameter
                for parameter in inspect.signature(function_at(target), eval_str=True).parameters.values()
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            )
        except OffonError as error:
            self.problem(error.what, place, of="value", why=error.why, fix=error.fix)
            return None
        except ValueError:
            fix = "def function(directory, ...): write the artefact into directory"
            self.problem(f"{target} takes no directory to write to", place, of="value", fix=fix)
            return None
        parameters = {parameter.name: parameter for parameter in others}
        given = {key: (value, (*position, key)) for key, value in keys.items() if key != "make"}
        for key, (_, where) in given.items():
            if key not in parameters:
                takes = ", ".join(parameters) or "nothing"
                self.unknown(key, where, parameters, why=f"{target} names {takes} (**kwargs is not read)")
        if "seed" in parameters:
            given.setdefault("seed", (self.seed, ("seed",)))
        arguments, inputs = self._arguments(parameters, target, given, position)
        if len(self.problems) > before:
            return None
        origins = {key: RECIPE if key in keys else "the recipe's seed" if key == "seed" else ROW for key in arguments}
        return FunctionNode(
            name=name, function=target, arguments=arguments, inputs=tuple(inputs), origins=origins,
            place=self.document.place(position),
        )  # fmt: skip

    # ---- probe

    def probe(self, value: Any, nodes: list[Node | None]) -> tuple[Probe | None, dict[str, str]]:
        """How models are measured; `probe: false` measures nothing. Tasks default to all of the recipe's."""
        if value is False:
            return None, {}
        before = len(self.problems)
        given = {} if value is None else self.section(Probe, value, ("probe",))
        if given is BAD or len(self.problems) > before:
            return None, {}
        trained = [node.settings for node in nodes if isinstance(node, MethodNode)]
        if given.get("tasks") is None:
            tasks = [task for task in (self.default_task, *(settings.task for settings in trained)) if task is not None]
            defaults = {"tasks": _named(tasks)}
        elif isinstance(given["tasks"], Mapping) and given["tasks"]:
            given["tasks"] = {n: self.task(task, ("probe", "tasks", n)) for n, task in given["tasks"].items()}
            defaults = {}
        else:
            self.problem("probe.tasks maps names to tasks", ("probe", "tasks"), fix="tasks: {sums: gym:chain_sum}")
            return None, {}
        tasks = given.get("tasks") or defaults["tasks"]
        for index, name in enumerate(given.get("protected", ())):
            if name not in tasks:
                self._no_probe_task(name, ("probe", "protected", index), tasks)
        if given.get("shifted") is not None:
            given["shifted"] = self.shifted(given["shifted"], tasks)
        sampled = [n.settings.max_tokens for n in nodes if isinstance(n, MethodNode) and "max_tokens" in n.origins]
        if sampled:  # as long as the stages themselves sample
            defaults["max_tokens"] = max(sampled)
        probe = Probe(**{**defaults, **{key: value for key, value in given.items() if value is not None}})
        if probe.k > probe.samples:
            why = f"pass@{probe.k} cannot be estimated from {probe.samples} samples of a prompt"
            self.problem(f"k {probe.k} is more than samples {probe.samples}", ("probe", "k"), of="value", why=why)
        return probe, {f"probe.{f.name}": LIBRARY for f in dataclasses.fields(Probe) if f.name not in given}

    def shifted(self, value: Any, tasks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """{probe task: {name: task}} with the paths of the tasks resolved; every name stands for one task."""
        position, form = ("probe", "shifted"), "shifted: {sums: {longer: gym:chain_sum,max_terms=5}}"
        if not isinstance(value, Mapping) or not all(isinstance(versions, Mapping) for versions in value.values()):
            self.problem("probe.shifted maps probe tasks to named versions of them", position, of="value", fix=form)
            return {}
        found: dict[str, dict[str, Any]] = {}
        taken = set(tasks)
        for task, versions in value.items():
            if task not in tasks:
                self._no_probe_task(task, (*position, task), tasks)
            for name in versions:
                if name in taken:
                    self.problem(f"{name} names two probes", (*position, task, name), fix="another name")
                taken.add(name)
            found[task] = {name: self.task(spec, (*position, task, name)) for name, spec in versions.items()}
        return found

    def _no_probe_task(self, name: str, position: Keys, tasks: Mapping[str, Any]) -> None:
        fix = did_you_mean(name, tasks) or f"one of {', '.join(tasks) or 'none: name them under probe.tasks'}"
        self.problem(f"{name!r} is no probe task", position, of="value", fix=fix)


def _named(tasks: list[Any]) -> dict[str, Any]:
    """Distinct tasks by a short name: chain_sum for gym:chain_sum,max_terms=2."""
    named: dict[str, Any] = {}
    for task in tasks:
        if task in named.values():
            continue
        word = next(iter(task.values()), "") if isinstance(task, Mapping) else task
        word = word if isinstance(word, str) else getattr(task, "name", "task")
        base = re.split(r"[,]", word.rsplit("/", 1)[-1].split(":", 1)[-1])[0].removesuffix(".jsonl") or "task"
        name, n = base, 1
        while name in named:
            n += 1
            name = f"{base}-{n}"
        named[name] = task
    return named
