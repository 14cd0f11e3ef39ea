"""A timeline's table as a pandas DataFrame, without pyarrow, which polars needs for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import polars as pl

from mien.extras import require

if TYPE_CHECKING:
    import pandas


def to_pandas(table: pl.DataFrame) -> pandas.DataFrame:
    """The columns with their types: floats with NaN for null, nullable Int64 and boolean where nulls are possible.

    Raises:
        ConfigError: pandas is not installed.
    """
    require("pandas", "to_pandas", instead="Without it, timeline.table is a polars DataFrame.")
    pd = import_module("pandas")
    frame: pandas.DataFrame = pd.DataFrame({name: _column(table[name], pd) for name in table.columns})
    return frame


def _column(column: pl.Series, pd: Any) -> Any:
    """A column for pandas, which is optional: the module is an argument."""
    if column.dtype == pl.Boolean:
        return pd.array([pd.NA if value is None else value for value in column.to_list()], dtype="boolean")
    if column.dtype == pl.String:
        return pd.Series(column.to_list(), dtype="str")
    if column.name == "frame":
        return pd.array([pd.NA if value is None else value for value in column.to_list()], dtype="Int64")
    return column.to_numpy()
