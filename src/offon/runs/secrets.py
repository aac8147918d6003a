"""Keep secrets out of everything a run writes down.

Three nets, from sure to likely: the values of this process's own secret-looking environment variables, wherever they
appear; text in the shape of a known credential; and the value of any field whose name says it is a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "[redacted]"

_SECRET_WORD = (
    r"(?:token|secret|passwords?|passwd|passphrase|credentials?|authorization|api_?key|access_?key|private_?key)"
)
_SECRET_NAME = re.compile(rf"(?i)(?:^|[_\-. ]){_SECRET_WORD}(?:_?id)?$|[_\-]key$")
# Names that end in "token" and hold a piece of vocabulary, not a credential.
_VOCABULARY = re.compile(
    r"(?i)(?:^|[_\-.])(?:bos|eos|pad|unk|sep|cls|mask|stop|image|decoder_start|per|max)[_\-]token(?:_?id)?$"
)
_CREDENTIAL = re.compile(
    r"hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_\-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w\-]{16,}"
    r"|AKIA[0-9A-Z]{16}|xox[abprs]-[\w\-]{10,}|(?<=Bearer )[\w\-.=]{8,}|(?<=:/)/?[^\s/:@]+:[^\s/@]+(?=@)"
)
_ASSIGNED = re.compile(
    rf"(?im)(?P<name>[\w\-]*{_SECRET_WORD}|\b[\w\-]*[_\-]key)(?P<equals>[\"']?[ \t]*[:=][ \t]*|[ \t]+(?=[^\s:=]))"
    r"(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\s,}&\"']+)"
)


def is_secret_name(name: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not _VOCABULARY.search(name)


def _from_environment() -> list[str]:
    values = {value for name, value in os.environ.items() if is_secret_name(name) and len(value) >= 8}
    return sorted(values, key=len, reverse=True)


def redact_text(text: str) -> str:
    """A text (YAML, a command line, an error) with every secret replaced; everything else unchanged."""
    for value in _from_environment():
        text = text.replace(value, HIDDEN)
    text = _CREDENTIAL.sub(HIDDEN, text)

    def hide(match: re.Match) -> str:
        named = match["equals"].strip(" \"'") or match["name"].startswith("--")
        if not named or not is_secret_name(match["name"].lstrip("-")):
            return match[0]
        return f"{match['name']}{match['equals']}{HIDDEN}"

    return _ASSIGNED.sub(hide, text)


def redact(value: Any, name: str = "") -> Any:
    """A JSON value with every secret replaced, by the name of its field or by its own look."""
    if isinstance(value, Mapping):
        return {key: redact(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(inner, name) for inner in value]
    if isinstance(value, str):
        return HIDDEN if value and is_secret_name(name) else redact_text(value)
    return value
