"""Calibration: recovers known corrections, scores held-out subjects; calibration metrics in closed form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mien.errors import ConfigError
from mien.evaluation import bootstrap, calibration_fit, calibration_metrics
from mien.evaluation.calibration import Calibration, Smoothing
from mien.evaluation.calibration_fit import compare, fit
from mien.evaluation.predictions import ClipPrediction

RATE = 10.0


def clip(
    name: str, truth: np.ndarray, probabilities: np.ndarray, group: str = "", va: np.ndarray | None = None
) -> ClipPrediction:
    n = len(truth)
    va = np.full((n, 2), np.nan) if va is None else va
    noise = np.random.default_rng(0).normal(0, 0.3, (n, 2))
    return ClipPrediction(name, np.arange(n) / RATE, probabilities, np.nan_to_num(va) + noise, truth, va, group)


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


NONE = (Smoothing(),)


def macro_f1(clips: list[ClipPrediction]) -> float:
    return bootstrap.expression_intervals(clips, classes=["a", "b", "c"], draws=2)["macro_f1"].value


def corpus(
    seed: int,
    clips: int = 8,
    seconds: float = 60,
    run_s: float = 6.0,
    noise: float = 1.5,
    shares: tuple[float, ...] = (0.4, 0.3, 0.3),
) -> list[ClipPrediction]:
    """Clips with classes in runs of about run_s and independent noise per frame: smoothing helps up to about a run."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(clips):
        truth: list[int] = []
        while len(truth) < seconds * RATE:
            truth += [int(rng.choice(len(shares), p=shares))] * round(rng.uniform(0.5, 1.5) * run_s * RATE)
        t = np.array(truth[: int(seconds * RATE)])
        logits = np.eye(len(shares))[t] * 1.5 + rng.normal(0, noise, (len(t), len(shares))) + np.log(shares)
        va = np.stack([np.sin(np.arange(len(t)) / 40), np.cos(np.arange(len(t)) / 40)], axis=1)
        out.append(clip(f"{seed}-{i}", t, softmax(logits), group=f"{seed}-{i // 2}", va=va))
    return out


PROBABILITIES = arrays.arrays(np.float64, (30, 3), elements=st.floats(0.01, 1)).map(
    lambda p: p / p.sum(1, keepdims=True)
)


@settings(max_examples=30)
@given(PROBABILITIES, st.floats(0, 3), st.lists(st.floats(-2, 2), min_size=3, max_size=3), st.floats(0.1, 10))
def test_corrected_probabilities_sum_to_one_and_temperature_keeps_the_class(
    p: np.ndarray, radius: float, bias: list[float], temperature: float
) -> None:
    one = clip("a", np.zeros(30, int), p)
    corrected = Calibration(Smoothing("mean", radius), bias=tuple(bias), temperature=temperature)(one)
    assert corrected.probabilities.sum(1) == pytest.approx(np.ones(30))
    assert (corrected.probabilities >= 0).all()
    plain = Calibration(Smoothing("mean", radius), bias=tuple(bias))(one).probabilities
    best = np.sort(np.log(plain), axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-9
    assert (corrected.probabilities.argmax(1) == plain.argmax(1))[clear].all()
    assert Calibration()(one).probabilities == pytest.approx(p)


def test_frames_without_evidence_stay_missing_and_do_not_affect_others() -> None:
    p = np.tile([0.7, 0.2, 0.1], (30, 1))
    p[10:20] = np.nan
    p[0:10] = [0.1, 0.2, 0.7]
    corrected = Calibration(Smoothing("mean", 0.6), temperature=2.0)(clip("a", np.zeros(30, int), p)).probabilities
    assert np.isnan(corrected[10:20]).all()
    assert corrected[:10].argmax(1).tolist() == [2] * 10  # the other frames with evidence are over a second away
    assert corrected[:10] == pytest.approx(np.tile(corrected[0], (10, 1)), abs=1e-12)


@pytest.mark.parametrize("fit_on", [None, corpus(1)])
def test_smoothing_is_chosen_and_improves_other_clips(fit_on: list[ClipPrediction] | None) -> None:
    found = compare(corpus(2), fit_on, classes=["a", "b", "c"], draws=200, strengths=(0.0,))
    assert 1.0 <= found.fitted.calibration.expression.seconds <= 6.0
    assert found.calibrated["macro_f1"].value > found.as_predicted["macro_f1"].value + 0.1
    assert found.calibrated["macro_f1"].low > found.as_predicted["macro_f1"].high
    # valence and arousal have their own
    assert found.calibrated["va_score"].value > found.as_predicted["va_score"].value
    assert found.fitted.calibration.valence.seconds > 0
    assert found.nested == (fit_on is None)


def test_a_kernel_is_chosen_by_what_the_errors_are() -> None:
    """Rare outliers that are certain of a wrong class: a median ignores them, a mean does not."""
    rng = np.random.default_rng(0)
    clips = []
    for i in range(6):
        truth = np.repeat(rng.integers(0, 3, 10), 30)
        p = np.full((300, 3), 0.3) + 0.1 * np.eye(3)[truth]
        wrong = rng.random(300) < 0.2
        p[wrong] = 0.98 * np.eye(3)[(truth[wrong] + 1) % 3] + 0.01
        clips.append(clip(f"{i}", truth, p / p.sum(1, keepdims=True), group=f"{i}"))
    chosen = fit(clips, classes=3, strengths=(0.0,), valence_arousal=False).calibration
    assert chosen.expression.kernel == "median"


def test_valence_and_arousal_each_get_the_smoothing_that_suits_them() -> None:
    """Valence moves slowly under noise, arousal is exact and fast: only valence is smoothed."""
    rng = np.random.default_rng(0)
    clips = []
    for i in range(4):
        t = np.arange(600) / RATE
        va = np.stack([np.sin(t / 6 + i), np.sin(t * 6 + i)], axis=1)
        one = clip(f"{i}", np.full(600, -1), np.full((600, 3), 1 / 3), group=f"{i}", va=va)
        clips.append(replace(one, valence_arousal=va + np.stack([rng.normal(0, 0.5, 600), np.zeros(600)], axis=1)))
    chosen = fit(clips, classes=3, expression=False).calibration
    assert chosen.valence.seconds >= 1.0
    assert chosen.arousal == Smoothing()


def test_no_smoothing_if_classes_change_with_every_frame() -> None:
    clips = corpus(1, run_s=0.1, noise=0.7)
    assert fit(clips, classes=3, strengths=(0.0,)).calibration.expression == Smoothing()


def test_valence_and_arousal_alone_get_a_smoothing_and_nothing_else() -> None:
    """Labels of expressions do not matter, whether there are any or none."""
    both = fit(corpus(1), classes=3, strengths=(0.0,)).calibration
    bare = [replace(c, true_class=np.full(len(c.times), -1)) for c in corpus(1)]
    for clips in (corpus(1), bare):
        found = fit(clips, classes=3, expression=False)
        assert found.calibration == Calibration(valence=both.valence, arousal=both.arousal)
        assert found.table.is_empty()


def test_expressions_alone_get_no_smoothing_of_valence_and_arousal() -> None:
    both = compare(corpus(2), corpus(1), classes=["a", "b", "c"], draws=10, strengths=(0.0,))
    found = compare(corpus(2), corpus(1), classes=["a", "b", "c"], draws=10, strengths=(0.0,), valence_arousal=False)
    expected = replace(both.fitted.calibration, valence=Smoothing(), arousal=Smoothing())
    assert found.fitted.calibration == expected
    assert not [name for name in found.calibrated if "ccc" in name or name == "va_score"]
    assert found.calibrated["macro_f1"] == both.calibrated["macro_f1"]


def test_class_bias_improves_rare_classes() -> None:
    train, scored = (corpus(seed, clips=16, shares=(0.86, 0.08, 0.06), noise=1.0) for seed in (3, 4))
    found = compare(scored, train, classes=["a", "b", "c"], draws=200, smoothings=NONE)
    chosen = found.fitted.calibration
    assert chosen.strength > 0
    assert chosen.bias[0] < chosen.bias[1] < chosen.bias[2]
    assert sum(chosen.bias) == pytest.approx(0)
    assert found.calibrated["macro_f1"].value > found.as_predicted["macro_f1"].value + 0.03
    assert found.calibrated["f1 c"].value > found.as_predicted["f1 c"].value


def test_bias_closed_form() -> None:
    truth = np.repeat([0, 1, 2], [60, 30, 10])
    clips = [clip(name, truth, np.tile([0.5, 0.3, 0.2], (100, 1))) for name in "ab"]
    three = fit(clips, classes=3, smoothings=NONE, strengths=(0.5,), valence_arousal=False).calibration
    frequency = np.log([0.6, 0.3, 0.1])
    assert three.bias == pytest.approx(tuple(-0.5 * (frequency - frequency.mean())))


def test_a_class_absent_from_training_has_no_bias() -> None:
    truth = np.repeat([0, 1], [60, 40])
    clips = [clip(name, truth, np.tile([0.5, 0.3, 0.2], (100, 1))) for name in "ab"]
    bias = fit(clips, classes=3, smoothings=NONE, strengths=(1.0,), valence_arousal=False).calibration.bias
    assert bias[2] == 0
    assert bias[0] == pytest.approx(-(np.log(0.6) - np.log(0.4)) / 2)


@pytest.mark.parametrize("sharpened", [0.5, 3.0])
def test_temperature_undoes_sharpening(sharpened: float) -> None:
    """Truth drawn from q, predictions q^k: the temperature of least negative log-likelihood is k."""
    rng = np.random.default_rng(0)
    q = softmax(rng.normal(0, 1.5, (20_000, 3)))
    truth = (rng.random((20_000, 1)) > q.cumsum(1)).sum(1)
    p = softmax(sharpened * np.log(q))
    halves = [clip("a", truth[:10_000], p[:10_000]), clip("b", truth[10_000:], p[10_000:])]
    found = fit(halves, classes=3, smoothings=NONE, strengths=(0.0,), valence_arousal=False).calibration
    assert found.temperature == pytest.approx(sharpened, rel=0.05)
    after = calibration_metrics.calibration_error([found(c) for c in halves])
    before = calibration_metrics.calibration_error(halves)
    assert after["ece"] < 0.02 < before["ece"]
    assert after["nll"] < before["nll"]


def test_a_subject_is_corrected_by_what_the_others_choose() -> None:
    """Other labels of one subject change the calibration of all, and nothing of how that subject is corrected."""
    clips = corpus(1)
    rng = np.random.default_rng(0)
    changed = [
        replace(c, true_class=np.where(c.true_class > 0, 0, c.true_class)) if c.group == "1-2" else c for c in clips
    ]
    one, two = (fit(some, classes=3) for some in (clips, changed))
    pairs = zip(one.held_out, two.held_out, strict=True)
    own = [np.array_equal(a.probabilities, b.probabilities) for a, b in pairs if a.group == "1-2"]
    assert own == [True, True]
    assert one.calibration != two.calibration
    # on labels without any relation to the predictions, chosen values look better than they are
    flattery = []
    for _ in range(4):
        noise = [replace(c, true_class=rng.integers(0, 3, 200)) for c in corpus(5, seconds=20)]
        found = compare(noise, classes=["a", "b", "c"], draws=2, valence_arousal=False)
        flattery.append(found.optimistic["macro_f1"].value - found.calibrated["macro_f1"].value)
    assert np.mean(flattery) > 0.01


def test_calibration_on_other_clips_does_not_depend_on_the_scored_ones() -> None:
    train, scored = corpus(1), corpus(2)
    rng = np.random.default_rng(0)
    shuffled = [replace(c, true_class=rng.permutation(c.true_class)) for c in scored]
    one, two = (compare(s, train, classes=["a", "b", "c"], draws=10) for s in (scored, shuffled))
    assert one.fitted.calibration == two.fitted.calibration
    assert one.tuned_on_scored != two.tuned_on_scored
    with pytest.raises(ValueError, match="8 clips are to fit on and to be scored, such as '1-0'"):
        compare(train, train)


def test_fitting_on_the_clips_of_the_training_harms_other_clips() -> None:
    """What a calibration on training clips did: the network is certain there, so no correction seems needed."""
    scored = corpus(2, noise=2.5)
    trained_on = [
        replace(c, probabilities=softmax(np.eye(3)[c.true_class] * 8.0 + np.log(c.probabilities))) for c in corpus(1)
    ]
    wrong = compare(scored, trained_on, classes=["a", "b", "c"], draws=2)
    right = compare(scored, classes=["a", "b", "c"], draws=2)
    nll = [found.calibration_error["calibrated"]["nll"] for found in (right, wrong)]
    assert nll[0] < right.calibration_error["as predicted"]["nll"] < nll[1]
    assert right.calibrated["macro_f1"].value > wrong.calibrated["macro_f1"].value


def test_clips_of_one_subject_share_a_fold() -> None:
    clips = [
        clip(f"{i}", np.zeros(10 * (i + 1), int), np.tile([0.5, 0.5], (10 * (i + 1), 1)), group=f"s{i // 3}")
        for i in range(12)
    ]
    fold_of, folds = calibration_fit.fold_clips(clips, 5, 0, expression=True, valence_arousal=False)
    assert folds == 4
    assert all(len({int(f) for f in fold_of[i : i + 3]}) == 1 for i in range(0, 12, 3))
    assert sorted(set(fold_of.tolist())) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="at least two subjects with expression labels, got 1; nothing was chosen"):
        fit(clips[:3])
    with pytest.raises(ValueError, match="at least two subjects with labels of valence and arousal, got 0"):
        fit(clips, classes=2)


def test_thinning_frames_hardly_changes_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    means = [Smoothing("mean", seconds) for seconds in (0.0, *calibration_fit.WIDTHS_S)]
    whole = fit(corpus(1), classes=3, smoothings=means)
    monkeypatch.setattr(calibration_fit, "MAX_FRAMES", 1600)
    thinned = fit(corpus(1), classes=3, smoothings=means)
    assert abs(means.index(thinned.calibration.expression) - means.index(whole.calibration.expression)) <= 1
    assert macro_f1(thinned.held_out) == pytest.approx(macro_f1(whole.held_out), abs=0.03)


def test_save_and_load(tmp_path: Path) -> None:
    one = Calibration(
        Smoothing("median", 0.5), Smoothing("hamming", 2.0), bias=(0.1, -0.1), temperature=1.5, strength=0.25,
        fitted_on="3 clips", model="abc",
    )  # fmt: skip
    one.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == one
    assert str(one.expression) == "moving median of 0.5 s"
    assert str(one.arousal) == "no smoothing"
    wrong = {
        '{"radius": 3}': "is not a calibration",
        "[]": "is not a calibration",
        '{"radius_s": 0.5, "bias": [], "temperature": 1.0}': "was fitted on training clips, by an earlier version",
    }
    for text, message in wrong.items():
        (tmp_path / "calibration.json").write_text(text)
        with pytest.raises(ConfigError, match=message) as caught:
            Calibration.load(tmp_path / "calibration.json")
        assert "mien evaluate" in caught.value.remedy
        assert "applied" in caught.value.follows


def test_reliability_closed_form() -> None:
    # 10 frames with confidence .9, of which 8 are right, and 10 with .6, of which 6 are
    p = np.repeat([[0.9, 0.1], [0.6, 0.4]], 10, axis=0)
    truth = np.array([0] * 8 + [1] * 2 + [0] * 6 + [1] * 4)
    one = clip("a", truth, p)
    table = calibration_metrics.reliability([one])
    assert table["confidence"].to_list() == pytest.approx([0.6, 0.9])
    assert table["accuracy"].to_list() == pytest.approx([0.6, 0.8])
    found = calibration_metrics.calibration_error([one])
    assert found["ece"] == pytest.approx(0.05)
    assert found["nll"] == pytest.approx(-(8 * np.log(0.9) + 2 * np.log(0.1) + 6 * np.log(0.6) + 4 * np.log(0.4)) / 20)
    assert np.isnan(calibration_metrics.calibration_error([replace(one, true_class=np.full(20, -1))])["nll"])
