"""Tasks with their class names and order, Timeline columns, marks of unlabelled frames, classes of each corpus.

`EXPRESSIONS` has the order of Aff-Wild2 and of the ABAW challenge files. Label arrays, logits and probability columns
follow it unless a recipe names other classes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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

#: The twelve action units of Aff-Wild2 and of the ABAW challenge, in the order of its files.
ACTION_UNITS: tuple[str, ...] = tuple(f"AU{number}" for number in (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26))
#: The seven compound expressions of C-EXPR-DB, in the order of the challenge files, with their two basic expressions.
COMPOUND_EXPRESSIONS: dict[str, tuple[int, int]] = {
    "Fearfully Surprised": (FEAR, SURPRISE),
    "Happily Surprised": (HAPPINESS, SURPRISE),
    "Sadly Surprised": (SADNESS, SURPRISE),
    "Disgustedly Surprised": (DISGUST, SURPRISE),
    "Angrily Surprised": (ANGER, SURPRISE),
    "Sadly Fearful": (SADNESS, FEAR),
    "Sadly Angry": (SADNESS, ANGER),
}
#: The six dimensions of Hume-Vidmimic2 (Emotional Mimicry Intensity), in the order of its tables.
MIMICRY: tuple[str, ...] = ("Admiration", "Amusement", "Determination", "Empathic Pain", "Excitement", "Joy")


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """A task whose prediction is one score in [0, 1] for each column, beside expressions, valence and arousal.

    title: its name in messages. columns: names of the scores, in order. objective: key of a recipe's `objective` that
    weights its loss, "" if the scores are derived from expressions. is_binary: labels are 0 or 1. is_exclusive: exactly
    one column is 1. per_clip: a label counts for a whole clip, whose prediction is the mean over its frames.
    """

    title: str
    columns: tuple[str, ...]
    objective: str = ""
    is_binary: bool = False
    is_exclusive: bool = False
    per_clip: bool = False


#: Score tasks by the name that `--task` takes.
SCORE_TASKS: dict[str, ScoreTask] = {
    "au": ScoreTask("action units", ACTION_UNITS, "action_units", is_binary=True),
    "ce": ScoreTask("compound expressions", tuple(COMPOUND_EXPRESSIONS), is_binary=True, is_exclusive=True),
    "emi": ScoreTask("Emotional Mimicry Intensity", MIMICRY, "mimicry", per_clip=True),
}
#: All tasks by the name that `--task` takes, the default first.
TASKS: tuple[str, ...] = ("expr", "va", *SCORE_TASKS)

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


def score_columns(task: str) -> tuple[str, ...]:
    """Columns of a score task in a Timeline: `au1`, `au2`, ... for action units, otherwise the name of the task first,
    as in `emi_empathic_pain`."""
    names = (name.lower().replace(" ", "_") for name in SCORE_TASKS[task].columns)
    return tuple(name if name.startswith(task) else f"{task}_{name}" for name in names)


def score_tasks(columns: Iterable[str]) -> tuple[str, ...]:
    """The score tasks of which a Timeline with these columns has at least one column."""
    present = set(columns)
    return tuple(task for task in SCORE_TASKS if not present.isdisjoint(score_columns(task)))


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
