"""the scenario: seeded, nobody in two splits, truth that follows the planted envelopes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.labels import EXPRESSIONS, NEUTRAL
from mien.synthetic import scenario as plans
from mien.synthetic.expression_prototypes import SHARES, recipes
from mien.synthetic.scenario import VISIBLE, Impairment, Scenario, Segment, draw


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(plans.SPLITS), st.floats(1.0, 60.0))
def test_the_same_numbers_are_the_same_plan(seed: int, split: str, seconds: float) -> None:
    first, again = (draw(split, 3, seconds=seconds, seed=seed) for _ in range(2))
    assert first == again
    assert draw(split, 4, seconds=seconds, seed=seed).seed != first.seed
    assert min(s.start_s for s in first.segments) >= 0
    assert max(s.stop_s for s in first.segments) == pytest.approx(seconds)
    assert all(0 <= a < b <= seconds for a, b in first.speech)
    assert all(0 <= f.start_s < f.stop_s <= seconds + 1e-9 for f in first.faults)


def test_nobody_is_in_two_splits() -> None:
    people = {
        split: {draw(split, n, seconds=5, seed=s).person for n in range(150) for s in (0, 3407)}
        for split in plans.SPLITS
    }
    for one in people:
        for other in people:
            assert one == other or not people[one] & people[other]


def test_one_person_plays_several_recordings_if_asked() -> None:
    made = [draw("train", n, seconds=5, seed=1, per_person=3) for n in range(6)]
    assert [p.person for p in made[:3]] == [made[0].person] * 3
    assert made[3].person != made[0].person
    assert len({p.seed for p in made}) == 6


def shares(balance: float) -> np.ndarray:
    count = np.zeros(len(EXPRESSIONS))
    for n in range(400):
        for s in draw("train", n, seconds=15, seed=2, balance=balance).segments:
            count[s.expression] += 1
    return count / count.sum()


def test_classes_are_long_tailed_as_in_the_corpus_and_even_if_asked() -> None:
    natural, even = shares(0.0), shares(1.0)
    np.testing.assert_allclose(natural, SHARES / SHARES.sum(), atol=0.02)
    np.testing.assert_allclose(even, np.full(8, 1 / 8), atol=0.02)
    assert natural.max() / natural.min() > 5


def test_faults_are_planted_in_the_shares_that_are_said() -> None:
    made = [draw("train", n, seconds=20, seed=4) for n in range(500)]
    for kind, expected in {"occluded": 0.25, "absent": 0.2, "dark": 0.12, "silent": 0.2, "noise": 0.2}.items():
        share = np.mean([any(f.kind == kind for f in p.faults) for p in made])
        assert share == pytest.approx(expected, abs=0.06), kind
    assert not any(draw("train", n, seconds=20, seed=4, faults=False).faults for n in range(50))
    rates = {p.rate for p in made}
    assert {r for r, _ in plans.RATES} == rates


def scene(intensity: float) -> Scenario:
    name, recipe = next((n, r) for n, r in recipes().items() if EXPRESSIONS[r.expression] == "Happiness")
    still = Segment(0.0, 1.0, NEUTRAL, "rest", 0.0, 0.2, 0.2)
    smile = Segment(1.0, 3.0, recipe.expression, name, intensity, 0.4, 0.4)
    after = Segment(3.0, 5.0, NEUTRAL, "rest", 0.0, 0.2, 0.2)
    return Scenario(
        "p", 1, "test", "s", 1, "female", 5.0, plans.RATES[0][0], (still, smile, after), (), (Impairment("dark", 2, 3),)
    )


def test_labels_follow_the_envelope() -> None:
    plan, times = scene(1.0), np.arange(0, 5, 0.01)
    envelope, labels = plan.envelopes(times)[1], plan.labels(times)
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


def test_what_an_onlooker_would_not_call_shown_is_neutral() -> None:
    times = np.arange(0, 5, 0.01)
    assert (scene(VISIBLE - 0.01).labels(times).expression == NEUTRAL).all()


def test_within_is_the_half_open_stretch_of_the_fault() -> None:
    plan = scene(1.0)
    assert plan.within(("dark",), np.array([1.99, 2.0, 2.99, 3.0])).tolist() == [False, True, True, False]
    assert not plan.within(("absent",), np.array([2.5])).any()


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="split 'dev' is none of train, val, test"):
        draw("dev", 0, seconds=5, seed=0)
