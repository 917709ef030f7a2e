"""reasoning-gym's data sets as a source of tasks: which kinds are used, at which levels, and how they are scored.

A kind is used when its audit passed (``python -m envs.reasoning.audit`` runs it): the gold answer scores 1; empty
text, "zzz" and the question itself do not; the scorer does not raise; entries are the same whatever the hash seed; no
single answer is right for more than 40 % of its entries; making an entry takes less than 0.1 s. What failed is in
``EXCLUDED``, with the reason.

An entry is named by (kind, level, seed). Level n is the curriculum's level n - 1 of the data set.
"""

from __future__ import annotations

import decimal
import hashlib
import re
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGE, VERSION = "reasoning-gym", "0.1.23"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_FOUR_LEVELS = _words(
    "ab advanced_geometry arc_1d base_conversion basic_arithmetic binary_matrix bitwise_arithmetic "
    "calendar_arithmetic "
    "chain_sum color_cube_rotation complex_arithmetic count_primes cryptarithm decimal_arithmetic decimal_chain_sum "
    "dice "
    "emoji_mystery fraction_simplification knights_knaves lcm leg_counting letter_jumble manipulate_matrix maze "
    "needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation pool_matrix "
    "products quantum_lock rotate_matrix sentence_reordering simple_equations simple_geometry spell_backward "
    "spiral_matrix "
    "string_manipulation time_intervals word_sequence_reversal word_sorting"
)
_ONE_LEVEL = _words("list_functions mini_sudoku palindrome_partitioning power_function puzzle24 simple_integration")
# kind -> levels that work and differ
KINDS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(_FOUR_LEVELS, (1, 2, 3, 4)),
    **dict.fromkeys(_words("aiw count_bits largest_island"), (2, 3, 4)),
    **dict.fromkeys(_words("futoshiki kakurasu string_splitting string_synthesis sudoku"), (1, 2, 3)),
    **dict.fromkeys(_words("bf caesar_cipher countdown survo tower_of_hanoi"), (1, 2)),
    **dict.fromkeys(_ONE_LEVEL, (1,)),
}

_REASONS: dict[str, str] = {
    "there is no gold answer": "boxnet graph_color propositional_logic rubiks_cube rush_hour",
    "two answers only": "acre circuit_logic course_schedule isomorphic_strings ransom_note syllogism",
    "one answer is right too often": "binary_alternation family_relationships game_of_life gcd letter_counting "
    "mahjong_puzzle polynomial_equations rectangle_count rotten_oranges self_reference shortest_path",
    "an entry takes too long to make": "figlet_font group_anagrams jugs sokoban word_ladder",
    "the generator raises": "knight_swap modulo_grid tsumego",
    "the scorer evaluates free text as Python": "n_queens string_insertion",
    "made of a public benchmark's problems": "arc_agi gsm_symbolic rearc",
    "entries differ with the hash seed": "intermediate_integration polynomial_multiplication zebra_puzzles",
    "making an entry executes code of unknown origin": "codeio",
    "a combination of other data sets": "composite",
    "anything at all scores 1": "game_of_life_halting",
    "the scorer raises on text": "prime_factorization",
}
EXCLUDED: dict[str, str] = {kind: reason for reason, kinds in _REASONS.items() for kind in _words(kinds)}

_NUMBERS = r"[\d\s,.\-\[\]()]*"
# These scorers give the answer to eval() or to sympy, which evaluates it as Python: only what can name nothing goes in.
_ALPHABET: dict[str, re.Pattern[str]] = {
    "binary_matrix": re.compile(_NUMBERS),
    "spiral_matrix": re.compile(_NUMBERS),
    "countdown": re.compile(r"[\d\s+\-*/()]*"),
    "puzzle24": re.compile(r"[\d\s+\-*/()]*"),
    "simple_integration": re.compile(r"(?:\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z])|[\s+\-*/^()])*"),
}
# Here a number is a number however it is written: math-verify has a say too. (Not where the task is to rewrite one.)
MATHS: frozenset[str] = frozenset(
    _words(
        "advanced_geometry basic_arithmetic chain_sum complex_arithmetic count_primes decimal_arithmetic "
        "decimal_chain_sum "
        "dice lcm leg_counting number_sequence products simple_equations simple_geometry"
    )
)


def check_package() -> None:
    """Raises ImportError with the command that fixes it when reasoning-gym is missing or another version."""
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        found = "not installed"
    if found != VERSION:
        raise ImportError(f"the reasoning family needs {PACKAGE} {VERSION} ({found}): pip install {PACKAGE}=={VERSION}")


def make_data_set(kind: str, level: int, seed: int) -> Any:
    """The data set of one entry that (kind, level, seed) names."""
    import reasoning_gym  # noqa: F401  (registers all kinds)
    from reasoning_gym.factory import CURRICULA, DATASETS, create_curriculum

    data_class, config_class = DATASETS[kind]
    if kind not in CURRICULA:
        return data_class(config_class(seed=seed, size=1))
    curriculum = create_curriculum(kind)
    curriculum.set_global_level(level - 1)
    return data_class(curriculum.generate_configuration({"seed": seed, "size": 1}))


def question_key(question: str) -> str:
    """What a question is about, as a hash that ignores case and spaces."""
    return hashlib.sha256(" ".join(question.casefold().split()).encode()).hexdigest()[:24]


@lru_cache(maxsize=64)
def make_entry(kind: str, level: int, seed: int) -> tuple[Any, dict[str, Any]]:
    """(data set, entry). The entry holds question, answer and what the scorer needs."""
    # some kinds set the precision of decimals for the whole thread: neither others nor the caller may see that
    with decimal.localcontext(decimal.DefaultContext):
        data = make_data_set(kind, level, seed)
        return data, data[0]


def gym_score(kind: str, level: int, seed: int, answer: str) -> float:
    """What the data set's own scorer gives for an answer. For a process that may be killed: it may hang or raise."""
    alphabet = _ALPHABET.get(kind)
    if not answer.strip() or (alphabet is not None and not alphabet.fullmatch(answer)):
        return 0.0
    data, entry = make_entry(kind, level, seed)
    with decimal.localcontext(decimal.DefaultContext):
        return float(data.score_answer(answer, entry))
