"""Few-label experiment: its rows, continuation of a stopped run, table and plot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments import few_labels

HISTORY = [{"step": 50, "threshold": 0.7}, {"step": 100, "threshold": 0.8, "kept": 0.5, "quality": 0.9}]


def rows(seeds: int = 2, **accuracy: float) -> list[dict[str, Any]]:
    return [
        {"task": "digits", "variant": v, "labels": 10, "seed": s, "steps": 500, "macro_f1": 0.5, "history": HISTORY,
         "accuracy": accuracy.get(v.replace(" ", "_"), 0.5) + 0.01 * s}
        for s in range(seeds) for v in few_labels.VARIANTS
    ]  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> few_labels.LabelTask:
    return few_labels.make_digits_task()


def test_the_digits_are_split_into_disjoint_training_and_test_images(digits: few_labels.LabelTask) -> None:
    assert len(digits.train) + len(digits.test) == 1797
    assert set(np.unique(digits.test.labels)) == set(range(10))
    assert digits.train.images.shape[1:] == (32, 32, 3)


def test_a_row_has_the_settings_and_the_scores_of_its_training(digits: few_labels.LabelTask) -> None:
    row = few_labels.train_and_score((0, "ours", 10, 3), [replace(digits, steps=12)])
    assert (row["task"], row["variant"], row["labels"], row["seed"], row["steps"]) == ("digits", "ours", 10, 3, 12)
    assert 0 <= row["accuracy"] <= 1
    assert row["history"][-1]["step"] == 12
    assert {"kept", "threshold", "unlabelled", "negative"} <= set(row["history"][-1]), "the warm-up ends after a third"
    assert row == few_labels.train_and_score((0, "ours", 10, 3), [replace(digits, steps=12)]), "seeded"


def test_finished_trainings_are_not_repeated(digits: few_labels.LabelTask, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs_run: list[Any] = []

    class Pool:
        def __init__(self, *args: object, **settings: object) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *args: object) -> None: ...
        def map(self, measure: object, jobs: list[Any]) -> list[dict[str, Any]]:
            jobs_run.extend(jobs)
            return [{**rows(1)[0], "variant": v, "labels": n, "seed": s} for _, v, n, s in jobs]

    monkeypatch.setattr(few_labels, "ProcessPoolExecutor", Pool)
    finished = rows()
    result = few_labels.run([digits], seeds=2, labels=(10,), finished=finished, log=lambda line: None)
    assert (result, jobs_run) == (finished, [])
    saved: list[int] = []
    few_labels.run(
        [digits],
        seeds=3,
        labels=(10,),
        finished=finished,
        log=lambda line: None,
        on_rows=lambda r: saved.append(len(r)),
    )
    assert jobs_run == [(0, v, 10, 2) for v in few_labels.VARIANTS]
    assert saved == list(range(len(finished) + 1, len(finished) + len(jobs_run) + 1)), "saved after each training"
    jobs_run.clear()
    saved.clear()
    fresh = few_labels.run(
        [replace(digits, steps=7)], seeds=1, labels=(10,), finished=finished, log=lambda line: None,
        on_rows=lambda r: saved.append(len(r)),
    )  # fmt: skip
    assert saved[-1] == len(finished) + len(fresh), "rows of another number of steps are saved too"
    assert len(jobs_run) == len(few_labels.VARIANTS), "another number of steps is a different training"
    assert len(fresh) == len(jobs_run), "rows of both are never in one table"
    jobs_run.clear()
    few_labels.run([digits], seeds=4, labels=(40, 10), log=lambda line: None)
    assert [(n, v in few_labels.MAIN) for _, v, n, _ in jobs_run] == [
        *[(10, True)] * 16, *[(10, False)] * 12, *[(40, True)] * 16,
    ], "few labels first, other variants three times"  # fmt: skip


def test_gains_are_paired_by_seed_and_the_plot_has_a_panel() -> None:
    results = rows(ours=0.8, labels_only=0.7)
    text = few_labels.table(results)
    assert "| *ours minus labels only* | +0.100" in text
    assert "| *ours minus FixMatch (fixed threshold)* | +0.300" in text
    svg = few_labels.plot(results)
    assert "share accepted" in svg
    assert "nan" not in svg, "no pseudo-label is accepted at first, so the line begins later"
