"""Class names that can name the columns of a timeline. Apart from `columns.py`, which imports polars."""

from __future__ import annotations

from collections.abc import Sequence

from mien.errors import ConfigError
from mien.labels import check_class_names


def check_classes(names: Sequence[str]) -> tuple[str, ...]:
    """The class names of a timeline, as a tuple. Raises ConfigError for names that `check_class_names` refuses."""
    try:
        return tuple(check_class_names(names))
    except ValueError as error:
        raise ConfigError(
            f"the classes cannot name the columns of a timeline: {error}",
            follows="No timeline was made.",
            remedy="Rename the class in corpus.labels of the recipe, or in classes=.",
        ) from None
