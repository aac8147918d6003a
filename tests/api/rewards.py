"""A reward function that a test hands over and names by this file, which imports nothing: a worker loads it at once."""


def wanted(prompts, completions, wanted, **columns):
    """The share of a response's words that are wanted."""
    asked = zip(completions, wanted, strict=True)
    return [text.split().count(word) / max(1, len(text.split())) for text, word in asked]
