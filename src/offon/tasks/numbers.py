"""Numbers as people and models write them, read exactly.

    -$1,234.50   $-500   −5   - 5   1{,}000   1\\,000   1 000   1_000   1,00,000   .5   1.5e3   2^{10}
    1.5 \\times 10^3   3/4   \\frac{-3}{4}   \\frac34   2\\frac{1}{2}   2 1/2   2½   50\\%   25\\text{ cm}^2   25 m²
    90^\\circ   5 million

A text is first made plain (`plain`): typography and LaTeX become ASCII. Every number in it is then looked at with its
surroundings: one that is a piece of a longer expression (`\\sqrt{2}`, `3\\pi`, `x^2`, `3 + 4`, `5!`, `10:30`, `> 5`) is
no plain number, and is never read as its last digits. A sign is never lost: a dash before a number is its sign unless
an operand stands before the dash.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from offon.tasks.marks import closing_brace

RELATIVE_TOLERANCE = Fraction(1, 10**6)
THIN = "\u2009"
LONGEST_PART = 80  # characters of a numerator; bounds how deep fractions nest

DASHES = str.maketrans(dict.fromkeys("\u2212\u2010\u2011\u2012\ufe63\uff0d\u2796", "-"))
SPACES = str.maketrans(dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u200a\u202f\u205f\u3000", THIN))
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}

# --- the plain form ---------------------------------------------------------------------------------------------

_WORDS = (
    r"text(?:bf|it|rm|tt|sf|normal|sc|up)?|math(?:rm|bf|it|sf|tt|bb|cal)|mbox|hbox|operatorname\*?|emph|underline|bm"
)
_REPLACED = [
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|rm|bf|it|large|Large|huge)(?![A-Za-z])\.?", ""),
    (r"\\!|\{\}", ""),
    (r"\{,\}", ","),
    (r"\{\s*([-+])\s*\}", r"\1"),
    (r"\\(?:[,;:> ]|thinspace|enspace|nobreakspace)|(?<=[\w}])~(?=[\w{])|(?<=\d)&nbsp;(?=\d)", THIN),
    (r"\\q?quad(?![A-Za-z])", "  "),
    (r"\\(?:checkmark|blacksquare|square|[lc]?dots|Box|qed)(?![A-Za-z])", " "),
    (r"(?:\^\s*\{?\s*)?\\(?:circ|degree)(?![A-Za-z])\s*\}?|°", " degrees "),
    (r"\\(?:percent)(?![A-Za-z])", "%"),
    (r"\\(?:times|cdot|ast|star)(?![A-Za-z])|[×·⋅∗]", "*"),
    (r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))", "*"),
    (r"\\div(?![A-Za-z])|[÷⁄∕]", "/"),
    (
        r"\\(?:approx|sim|simeq|equiv|to|rightarrow|[Rr]ightarrow|implies|therefore|thus|longrightarrow|cong|colon)"
        r"(?![A-Za-z])|[≈≡→⇒∴≅]|[=-]{1,8}>|:=|~(?=\s*[-+$]?\d)",
        " = ",
    ),
    (r"\\(?:le|leq|ge|geq|lt|gt|ne|neq|pm|mp|leqslant|geqslant)(?![A-Za-z])|[±∓≤≥≠]", " ± "),
    (r"\\([$#&_])|\\(?:textdollar|pounds|euro|yen)(?![A-Za-z])|[$€£¥₹₽₩₿¢]", r" "),
    (r"\b(?:USD?|EUR|GBP|JPY|CNY|INR|CHF|CAD|AUD|Rs\.?) ?(?=[\d-])", " "),
    (r"\\%", "%"),
    (r"(?i)\b(?:minus|negative)\s+(?=[\d.$])", " - "),
    (r"\\[\[\]()]", " "),
    (r"</?[A-Za-z][^<>\n]*>", " "),
]
REPLACED = [(re.compile(pattern), new) for pattern, new in _REPLACED]
TEXT = re.compile(rf"\\(?:{_WORDS})\s*\{{((?:[^{{}}\\]|\\.)*)\}}")
EMPHASIS = re.compile(r"(?<![\w)}*])(\*{1,3})(?=\S)([^*\n]*?\S)\1(?![\w({*])|[`]")
POWER_STARS = re.compile(r"(?<=\d)\s?\*\*\s?(?=[-\d(])")
FRACTION = re.compile(r"\\[dtc]?frac\s*")


def plain(text: str) -> str:
    """The text in ASCII mathematics: braces are brackets, currency and math delimiters are spaces."""
    if not text.isascii():
        text = _ascii_digits(text).translate(DASHES).translate(SPACES)
        text = re.sub(r"(?<=\w)\s+[–—―]\s+(?=\S)|(?<=[A-Za-z])[—―](?=\S)", " ; ", text)  # a dash between words
        text = re.sub(r"[–—―]", "-", text)
        text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda match: f"^({match[0].translate(SUPERSCRIPTS)})", text)
    for _ in range(3):  # \text within \text
        text, n = TEXT.subn(_unwrapped, text)
        if not n:
            break
    text = POWER_STARS.sub("^", text)
    for pattern, new in REPLACED:
        text = pattern.sub(new, text)
    text = EMPHASIS.sub(lambda match: match[2] or "", text)
    text = _fractions(text)
    return text.replace("\\{", "(").replace("\\}", ")").replace("{", "(").replace("}", ")")


def _unwrapped(match: re.Match) -> str:
    """What \\text holds: numbers and the words between answers are kept, any other word is a unit."""
    inner = match[1]
    if re.search(r"\d", inner) or re.fullmatch(r"[-\s]*|\W*(?:or|and|to)\W*", inner) or inner.strip().lower() in SCALES:
        return f" {inner} "
    return " unit " if re.search(r"[A-Za-z]", inner) else inner


def _ascii_digits(text: str) -> str:
    """Digits of other scripts as 0-9; ½ as 1/2, apart from a digit before it."""

    def one(character: str) -> str:
        if character.isascii():
            return character
        if unicodedata.decimal(character, None) is not None:
            return str(unicodedata.decimal(character))
        if unicodedata.decomposition(character).startswith("<fraction>"):
            numerator, _, denominator = unicodedata.normalize("NFKC", character).partition("\u2044")
            return f" {numerator}/{denominator}" if denominator else character
        return {"\uff0c": ",", "\uff0e": ".", "\uff05": "%"}.get(character, character)

    return "".join(map(one, text))


def _fractions(text: str) -> str:
    """\\frac{a}{b} of two plain numbers as " a/b", reduced; \\frac34 and \\frac{3}4 too. Others stay."""
    done, start = [], 0
    while match := FRACTION.search(text, start):
        done.append(text[start : match.start()])
        start = match.end()
        numerator, middle = _argument(text, start)
        denominator, end = _argument(text, middle)
        values = [_only(part) if len(part) <= LONGEST_PART else None for part in (numerator, denominator)]
        if None in values or not values[1]:
            done.append("\\frac ")
            continue
        value = values[0] / values[1]
        done.append(f" {value.numerator}/{value.denominator}" + " " * text[end : end + 1].isdigit())
        start = end
    return "".join(done) + text[start:]


def _argument(text: str, start: int) -> tuple[str, int]:
    """TeX's next argument from `start`, and where it ends: {..}, or one character."""
    start = re.compile(r"\s*").match(text, start).end()
    end = closing_brace(text, start, LONGEST_PART)
    return (text[start + 1 : end], end + 1) if end is not None else (text[start : start + 1], start + 1)


def _only(text: str) -> Fraction | None:
    number = whole_number(text)
    return None if number is None else number.value


# --- numbers in a plain text ------------------------------------------------------------------------------------

# At most 40 digits before and after the point and 3 in an exponent: bounded work for any input.
_GROUPED = "|".join(
    [
        r"\d{1,3}(?:,\d{3}){1,13}(?!\d)",
        r"\d{1,2}(?:,\d{2}){1,12},\d{3}(?!\d)",  # 1,00,000
        rf"\d{{1,3}}(?:['’_{THIN}]\d{{3}}){{1,13}}(?!\d)",
        r"(?<!\d )[1-9]\d{0,2}(?: \d{3}){1,13}(?! ?\d)",
    ]
)
_DIGITS = rf"(?:{_GROUPED}|\d{{1,40}})"
_EUROPEAN = r"\d{1,3}(?:\.\d{3}){2,12}(?:,\d{1,2})?(?![\d.])|\d{1,3}\.\d{3},\d{1,2}(?![\d.,])"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d{{1,40}})?|(?<![\dA-Za-z])\.\d{{1,40}})(?:[eE][-+]?\d{{1,3}}(?!\d))?(?!\d)"
_EXPONENT = r"\s?\^\s?(?:\(\s?(?P<{0}>[-+]?\s?\d{{1,3}})\s?\)|(?P<{0}_>-?\d{{1,3}}))(?!\d)"
NUMBER = re.compile(
    r"(?<!\d)(?:"
    rf"(?P<european>{_EUROPEAN})"
    rf"|(?P<whole>\d{{1,40}})[\s{THIN}]*(?<!\d)(?P<over>\d{{1,9}})\s?/\s?(?P<under>\d{{1,9}})(?![\d/])(?!\.\d)"
    rf"|(?P<head>{_DECIMAL})"
    rf"(?:\s*\*\s*\(?10{_EXPONENT.format('tens')}\)?|{_EXPONENT.format('power')}|\s?/\s?(?P<denominator>{_DECIMAL}))?)"
)
LARGEST_POWER = 4000  # digits
WINDOW = 80  # characters before a number that say what it is a piece of
UNITS = frozenset(
    [
        "cm",
        "mm",
        "km",
        "nm",
        "dm",
        "in",
        "ft",
        "yd",
        "mi",
        "kg",
        "mg",
        "lb",
        "oz",
        "ml",
        "mL",
        "cl",
        "dl",
        "hr",
        "hrs",
        "min",
        "sec",
        "ms",
        "ns",
        "hz",
        "Hz",
        "kW",
        "kJ",
        "Pa",
        "mol",
        "am",
        "pm",
        "st",
        "nd",
        "rd",
        "th",
        "ha",
        "cc",
        "pt",
        "pts",
        "px",
        "mph",
        "kmh",
        "rpm",
        "deg",
        "rad",
    ]
)
LETTER_UNITS = frozenset("mgshlLNJWVAKCFkM")
FUNCTIONS = frozenset(["sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "pi", "mod", "choose"])


@dataclass(frozen=True)
class Number:
    """A plain number: as written, and what one of its units is: 1/100 for per cent, 10^6 for million, else 1."""

    value: Fraction
    unit: Fraction = Fraction(1)

    def equals(self, other: Number) -> bool:
        """To a relative 1e-6, integers exactly. 50% is 50% and 0.5, and 50 where the other one has no unit."""
        if self.unit == other.unit:
            return close(self.value, other.value)
        scaled = close(self.value * self.unit, other.value * other.unit)
        return scaled or (1 in (self.unit, other.unit) and close(self.value, other.value))


def close(given: Fraction, wanted: Fraction) -> bool:
    if given.denominator == wanted.denominator == 1:
        return given == wanted
    return abs(given - wanted) <= RELATIVE_TOLERANCE * abs(wanted)


@dataclass(frozen=True)
class Candidate:
    """A number in a text and where: `number` is None where it is a piece of a longer expression."""

    start: int
    end: int
    number: Number | None


def candidates(text: str, *, strict: bool = False) -> list[Candidate]:
    """The numbers of a plain text, in order. strict: a letter after a number is a variable, as in formulas."""
    bullets = len(BULLET.findall(text)) > 1
    given: list[Candidate] = []
    for match in NUMBER.finditer(text):
        in_unit = given and match.start() < given[-1].end  # the 2 of cm^2
        if not in_unit and not _in_word(text, match):
            given.append(_candidate(text, match, strict, bullets))
    return given


BULLET = re.compile(r"^[ \t]*[-+*][ \t]+(?=\S)", re.MULTILINE)
SIGNS = re.compile(r"(?:[-+](?P<gap>\s*)\(*\s*)+$")
WORD_BEFORE = re.compile(r"[A-Za-z][\w']*$")
TIED_BEFORE = re.compile(r"(?:[*/^_√∛∜∑∫±<>|·∞π]|\\[A-Za-z]+|[A-Za-z\d)]\(|_\(?\w+\)?\s)[\s(]*$|\d[.:]$")
TIED_AFTER = re.compile(
    r"\s*(?:\^|\\[A-Za-z]|√|π|∞|±|[<>|]\s*\S)|_|\(|/\S|[.:]\d|"
    r"\s*[-+*/]\s*\(*(?:[A-Za-z](?![A-Za-z])|\\[A-Za-z]|\d|√|π)|\s*\*\s*\("
)


def _in_word(text: str, match: re.Match) -> bool:
    """a1, H2O, x_1: digits that belong to a name."""
    before = text[max(0, match.start() - 1) : match.start()]
    return (
        before.isalpha() or before == "_" or (before == "." and match.start() > 1 and text[match.start() - 2].isdigit())
    )


def _candidate(text: str, match: re.Match, strict: bool, bullets: bool) -> Candidate:
    value = _magnitude(match)
    sign, start, tied = _sign(text, match.start(), bullets)
    unit, end, varied = _unit(text, match.end(), strict)
    line = text[max(0, start - WINDOW) : start]
    tied |= varied or bool(TIED_BEFORE.search(_unbulleted(line))) or bool(TIED_AFTER.match(text, end))
    if text.startswith("!", match.end()):  # a factorial, unless a sentence ends
        tied |= strict or not re.search(r"[A-Za-z]{2}", text[max(0, start - WINDOW) : start])
    number = None if tied or value is None else Number(sign * value, unit)
    return Candidate(start, end, number)


def _unbulleted(line: str) -> str:
    """The text before a number, without the mark of a list or a quotation at the start of its line."""
    return re.sub(r"(^|\n)[ \t]*[*>]+[ \t]*$", r"\1", line)


def _magnitude(match: re.Match) -> Fraction | None:
    if match["european"]:
        return Fraction(match["european"].replace(".", "").replace(",", "."))
    if match["whole"]:
        over, under = int(match["over"]), int(match["under"])
        return int(match["whole"]) + Fraction(over, under) if 0 < over < under else None
    head = _decimal(match["head"])
    if tens := match["tens"] or match["tens_"]:
        return head * Fraction(10) ** int(tens.replace(" ", ""))
    if power := match["power"] or match["power_"]:
        exponent = int(power.replace(" ", ""))
        small = abs(exponent) * len(match["head"]) <= LARGEST_POWER
        return head**exponent if small and (head or exponent > 0) else None
    if match["denominator"]:
        under = _decimal(match["denominator"])
        return head / under if under else None
    return head


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(rf"[,'’_{THIN} ]", "", text))


def _sign(text: str, start: int, bullets: bool) -> tuple[int, int, bool]:
    """(sign, where it starts, whether the dash is a difference with what stands before)."""
    signs = SIGNS.search(text, max(0, start - 20), start)
    if not signs:
        return 1, start, False
    sign = -1 if signs[0].count("-") % 2 else 1
    before = text[max(0, start - WINDOW) : signs.start()]
    if bullets and signs["gap"] and re.search(r"(?:^|\n)[ \t]*$", before):
        return 1, start, False
    operand = before.rstrip()
    apart, spaced = operand != before, bool(signs["gap"])
    if not re.search(r"[\w)!%\]]$", operand) or (apart and not spaced):
        return sign, signs.start(), False
    if word := WORD_BEFORE.search(operand[-40:]):
        if len(word[0]) > 1 and "\\" not in operand[-41:]:
            return (sign, signs.start(), False) if apart else (1, start, False)
        return sign, signs.start(), True
    attached_range = re.search(r"\d$", operand) and not apart and signs[0].strip() == "-"
    return 1, start, not attached_range


def _unit(text: str, end: int, strict: bool) -> tuple[Fraction, int, bool]:
    """(what one unit is, where the number with its unit ends, whether a variable is attached)."""
    if percent := re.compile(r"\s?\)?\s?(?:%|per ?cent\b)").match(text, end):
        return Fraction(1, 100), percent.end(), text[percent.end() : percent.end() + 1].isalpha()
    match = re.compile(rf"(?P<gap>[ {THIN}]{{0,3}})(?P<word>[A-Za-zµμΩ]+)(?P<index>\d(?!\d))?").match(text, end)
    if not match:
        return Fraction(1), end, False
    word, spaced = match["word"], bool(match["gap"])
    if word in ("or", "and", "to", "is", "are"):
        return Fraction(1), end, False
    if word.lower() in SCALES:
        return Fraction(SCALES[word.lower()]), match.end(), False
    if word in FUNCTIONS:
        return Fraction(1), match.end(), True
    if len(word) == 1:
        varied = (
            word in "xyzn" or (strict and word not in LETTER_UNITS) if spaced else strict or word not in LETTER_UNITS
        )
    else:
        varied = strict and not spaced and len(word) == 2 and word not in UNITS
    power = re.compile(r"\s?\^\s?\(?\s?-?\d\s?\)?|[/*][A-Za-z]+(?:\^\(?-?\d\)?|\d(?!\d))?")
    stop = match.end()
    while more := power.match(text, stop):
        stop = more.end()
    return Fraction(1), stop, varied


# --- which number a text gives -----------------------------------------------------------------------------------

SYMBOLS = re.compile(r"\\[A-Za-z]|[∞π√∛]")  # what no plain number has beside it: (-\infty, 3]
MOST_NUMBERS = 20  # that one answer is written with: an equation's
TAIL = 2000  # characters in which the last number is looked for first, and the most that one answer has
NEXT_ANSWER = re.compile(r"[,;\n]|\b(?:or|and)\b|&")


def whole_number(text: str, *, strict: bool = False) -> Number | None:
    """The one plain number that a text is, words around it aside; None where it is none or several.

    Of an equation it is the last side: "3 + 4 = 7" and "x = 7" are 7.
    """
    if len(text) > TAIL:
        return None
    given = plain(text)
    numbers = candidates(given, strict=strict)
    if len(numbers) > MOST_NUMBERS:
        return None
    last_sides = [one for one in numbers if "=" not in NEXT_ANSWER.split(given[one.end :], maxsplit=1)[0]]
    kept = last_sides or numbers
    values = [one.number for one in kept]
    if not values or None in values or any(not values[0].equals(value) for value in values):
        return None
    rest = given[max(given.rfind("=", 0, kept[0].start), 0) :] if last_sides else given
    several = len(kept) > 1 and NEXT_ANSWER.search(given, kept[0].end, kept[-1].start)  # (3, 3) is no 3
    return None if several or SYMBOLS.search(rest) else values[0]


def final_number(text: str) -> Number | None:
    """The last number of a text; None where there is none, or it is a piece of a longer expression."""
    given = plain(text)
    numbers = candidates(given[-TAIL:])
    if len(given) > TAIL and (not numbers or numbers[-1].start < WINDOW):  # none, or perhaps cut
        numbers = candidates(given)
    return numbers[-1].number if numbers else None


FILLERS = re.compile(
    r"[\s(=:*]*(?:(?:therefore|thus|then|hence|simply|just|exactly|about|approximately|roughly|around|equal to|option|"
    r"choice|number|a total of|the|value|of|[A-Za-z]\s*=)[\s(=:*]*)*[-+\s(]*",
    re.IGNORECASE,
)
ALSO = re.compile(r"\)?\s*(?:[A-Za-z]+\s+){0,2}(?:,|or|and|to|-)\s*$", re.IGNORECASE)


def stated_number(text: str) -> Number | None:
    """The number that a sentence states after "the answer is": the one that follows at once ("5, since 2 + 3 = 5"), the
    last side of an equation, else the sentence's last. None where it states several ("5 or 6") or an expression."""
    given = plain(text)
    numbers = candidates(given[:TAIL])
    if not numbers:
        return None
    if FILLERS.match(given).end() < numbers[0].start:
        return numbers[-1].number
    for one, other in zip(numbers, [*numbers[1:], None], strict=True):
        between = given[one.end : other.start][:WINDOW] if other else ""
        if other and not NEXT_ANSWER.search(between) and re.fullmatch(r"[^A-Za-z]*[-+*/=][^A-Za-z]*", between):
            continue  # the same expression goes on
        several = other and ALSO.fullmatch(between) and not _same(one, other)
        return None if several else one.number
    return None


def _same(one: Candidate, other: Candidate) -> bool:
    return one.number is not None and other.number is not None and one.number.equals(other.number)


def mentions(text: str, wanted: Sequence[Number]) -> bool:
    """Whether one of the numbers stands anywhere in a text as a whole number."""
    there = [one.number for one in candidates(plain(text)) if one.number is not None]
    return any(number.equals(want) for number in there for want in wanted)
