"""Few-label experiment: its rows, continuation of a stopped run, table and plot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments import few_labels

HISTORY = [{"step": 50, "threshold": 0.7}, {"step": 100, "threshold": 0.8, "kept": 0.5, "quality": 0.9}]


def count_of(variant: str) -> int:
    return 0 if variant == "all labels" else 100


def rows(seeds: int = 2, **accuracy: float) -> list[dict[str, Any]]:
    return [
        {"task": "digits", "variant": v, "labels": count_of(v), "seed": s, "steps": 500, "macro_f1": 0.5,
         "history": HISTORY,
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
    few_labels.set_tasks([replace(digits, steps=12)])
    row = few_labels.train_and_score((0, "ours", 100, 3))
    assert (row["task"], row["variant"], row["labels"], row["seed"], row["steps"]) == ("digits", "ours", 100, 3, 12)
    assert 0 <= row["accuracy"] <= 1
    assert row["history"][-1]["step"] == 12
    assert {"kept", "threshold", "unlabelled", "negative"} <= set(row["history"][-1]), "the warm-up ends after a third"
    assert row == few_labels.train_and_score((0, "ours", 100, 3)), "seeded"


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
    finished, least = rows(), replace(digits, labels=(100,))
    result = few_labels.run([least], seeds=2, finished=finished, log=lambda line: None)
    assert (result, jobs_run) == (finished, [])
    saved: list[int] = []
    few_labels.run(
        [least],
        seeds=3,
        finished=finished,
        log=lambda line: None,
        on_rows=lambda r: saved.append(len(r)),
    )
    assert sorted(jobs_run) == sorted((0, v, count_of(v), 2) for v in few_labels.VARIANTS)
    assert saved == list(range(len(finished) + 1, len(finished) + len(jobs_run) + 1)), "saved after each training"
    jobs_run.clear()
    saved.clear()
    fresh = few_labels.run(
        [replace(least, steps=7)], seeds=1, finished=finished, log=lambda line: None,
        on_rows=lambda r: saved.append(len(r)),
    )  # fmt: skip
    assert saved[-1] == len(finished) + len(fresh), "rows of another number of steps are saved too"
    assert len(jobs_run) == len(few_labels.VARIANTS), "another number of steps is a different training"
    assert len(fresh) == len(jobs_run), "rows of both are never in one table"
    jobs_run.clear()
    few_labels.run([replace(digits, labels=(100, 200, 400))], seeds=4, log=lambda line: None)
    main = len(few_labels.MAIN)
    others = len(few_labels.VARIANTS) - main
    assert [n for _, v, n, _ in jobs_run if v != "all labels"] == [
        *[100] * (4 * (main - 1) + 3 * others), *[400] * 4 * (main - 1), *[200] * 4 * (main - 1),
    ], "few labels first, then the most, then those between"  # fmt: skip
    assert sum(v == "all labels" for _, v, _, _ in jobs_run) == 4, "all labels do not depend on their number"
    assert len(set(jobs_run)) == len(jobs_run)


def test_labels_are_as_many_of_each_class_as_there_are(digits: few_labels.LabelTask) -> None:
    scarce = digits.train.take((digits.train.labels > 0) | (np.arange(len(digits.train)) < 40))
    drawn = few_labels.draw_labels(scarce, 200, 5)
    counts = np.bincount(drawn.labels)
    assert counts.sum() == 200
    assert counts[0] == (scarce.labels == 0).sum() < 20
    assert (counts[1:] >= 20).all()
    assert not np.array_equal(drawn.labels, few_labels.draw_labels(scarce, 200, 6).labels)


def test_gains_are_paired_by_seed_and_the_plot_has_a_panel() -> None:
    results = rows(ours=0.8, labels_only=0.7)
    text = few_labels.table(results)
    assert "| *ours minus labels only* | +0.100" in text
    assert "| *ours minus FixMatch (fixed threshold)* | +0.300" in text
    svg = few_labels.plot(results)
    assert "share accepted" in svg
    assert "labelled images" in svg
    assert "nan" not in svg, "no pseudo-label is accepted at first, so the line begins later"
