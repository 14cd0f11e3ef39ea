"""Class names and their order, marks of unlabelled frames, and the classes of each corpus.

`EXPRESSIONS` has the order of Aff-Wild2 and of the ABAW challenge files. Label arrays, logits and probability columns
follow it unless a recipe names other classes.
"""

from __future__ import annotations

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


def probability_column(expression: str) -> str:
    """Name of a class's probability column in a Timeline: `Neutral` -> `p_neutral`."""
    return "p_" + expression.lower().replace(" ", "_")
