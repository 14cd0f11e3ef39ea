"""Class orders, the "unlabelled" marks, and maps between corpora.

The order of `EXPRESSIONS` is that of Aff-Wild2 and the ABAW challenge files (0 Neutral ... 7 Other); every
label array, logit and probability column in mien follows it unless its recipe names other classes.
"""

from __future__ import annotations

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

#: Class index of a frame nobody labelled (Aff-Wild2 EXPR). Such frames never enter a loss or a metric.
UNLABELLED = -1
#: The mark of an unlabelled valence or arousal in Aff-Wild2 VA files. In memory it is NaN, never -5.
VA_UNLABELLED = -5.0

#: EMO-DB, sixth letter of the file name (German emotion words). Boredom counts as Other: our choice, because
#: it is none of the seven and leaving it out would throw away a tenth of the corpus.
EMODB_LETTERS: dict[str, int] = {
    "N": NEUTRAL,
    "W": ANGER,
    "E": DISGUST,
    "A": FEAR,
    "F": HAPPINESS,
    "T": SADNESS,
    "L": OTHER,
}


def column(expression: str) -> str:
    """The Timeline's probability column of a class: `Neutral` -> `p_neutral`."""
    return "p_" + expression.lower().replace(" ", "_")
