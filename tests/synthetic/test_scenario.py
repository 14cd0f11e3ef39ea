"""Scenarios: seeded, no person in two splits, labels that follow the envelopes of the expressions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.labels import EXPRESSIONS, NEUTRAL
from mien.synthetic.expression_prototypes import CLASS_SHARES, prototypes
from mien.synthetic.scenario import (
    FRAME_RATES,
    SPLITS,
    VISIBLE,
    Impairment,
    Scenario,
    Segment,
    draw_scenario,
)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(SPLITS), st.floats(1.0, 60.0))
def test_the_same_arguments_give_the_same_scenario(seed: int, split: str, seconds: float) -> None:
    first, again = (draw_scenario(split, 3, seconds=seconds, seed=seed) for _ in range(2))
    assert first == again
    assert draw_scenario(split, 4, seconds=seconds, seed=seed).seed != first.seed
    assert min(s.start_s for s in first.segments) >= 0
    assert max(s.stop_s for s in first.segments) == pytest.approx(seconds)
    assert all(0 <= a < b <= seconds for a, b in first.speech)
    assert all(0 <= f.start_s < f.stop_s <= seconds + 1e-9 for f in first.impairments)


def test_no_person_is_in_two_splits() -> None:
    people = {
        split: {draw_scenario(split, n, seconds=5, seed=s).identity_seed for n in range(150) for s in (0, 3407)}
        for split in SPLITS
    }
    for a, b in combinations(people, 2):
        assert not people[a] & people[b]


def test_per_person_is_the_number_of_recordings_of_each_person() -> None:
    scenarios = [draw_scenario("train", n, seconds=5, seed=1, per_person=3) for n in range(6)]
    assert [p.identity_seed for p in scenarios[:3]] == [scenarios[0].identity_seed] * 3
    assert scenarios[3].identity_seed != scenarios[0].identity_seed
    assert len({p.seed for p in scenarios}) == 6


def shares(balance: float) -> np.ndarray:
    count = np.zeros(len(EXPRESSIONS))
    for n in range(400):
        for s in draw_scenario("train", n, seconds=15, seed=2, balance=balance).segments:
            count[s.expression] += 1
    return count / count.sum()


def test_class_shares_are_those_of_aff_wild2_or_equal_by_balance() -> None:
    natural, equal = shares(0.0), shares(1.0)
    np.testing.assert_allclose(natural, CLASS_SHARES / CLASS_SHARES.sum(), atol=0.02)
    np.testing.assert_allclose(equal, np.full(8, 1 / 8), atol=0.02)
    assert natural.max() / natural.min() > 5


def test_impairments_occur_with_their_documented_probabilities() -> None:
    scenarios = [draw_scenario("train", n, seconds=20, seed=4) for n in range(500)]
    for kind, expected in {"occluded": 0.25, "absent": 0.2, "dark": 0.12, "silent": 0.2, "noise": 0.2}.items():
        share = np.mean([any(f.kind == kind for f in p.impairments) for p in scenarios])
        assert share == pytest.approx(expected, abs=0.06), kind
    assert not any(draw_scenario("train", n, seconds=20, seed=4, impairments=False).impairments for n in range(50))
    rates = {p.rate for p in scenarios}
    assert {r for r, _ in FRAME_RATES} == rates


def smile_scenario(intensity: float) -> Scenario:
    name, prototype = next((n, p) for n, p in prototypes().items() if EXPRESSIONS[p.expression] == "Happiness")
    before = Segment(0.0, 1.0, NEUTRAL, "rest", 0.0, 0.2, 0.2)
    smile = Segment(1.0, 3.0, prototype.expression, name, intensity, 0.4, 0.4)
    after = Segment(3.0, 5.0, NEUTRAL, "rest", 0.0, 0.2, 0.2)
    segments, impairments = (before, smile, after), (Impairment("dark", 2, 3),)
    return Scenario("p", 1, "test", "s", 1, "female", 5.0, FRAME_RATES[0][0], segments, (), impairments)


def test_labels_follow_the_envelope() -> None:
    scenario, times = smile_scenario(1.0), np.arange(0, 5, 0.01)
    envelope, labels = scenario.envelopes(times)[1], scenario.labels(times)
    happy = EXPRESSIONS.index("Happiness")
    assert np.array_equal(labels.expression == happy, envelope >= VISIBLE)
    assert set(labels.expression) == {NEUTRAL, happy}
    # raised cosine: VISIBLE is passed at this share of the onset, and again on the way back
    share = np.arccos(1 - 2 * VISIBLE) / np.pi
    first, last = times[labels.expression == happy][[0, -1]]
    assert first == pytest.approx(1.0 + 0.4 * share, abs=0.011)
    assert last == pytest.approx(3.0 + 0.4 * (1 - share), abs=0.011)
    assert labels.valence_arousal[250, 0] > 0.3, "a full smile is pleasant"
    assert np.abs(labels.valence_arousal[times < 0.9]).max() == 0


def test_an_expression_below_the_visible_intensity_is_labelled_neutral() -> None:
    times = np.arange(0, 5, 0.01)
    assert (smile_scenario(VISIBLE - 0.01).labels(times).expression == NEUTRAL).all()


def test_an_impairment_covers_a_half_open_interval() -> None:
    scenario = smile_scenario(1.0)
    assert scenario.is_impaired(("dark",), np.array([1.99, 2.0, 2.99, 3.0])).tolist() == [False, True, True, False]
    assert not scenario.is_impaired(("absent",), np.array([2.5])).any()


def test_an_unknown_split_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="split 'dev' is none of train, val, test"):
        draw_scenario("dev", 0, seconds=5, seed=0)
