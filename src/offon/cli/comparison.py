"""What `offon compare` prints: the change in one sentence, what it consists of, and what could not be measured."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from offon.behavior.change.applicability import in_words
from offon.cli.output import table
from offon.reporting import metrics
from offon.reporting.words import is_nothing, negated, percent

WIDTH = 110
PROMPTS = 8  # gained or lost prompts shown
BRANCHES = 14  # lines of the tree
STEPS = {
    "expansion": "new steps", "shared": "steps kept", "diffuse": "rare steps", "harmful": "good steps lost",
    "pruning": "bad steps lost",
}  # fmt: skip
MANY = 1e6  # tries that are as good as never
TERMS = ("expansion", "reshaping", "attrition", "diffuse")
HEADS = (
    "prompts", "before", "after", "change", "expanded", "reshaped", "lost", "diffuse", "gained prompts", "lost prompts"
)  # fmt: skip


def comparison_page(compared: Mapping[str, Any]) -> str:
    """The sentence, D1 by family, the prompts gained and lost, the other instruments, one prompt's tree, the cost."""
    if not compared.get("sampled", True):
        return "\n".join(_wrapped(f"{compared['before_model']} and {compared['after_model']}: {compared['sentence']}"))
    blocks = [
        [
            f"{compared['before_model']} -> {compared['after_model']} on {compared['task']}",
            *_wrapped(_headline(compared)),
        ],
        [*_wrapped(_legend(compared["k"])), "", table(HEADS, _rows(compared))],
        [line for call in ("gained", "lost") for line in _prompts(compared["prompts"], call)],
        _grains(compared),
        [*metrics.lines(compared), *_places(compared)],
        _tree(compared.get("tree"), compared["prompts"]),
        _cost(compared),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _headline(compared: Mapping[str, Any]) -> str:
    same = "The weights are the same. " if compared["same_weights"] else ""
    return same + compared["sentence"]


def _legend(k: int) -> str:
    return (
        f"Within reach: {k} rollouts show a success with 95% probability. Expanded: gained on prompts out of reach "
        "before; reshaped: gained or given up within reach both times; lost: given up on prompts out of reach now; "
        "diffuse: out of reach both times. In points of success, with 95% intervals; they add up to the change."
    )


def _rows(compared: Mapping[str, Any]) -> list[list[str]]:
    parts = [(compared["task"], compared), *compared.get("families", {}).items()]
    return [
        [
            name,
            *(percent(part[when]["success"]["estimate"]) for when in ("before", "after")),
            points(part["d1"]["total"]),
            *_terms(part["d1"]["soft"]),
            part["calls"]["gained"],
            part["calls"]["lost"],
        ]
        for name, part in parts
    ]


def _terms(soft: Mapping[str, Any]) -> list[str]:
    return [points(negated(soft[term]) if term == "attrition" else soft[term]) for term in TERMS]


def _prompts(prompts: Sequence[Mapping[str, Any]], call: str) -> list[str]:
    named = [prompt for prompt in prompts if prompt["call"] == call]
    lines = []
    for prompt in named[:PROMPTS]:
        counts = " -> ".join(f"{c}/{n}" for c, n in (prompt["before"], prompt["after"]))
        bounds = prompt.get("k_to_solve", {})
        tries = " -> ".join(map(_tries, bounds.values()))
        tries_in_words = f"tries until a success: {tries}  " if bounds else ""
        lines.append(f"{call:6}  {counts}  {tries_in_words}{_shown(_distinct_part(prompt['prompt'], prompts), 60)}")
    return lines + ([f"        and {len(named) - PROMPTS} more"] if len(named) > PROMPTS else [])


def _distinct_part(text: str, prompts: Sequence[Mapping[str, Any]]) -> str:
    """A prompt without the words that all prompts begin with."""
    common = os.path.commonprefix([prompt["prompt"] for prompt in prompts]) if len(prompts) > 1 else ""
    start = max(common.rfind(" "), common.rfind("\n")) + 1
    return f"...{text[start:]}" if start > len("...") else text


def _shown(text: str, width: int) -> str:
    """A model's or a user's text in one line, without what a terminal would act on."""
    plain = "".join(c if c.isprintable() else "\\n" if c == "\n" else "?" for c in text)
    return plain if len(plain) <= width else plain[: width - 3] + "..."


def _counted(prompts: int) -> str:
    return "prompt" if prompts == 1 else f"{prompts} prompts"


def _tries(bounds: Sequence[float | None]) -> str:
    fewest, most = bounds
    if most is None or most > MANY:
        return f"{fewest:,.0f} or more"
    low, high = f"{fewest:,.3g}" if fewest < 10 else f"{fewest:,.0f}", f"{most:,.3g}" if most < 10 else f"{most:,.0f}"
    return low if low == high else f"{low} to {high}"


def _grains(compared: Mapping[str, Any]) -> list[str]:
    """The same change at other grains."""
    rows = []
    if classes := compared.get("classes"):
        rows.append(["answer" if classes["map"] == "answer" else "route and answer", *_terms(classes["d1"]["soft"])])
    if trajectories := compared.get("trajectories"):
        d1, nothing = trajectories["d1"], "exactly 0" if compared["same_weights"] else "0"
        terms = (d1["expansion"], d1["reshaping"], negated(d1["attrition"]))
        rows.append([f"response, x{trajectories['factor']:.0f}", *(points(est, nothing) for est in terms), "-"])
    if not rows:
        return []
    rows = [["prompt", *_terms(compared["d1"]["soft"])], *rows]
    return [table(("the same change by", "expanded", "reshaped", "lost", "diffuse"), rows)]


def _places(compared: Mapping[str, Any]) -> list[str]:
    """Where the change lies, and what is known exactly."""
    lines, classes, trajectories = [], compared.get("classes", {}), compared.get("trajectories", {})
    if (surface := classes.get("surface")) and not is_nothing(surface):
        known = "answers" if classes["map"] == "answer" else "answers by routes"
        lines.append(f"success by new responses with {known} that were within reach before: {points(surface)}")
    if passage := trajectories.get("first_passage"):
        low, high = passage["quartiles"]
        lines.append(
            f"responses after that are {trajectories['factor']:.0f} times likelier than before become so at token "
            f"{passage['median_token']:.0f} (half of them at {low:.0f} to {high:.0f}), at the first token in "
            f"{percent(passage['share_at_first_token']['estimate'])}"
        )
    if where := compared.get("where"):
        parts = [points(where[name]) for name in ("prefix", "suffix", "interaction")]
        lines.append(
            f"where, on the {_counted(where['prompts'])} that {where['way']} most: {where['cut']} {parts[0]}, the rest "
            f"{parts[1]} (interaction {parts[2]})"
        )
    if exact := compared.get("exact"):
        edges = exact["edges"]
        lines.append(
            f"exact, {exact['prompts']} prompts: {edges['expansion']} steps came into reach, {edges['shared']} stayed, "
            f"{edges['attrition']} left; the steps within reach hold half of all responses up to token "
            f"{_covered(exact)} of {exact['horizon']}"
        )
        if d2 := exact["d2"]:
            terms = ", ".join(f"{STEPS[name]} {100 * value:+.1f}" for name, value in d2.items() if name in STEPS)
            lines.append(f"exact, by step: {100 * d2['total']:+.1f} = {terms}")
    if settled := _settled(compared["prompts"]):
        lines.append(settled)
    return [line for one in lines for line in _wrapped(one, "  ")]


def _settled(prompts: Sequence[Mapping[str, Any]]) -> str:
    """What known responses say of prompts that counts leave undecided."""
    undecided = [prompt for prompt in prompts if prompt["call"] == "undecided" and "support" in prompt]
    names = {("OUT", "IN"): "gained", ("IN", "OUT"): "lost", ("IN", "IN"): "kept", ("OUT", "OUT"): "never"}
    n_by_change = Counter(names.get((p["support"]["before"], p["support"]["after"])) for p in undecided)
    changes = [f"{n_by_change[name]} {name}" for name in names.values() if n_by_change[name]]
    if not changes:
        return ""
    sure = f"{len(undecided) - n_by_change[None]} of {len(undecided)} undecided prompts"
    return f"what is known of single responses settles {sure}: {', '.join(changes)}"


def _covered(exact: Mapping[str, Any]) -> int:
    """The depth to which both checkpoints keep half of their responses within what was enumerated."""
    both = zip(exact["coverage"]["before"], exact["coverage"]["after"], strict=True)
    return sum(min(pair) >= 0.5 for pair in both)


def _tree(tree: Mapping[str, Any] | None, prompts: Sequence[Mapping[str, Any]]) -> list[str]:
    if tree is None:
        return []
    nodes, shown = tree["nodes"], _largest(tree["nodes"])
    rows = []
    for index in _depth_first(nodes):
        if index in shown:
            node = nodes[index]
            ending = {True: "right", False: "wrong", None: "ends"}[node["right"]] if node["ends"] else ""
            word = "  " * _level(nodes, index) + (_shown(node["token"], 40).strip() or repr(node["token"]))
            rows.append([word, percent(node["before"]), percent(node["after"]), node["cell"], ending])
    head = (f"branches of {_shown(_distinct_part(tree['prompt'], prompts), 50)!r}", "before", "after", "", "")
    rest = [percent(tree["residual"][when]) for when in ("before", "after")]
    if len(shown) < len(nodes):
        rows.append([f"({len(nodes) - len(shown)} smaller branches in --json)", "", "", "", ""])
    rows.append(["(responses that end in none of the branches)", *rest, "", ""])
    return [table(head, rows, widest=50), f"id {tree['prompt_id']}: {tree['why']}; {tree['source']}"]


def _largest(nodes: Sequence[Mapping[str, Any]]) -> set[int]:
    """The branches that are reached most, and so are their parents."""
    order = sorted(range(len(nodes)), key=lambda i: -max(nodes[i]["before"], nodes[i]["after"]))
    return set(order[:BRANCHES])


def _level(nodes: Sequence[Mapping[str, Any]], index: int) -> int:
    above = nodes[index]["parent"]
    return 0 if above < 0 else 1 + _level(nodes, above)


def _depth_first(nodes: Sequence[Mapping[str, Any]]) -> list[int]:
    """Nodes so that what follows one stands below it."""
    below: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        below.setdefault(node["parent"], []).append(index)
    order, stack = [], list(reversed(below.get(-1, [])))
    while stack:
        order.append(stack.pop())
        stack += reversed(below.get(order[-1], []))
    return order


def _cost(compared: Mapping[str, Any]) -> list[str]:
    cost = compared["cost"]
    spent = (
        f"cost: {cost['tokens_generated']:,} tokens generated, {cost['tokens_scored']:,} scored, "
        f"{cost['evaluations']:,} evaluations, {cost['seconds']:.0f} s"
    )
    notes = [f"note: {note}" for note in (compared["d1"]["note"], *compared.get("notes", [])) if note]
    return [line for one in (in_words(compared["instruments"]), spent, *notes) for line in _wrapped(one, "  ")]


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def points(est: Mapping[str, float], nothing: str = "0") -> str:
    """+1.2 [-0.3, +2.7], or what to say where there is nothing and no interval."""
    if all(value == 0 for value in est.values()):
        return nothing
    shown = [f"{100 * est[name]:+.1f}" for name in ("estimate", "low", "high")]
    return "{} [{}, {}]".format(*("0.0" if text in ("+0.0", "-0.0") else text for text in shown))
