"""The documentation is what the rows say, and rows stay short."""

import inspect
import re
import statistics
import textwrap
from pathlib import Path

from offon.catalogue import page, registry
from offon.catalogue.families import FAMILIES

DOCS = Path(__file__).parents[2] / "docs" / "methods"


def test_the_pages_are_generated_from_the_rows():
    written = {path.name: path.read_text() for path in DOCS.glob("*.md")}
    assert written == page.pages(), "run: python -m offon.catalogue.page docs/methods"


def test_every_method_has_a_family_of_the_survey_with_its_tendencies():
    for info in registry.catalogue():
        assert FAMILIES[info.family].strength and FAMILIES[info.family].handoff_risk, info.name


def test_pages_say_how_a_method_is_named_what_has_to_be_given_and_what_waits():
    written = page.pages()
    text = "".join(written.values())
    assert "_empty" not in text and "- `model`: has to be given" in written["reward-source.md"]
    assert page.KINDS["modifier"].format("tis") in text
    waiting = (
        "Cross-tokenizer",
        "GRAO",
        "HiPO",
        "StepHint",
        "S2R",
        "ReST-MCTS",
        "TDPO",
        "VAPO",
        "RLPR",
        "GiGPO",
        "WARP",
    )
    assert all(name in written["README.md"] for name in (*waiting, "GAD", "TemplateRL"))


def test_every_page_says_what_to_watch_how_it_fails_and_where_it_deviates():
    for info in registry.catalogue():
        missing = [word for word in ("watch", "fails", "deviation") if word not in info.doc.lower()]
        assert not missing, f"{info.name} does not say: {missing}"
        assert info.paper, info.name


def test_the_readme_names_every_method_and_only_pages_that_are_there():
    readme = (DOCS.parents[1] / "README.md").read_text()
    named = set(re.findall(r"[a-z_]+", readme))
    assert {info.name for info in registry.catalogue()} <= named
    links = re.findall(r"\]\((docs/[^)]+)\)", readme)
    assert [link for link in links if not (DOCS.parents[1] / link).exists()] == []


def code_lines(info):
    """Lines of a row without its docstring, decorator and blank lines: how long the composition itself is."""
    source = textwrap.dedent(inspect.getsource(info.function))
    body = source[source.index("def ") :].replace(f'"""{info.function.__doc__}"""', "")
    return sum(bool(line.strip()) for line in body.splitlines())


def test_no_row_is_longer_than_a_screen_of_thought():
    lengths = {info.name: code_lines(info) for info in registry.catalogue()}
    assert statistics.median(lengths.values()) <= 12 and max(lengths.values()) <= 40, lengths
