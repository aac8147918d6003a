"""The documentation is what the rows say, and rows stay short."""

from pathlib import Path

from offon.methods import page, registry

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"


def test_the_page_is_generated_from_the_rows():
    assert DOCS.read_text() == page.catalogue(), "run: python -m offon.methods.page > docs/methods.md"


def test_no_row_is_longer_than_a_screen_of_thought():
    lengths = {name: page.code_lines(registry.get(name)) for name in registry.names()}
    assert max(lengths.values()) <= 15, lengths
