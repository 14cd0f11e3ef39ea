"""The few-label bench: what a row says, that a stopped run goes on, and how the table is made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments import few_labels as bench

HISTORY = [{"step": 50, "threshold": 0.7}, {"step": 100, "threshold": 0.8, "kept": 0.5, "quality": 0.9}]


def rows(seeds: int = 2, **accuracy: float) -> list[dict[str, Any]]:
    return [
        {"task": "digits", "variant": v, "labels": 10, "seed": s, "steps": 500, "macro_f1": 0.5, "history": HISTORY,
         "accuracy": accuracy.get(v.replace(" ", "_"), 0.5) + 0.01 * s}
        for s in range(seeds) for v in bench.VARIANTS
    ]  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> bench.Task:
    return bench.digits()


def test_nobody_is_on_both_sides_of_the_digits(digits: bench.Task) -> None:
    assert len(digits.train) + len(digits.test) == 1797
    assert set(np.unique(digits.test.labels)) == set(range(10))
    assert digits.train.images.shape[1:] == (32, 32, 3)


def test_a_row_says_what_was_trained_and_how_it_scored(digits: bench.Task) -> None:
    row = bench.measure((0, "ours", 10, 3), [replace(digits, steps=12)])
    assert (row["task"], row["variant"], row["labels"], row["seed"], row["steps"]) == ("digits", "ours", 10, 3, 12)
    assert 0 <= row["accuracy"] <= 1
    assert row["history"][-1]["step"] == 12
    assert {"kept", "threshold", "unlabelled", "negative"} <= set(row["history"][-1]), "labels alone end after a third"
    assert row == bench.measure((0, "ours", 10, 3), [replace(digits, steps=12)]), "seeded"


def test_what_was_measured_is_not_measured_again(digits: bench.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Pool:
        def __init__(self, *args: object, **settings: object) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *args: object) -> None: ...
        def map(self, measure: object, jobs: list[Any]) -> list[dict[str, Any]]:
            asked.extend(jobs)
            return [{**rows(1)[0], "variant": v, "labels": n, "seed": s} for _, v, n, s in jobs]

    monkeypatch.setattr(bench, "ProcessPoolExecutor", Pool)
    done = rows()
    said = bench.run([digits], seeds=2, labels=(10,), done=done, tell=lambda line: None)
    assert (said, asked) == (done, [])
    kept: list[int] = []
    bench.run([digits], seeds=3, labels=(10,), done=done, tell=lambda line: None, each=lambda r: kept.append(len(r)))
    assert asked == [(0, v, 10, 2) for v in bench.VARIANTS]
    assert kept == list(range(len(done) + 1, len(done) + len(asked) + 1)), "kept after each"
    asked.clear()
    kept.clear()
    fresh = bench.run(
        [replace(digits, steps=7)], seeds=1, labels=(10,), done=done, tell=lambda line: None,
        each=lambda r: kept.append(len(r)),
    )  # fmt: skip
    assert kept[-1] == len(done) + len(fresh), "those of another number are kept all the same"
    assert len(asked) == len(bench.VARIANTS), "another number of steps is another training"
    assert len(fresh) == len(asked), "and rows of both are never in one table"
    asked.clear()
    bench.run([digits], seeds=4, labels=(40, 10), tell=lambda line: None)
    assert [(n, v in bench.MAIN) for _, v, n, _ in asked] == [
        *[(10, True)] * 16, *[(10, False)] * 12, *[(40, True)] * 16,
    ], "few labels first, the parts three times"  # fmt: skip


def test_the_table_pairs_gains_by_seed_and_the_plot_has_a_panel() -> None:
    made = rows(ours=0.8, labels_only=0.7)
    text = bench.table(made)
    assert "| *ours minus labels only* | +0.100" in text
    assert "| *ours minus FixMatch (fixed threshold)* | +0.300" in text
    drawn = bench.plot(made)
    assert "share believed" in drawn
    assert "nan" not in drawn, "nothing is believed at first: no point, and the line begins later"
