"""The common words that the synthetic worlds are made of.

Names are two words (``Mara Lind``, ``Silver Harbor``): few words, so that a small tokenizer holds each
as one token, and many combinations, so that nothing can be memorised. No word is in two
lists: a retrieved passage never matches a question by accident.
"""

from __future__ import annotations

import random
from typing import Literal, get_args


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES: tuple[str, ...] = _words(
    "Ada Alma Anna Boris Carl Clara Cora Dora Edith Elena Emil Erik Eva Felix Flora Frank Fred Greta "
    "Hanna Hans Hugo Ida Igor Irma Ivan Jane Jonas Julia Karin Karl Lara Laura Leo Lena Lotte Lucas "
    "Marco Maria Mara Martin Mona Nadia Nils Nina Nora Olga Oscar Otto Paul Petra Rita Robert Rosa "
    "Simon Sofia Stella Tara Thomas Tilda Vera Victor Walter Wanda Yann"
)

LAST_NAMES: tuple[str, ...] = _words(
    "Adler Arnold Bach Baker Beck Berger Blake Brandt Carter Castle Cole Cooper Dahl Decker Diaz Eder "
    "Evans Falk Fischer Foster Frost Garcia Graf Grant Haas Hall Hansen Hart Holm Hunter Jensen Jordan "
    "Keller Kent Klein Koch Lang Larsen Lind Lopez Marsh Mason Meyer Miller Moore Moser Nash Nilsen "
    "Novak Olsen Parker Porter Quinn Reed Ross Sander Silva Stone Sutter Turner Vogel Wagner Weber "
    "Winter"
)

ADJECTIVES: tuple[str, ...] = _words(
    "Ancient Bitter Bold Brave Busy Bright Broken Calm Clear Cold Copper Crimson Dark Deep Distant "
    "Double Dry Early Empty Endless Fading Fallen Final First Forgotten Frozen Gentle Golden Grand "
    "Happy Hidden High Hollow Iron Last Late Little Lonely Long Lost Loud New Northern Old Open Pale "
    "Quiet Rising Sacred Second Secret Shallow Silent Silver Slow Southern Stolen Sudden Sweet Velvet "
    "Warm Wide Wild Young"
)

NOUNS: tuple[str, ...] = _words(
    "Anchor Apple Arrow Bell Bird Boat Book Bridge Candle Circle Cloud Coast Crown Desert Door Dream "
    "Eagle Field Fire Flower Forest Fountain Garden Gate Glass Harbor Hill Horse House Island Journey "
    "Key Lake Lamp Letter Light Lion Meadow Mirror Moon Morning Mountain Night Ocean Orchard Palace "
    "Path River Road Rose Sail Shadow Shore Sky Snow Song Star Storm Summer Tower Train Valley Wind "
    "Window"
)

CITIES: tuple[str, ...] = _words(
    "Athens Boston Cairo Denver Geneva Havana Lima London Madrid Oslo Paris Prague Rome Seoul Tokyo Vienna"
)

COLORS: tuple[str, ...] = _words("amber black blue brown gold green grey orange pink purple red white")

JOBS: tuple[str, ...] = _words("actor barber chef doctor driver farmer judge lawyer nurse painter pilot teacher")

INSTRUMENTS: tuple[str, ...] = _words("banjo cello drum flute guitar harp horn lute organ piano trumpet violin")

# How the entities of a world are called. "numbers": ``book 472``, ten digits that a small policy learns to copy in
# minutes. "words": ``Silver Harbor``, hundreds of words, each of which has to be learnt; a harder tier.
Naming = Literal["numbers", "words"]
FIRST_NUMBER, LAST_NUMBER = 100, 999


def check_naming(naming: str) -> None:
    """Raise ValueError unless ``naming`` is one that the worlds know."""
    if naming not in get_args(Naming):
        raise ValueError(f"naming is {naming!r}, must be one of {', '.join(get_args(Naming))}")


def person_name(rng: random.Random, naming: Naming, kind: str) -> str:
    """A random person: ``<kind> 318`` or ``Mara Lind``."""
    if naming == "numbers":
        return f"{kind} {rng.randint(FIRST_NUMBER, LAST_NUMBER)}"
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
