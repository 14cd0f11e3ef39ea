"""Class names and their order, their Timeline columns, marks of unlabelled frames, and the classes of each corpus.

`EXPRESSIONS` has the order of Aff-Wild2 and of the ABAW challenge files. Label arrays, logits and probability columns
follow it unless a recipe names other classes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

#: The eight classes; the index is the class number (0 Neutral ... 7 Other).
EXPRESSIONS: tuple[str, ...] = (
    "Neutral",
    "Anger",
    "Disgust",
    "Fear",
    "Happiness",
    "Sadness",
    "Surprise",
    "Other",
)
NEUTRAL, ANGER, DISGUST, FEAR, HAPPINESS, SADNESS, SURPRISE, OTHER = range(8)

#: Class index of an unlabelled frame (as in Aff-Wild2 EXPR). Losses and metrics ignore such frames.
UNLABELLED = -1
#: Valence or arousal of an unlabelled frame in Aff-Wild2 VA files. In memory it is NaN, never -5.
VA_UNLABELLED = -5.0

#: EMO-DB: sixth letter of the file name (German emotion words) -> class. Boredom becomes Other: our choice, because
#: none of the other seven fits, and dropping it would lose a tenth of the corpus.
EMODB_LETTERS: dict[str, int] = {
    "N": NEUTRAL,
    "W": ANGER,
    "E": DISGUST,
    "A": FEAR,
    "F": HAPPINESS,
    "T": SADNESS,
    "L": OTHER,
}


#: Start of the names of probability columns.
_COLUMN_PREFIX = "p_"
#: Unicode categories that a class name cannot hold: control characters, lone surrogates, line and paragraph separators.
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")


def probability_column(expression: str) -> str:
    """Name of a class's probability column in a Timeline: `Neutral` -> `p_neutral`."""
    return _COLUMN_PREFIX + expression.lower().replace(" ", "_")


def is_probability_column(column: str) -> bool:
    """Whether a column of a Timeline holds the probabilities of a class."""
    return column.startswith(_COLUMN_PREFIX)


def check_class_names(names: Sequence[str]) -> list[str]:
    """Check that each class can have its own column in a Timeline; returns the names as a list.

    Raises ValueError for an empty name, a name with a line break or another control character, and two names with the
    same column (`probability_column`), such as "Happy" and "happy", or "a b" and "a_b".
    """
    owners: dict[str, str] = {}
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise ValueError(f"the name of class {number} is empty ({name!r}); give every class a name")
        if any(unicodedata.category(letter) in _UNPRINTABLE for letter in name):
            raise ValueError(f"the class name {name!r} holds a line break or control character; remove it")
        column = probability_column(name)
        if column in owners:
            raise ValueError(
                f"the classes {owners[column]!r} and {name!r} share the column {column}; rename one of them"
            )
        owners[column] = name
    return list(names)


def class_names(columns: Iterable[str], expressions: Iterable[str]) -> tuple[str, ...]:
    """Class names of a Timeline's probability columns, where no metadata states them.

    Each column has the name that occurs among `expressions`, otherwise the standard name (`p_fear` -> `Fear`),
    otherwise the words of the column (`p_very_tired` -> `very tired`).

    Args:
        columns: names of all columns; only probability columns count, in their order.
        expressions: values of the column `expression`.
    """
    known = {probability_column(name): name for name in (*EXPRESSIONS, *expressions)}
    names = filter(is_probability_column, columns)
    return tuple(known.get(c) or _words(c.removeprefix(_COLUMN_PREFIX)) for c in names)


def _words(text: str) -> str:
    """Underscores as spaces, unless nothing would be left."""
    return text.replace("_", " ") if text.strip("_ ") else text
