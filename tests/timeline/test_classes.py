"""Classes of a timeline: columns, names in files, and names that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import ConfigError, MediaError
from mien.labels import EXPRESSIONS, probability_column
from mien.timeline.table import Timeline
from tests.timeline_rows import rows

letters = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
own_names = st.lists(
    st.one_of(
        st.sampled_from([*EXPRESSIONS, "Müde", "leicht-müde", "sehr müde", "Über mütig", "happy", "fear", "a_b", "1"]),
        st.text(letters, min_size=1, max_size=12).filter(str.strip),
    ),
    min_size=1,
    max_size=20,
    unique_by=probability_column,
)


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
@settings(max_examples=60)
@given(classes=own_names, gap=st.integers(0, 9), seed=st.integers(0, 99))
def test_own_classes_round_trip(
    tmp_path_factory: pytest.TempPathFactory, ending: str, classes: list[str], gap: int, seed: int
) -> None:
    p = np.random.default_rng(seed).dirichlet(np.ones(len(classes)), 9).round(5)
    p[gap : gap + 4] = np.nan
    table = rows(9, probabilities=p, classes=classes, face=np.zeros(9, bool), valence_arousal=np.full((9, 2), 0.5))
    timeline = Timeline(table, classes=classes)
    path = timeline.write(tmp_path_factory.mktemp("files") / f"t.{ending}")
    stated = Timeline.read(path, classes=classes)
    assert stated.classes == timeline.classes == tuple(classes)
    found = Timeline.read(path)
    assert stated.table.equals(found.table)
    assert found.table.columns == timeline.table.columns
    assert found.table["expression"].to_list() == timeline.table["expression"].to_list()
    within = 0 if ending == "parquet" else 1e-5
    columns = [probability_column(name) for name in classes]
    assert np.allclose(found.table.select(columns), timeline.table.select(columns), rtol=0, atol=within, equal_nan=True)
    predicted = set(timeline.table["expression"].drop_nulls())
    for column, written, read in zip(columns, classes, found.classes, strict=True):
        assert probability_column(read) == column or "_" in written
        assert read == written or (ending != "parquet" and written not in predicted)


def test_names_are_recovered_from_columns_and_expressions(tmp_path: Path) -> None:
    classes = ("Sehr Müde", "Leicht-Müde", "Fear", "ganz wach")
    p = np.tile([0.7, 0.1, 0.1, 0.1], (5, 1))
    timeline = Timeline(rows(5, probabilities=p, classes=classes), classes=classes)
    path = timeline.to_csv(tmp_path / "t.csv")
    assert Timeline.read(path).classes == ("Sehr Müde", "leicht-müde", "Fear", "ganz wach")
    assert Timeline.read(path, classes=classes).classes == classes
    with pytest.raises(MediaError, match=r"lacks the column\(s\) p_joy"):
        Timeline.read(path, classes=["Joy", *classes[1:]])


def test_files_of_the_eight_expressions_without_stored_classes_are_read(tmp_path: Path) -> None:
    """Files written before Parquet stored the classes."""
    timeline = Timeline(rows(gap=slice(3, 5)))
    timeline.table.write_parquet(
        tmp_path / "t.parquet", metadata={"mien": '{"media": "a.mp4", "notes": [], "info": {}}'}
    )
    for path in (tmp_path / "t.parquet", timeline.to_csv(tmp_path / "t.csv"), timeline.to_jsonl(tmp_path / "t.jsonl")):
        assert Timeline.read(path).classes == EXPRESSIONS


def test_a_column_that_starts_with_many_nulls_is_read_as_numbers(tmp_path: Path) -> None:
    """Readers guess types from the first rows only."""
    classes = ("a", "b")
    p = np.tile([0.75, 0.25], (400, 1))
    p[:300] = np.nan
    timeline = Timeline(rows(400, probabilities=p, classes=classes), classes=classes)
    for ending in ("csv", "jsonl"):
        back = Timeline.read(timeline.write(tmp_path / f"t.{ending}"))
        assert back.table["p_a"].to_list() == [None] * 300 + [0.75] * 100


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["Happy", "happy"], "'Happy' and 'happy' share the column p_happy"),
        (["a b", "c", "a_b"], "'a b' and 'a_b' share the column p_a_b"),
        (["a", " "], "the name of class 2 is empty"),
        (["a", "b\nc"], "'b\\\\nc' holds a line break"),
        (["a", "b\u2028c"], "holds a line break"),
    ],
)
def test_classes_that_cannot_name_columns_are_refused(classes: list[str], message: str) -> None:
    p = np.full((4, len(classes)), 1 / len(classes))
    with pytest.raises(ConfigError, match=message) as caught:
        rows(4, probabilities=p, classes=classes)
    assert (caught.value.follows, "corpus.labels" in caught.value.remedy) == ("No timeline was made.", True)
    with pytest.raises(ConfigError, match=message):
        Timeline(rows(4), classes=classes)


def test_probabilities_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 rows of 8 classes need as many probabilities; got \(4, 3\)"):
        rows(4, probabilities=np.full((4, 3), 1 / 3))
