"""Which checking is sound for which data set of reasoning-gym: data, one line per data set.

Decided from answers that mean the same (another order, other spaces, quotes or case, an equal expression) and from
answers that do not (junk, the reference in a sentence), given to `exact` and to the data set's own scorer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

How = Literal["exact", "own", "native", "refused"]


@dataclass(frozen=True)
class Checking:
    """how a data set is checked; `checker` names ours (`offon.tasks.gym.checkers`); `form` is what a response has to
    look like before a native scorer sees it, so that one that reads letters out of a sentence cannot; `right` says
    which answers are right, or why none can be checked."""

    how: How
    right: str
    checker: str = ""
    form: str = ""


ONE = "one text is right"
NUMBER = "one number is right"
GRID = "one grid is right, spaces aside"


def _each(names: str, *checking) -> dict[str, Checking]:
    return {name: Checking(*checking) for name in names.split()}


CHECKING: dict[str, Checking] = {
    **_each(
        "ab bf binary_alternation caesar_cipher emoji_mystery figlet_font letter_jumble manipulate_matrix path_star "
        "self_reference sentence_reordering spell_backward string_insertion string_manipulation string_splitting "
        "string_synthesis base_conversion",
        "exact",
        ONE,
    ),
    **_each(
        "aiw basic_arithmetic chain_sum circuit_logic count_bits count_primes gcd largest_island lcm leg_counting "
        "letter_counting maze number_sequence products rectangle_count rotten_oranges simple_equations",
        "exact",
        "one integer is right",
    ),
    **_each("arc_1d arc_agi binary_matrix futoshiki modulo_grid rearc rotate_matrix spiral_matrix", "exact", GRID),
    **_each(
        "acre calendar_arithmetic color_cube_rotation course_schedule family_relationships game_of_life_halting "
        "isomorphic_strings mahjong_puzzle needle_haystack ransom_note syllogism tsumego zebra_puzzles",
        "own",
        "one word is right, in any case",
        "caseless",
    ),
    **_each("dice time_intervals", "own", "one text is right, spaces and case aside", "unspaced"),
    **_each("gsm_symbolic simple_geometry coin_flip", "own", "the number, to the reference's places", "rounded"),
    **_each("advanced_geometry pool_matrix", "own", "the numbers, to the reference's places", "rounded"),
    "polynomial_equations": Checking("own", "the solutions in any order, to the reference's places", "solutions"),
    "power_function": Checking("own", "the number, to three significant figures", "three_figures"),
    **_each(
        "codeio game_of_life list_functions number_filtering number_sorting",
        "own",
        "the same data: spaces and quotes aside",
        "data",
    ),
    **_each("word_sequence_reversal word_sorting", "own", "the same words in the same order, spaces aside", "listing"),
    "fraction_simplification": Checking("own", "the reduced fraction, in plain text or LaTeX", "reduced"),
    "complex_arithmetic": Checking("own", "the complex number, however its parts are ordered or written", "complex"),
    "prime_factorization": Checking("own", "the prime factors in any order, powers too", "factors"),
    "countdown": Checking("own", "any expression that gives the target from every number once", "countdown"),
    "puzzle24": Checking("own", "any expression that gives 24 from every number once", "countdown"),
    "polynomial_multiplication": Checking("own", "any equal polynomial", "polynomial"),
    "simple_integration": Checking("own", "any antiderivative", "antiderivative"),
    "intermediate_integration": Checking("own", "any antiderivative", "antiderivative"),
    "knights_knaves": Checking("own", "every name with its kind, in any order", "kinds_of_people"),
    "n_queens": Checking("own", "any completion of the board", "queens"),
    "sudoku": Checking("own", "any completion of the grid", "sudoku"),
    "mini_sudoku": Checking("own", "any completion of the grid", "sudoku"),
    "survo": Checking("own", "any completion of the grid", "survo"),
    "kakurasu": Checking("native", "any grid with the sums", "", r"[01\s]+"),
    "sokoban": Checking("native", "any moves that solve the puzzle", "", r"[UDLR]+"),
    "quantum_lock": Checking("native", "any shortest sequence", "", r"[A-C](?:\s*(?:→|->|,)?\s*[A-C])*"),
    "rubiks_cube": Checking("native", "any moves that solve the cube", "", r"(?:[UDLRFB]'?2?\s*)+"),
    "bitwise_arithmetic": Checking("native", "the number in hexadecimal, in any case"),
    "cryptarithm": Checking("native", "the letters' digits in any order"),
    "decimal_arithmetic": Checking("native", NUMBER),
    "decimal_chain_sum": Checking("native", NUMBER),
    "graph_color": Checking("native", "any valid colouring"),
    "group_anagrams": Checking("native", "the groups in any order"),
    "jugs": Checking("native", "any moves that reach the target"),
    "knight_swap": Checking("native", "any moves that swap the knights"),
    "number_format": Checking("native", NUMBER),
    "palindrome_generation": Checking("native", "any palindrome of the letters"),
    "palindrome_partitioning": Checking("native", "the partitions in any order"),
    "rush_hour": Checking("native", "any moves that free the car"),
    "shortest_path": Checking("native", "any shortest path"),
    "tower_of_hanoi": Checking("native", "any valid shortest moves"),
    "word_ladder": Checking("native", "any shortest ladder"),
    "boxnet": Checking("refused", "it has no reference, and its scorer raises on data of another form"),
    "propositional_logic": Checking("refused", "it has no reference, and its scorer gives junk partial credit"),
    "composite": Checking("own", "as for the data set that an item comes from", "composite"),
}

# What `scorer: native` refuses by name. Others that are not NATIVE mostly give credit for containing the answer.
NATIVE = {name for name, checking in CHECKING.items() if checking.how == "native" and not checking.form}
EVALUATES = {
    "binary_matrix": "eval",
    "countdown": "sympy's parse_expr",
    "intermediate_integration": "sympy's parse_expr",
    "n_queens": "eval",
    "polynomial_multiplication": "sympy's parse_expr",
    "puzzle24": "sympy's parse_expr",
    "simple_integration": "sympy's parse_expr",
    "spiral_matrix": "eval",
    "string_insertion": "eval",
}
FAULTY = {
    "boxnet": "raises AttributeError on '[1]'",
    "coin_flip": "raises OverflowError on '1e400'",
    "game_of_life": "raises KeyError on '{}'",
    "game_of_life_halting": "takes any text for True",
    "prime_factorization": "raises ValueError on '2 x 3'",
    "propositional_logic": "gives 'zzz' 0.25",
}

PAGE = """# How answers to reasoning-gym are checked

`{gym: NAME}` checks by what is sound for the data set (`scorer: sound`), which is one of

- `exact`: the response is the reference, whitespace aside
- `own`: a checker of offon's, where several texts are right, or the data set's scorer would run a response as code
- `native`: the data set's own scorer, in a process that can be killed; a score below 1 is a verdict of 0
- `refused`: no checking is sound, so the task does not open

A response is read inside its last `<answer>..</answer>` if it has one. A verdict is 0 or 1: the partial credit that
many of the package's scorers give (0.01 for any text, 0.5 for a solution that is too long, a share for containing the
answer) is none. `scorer: native` keeps it as the reward, for the data sets marked `native` without a remark on their
form; `scorer: exact` asks for the reference's text, where several are right too.

Scorers that evaluate the response as code (countdown, spiral_matrix, ...) are open to `scorer: native` only where they
can run in a box (docs/recipe.md, `unit_tests`). That contains a response; it does not keep one that is evaluated beside
its scorer from giving itself any score.

Printed by `python -c "from offon.tasks.gym.checking import page; print(page(), end='')"`.

| data set | checking | what is right |
|---|---|---|
"""


def page() -> str:
    """docs/gym.md."""
    rows = []
    for name, one in sorted(CHECKING.items()):
        form = f"; the response has to be `{one.form.replace('|', chr(92) + '|')}`" if one.form else ""
        rows.append(f"| `{name}` | {one.how} | {one.right}{form} |")
    return PAGE + "\n".join(rows) + "\n"
