"""Re-identification where a track goes over to another person's face."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mien.faces.mesh import MeshPrediction
from mien.faces.reidentification import (
    NEW_DESCRIPTOR_DISTANCE,
    SAME_SUBJECT_DISTANCE,
    Reidentifier,
    Subject,
)
from mien.faces.tracker import FaceTracker, _Track

#: Descriptors of two people, far apart.
ANNA, BERT = np.eye(192)[:2]
BOX = np.array([100, 100, 200, 200.0])


def two_people(reidentifier: Reidentifier) -> tuple[Subject, Subject]:
    """Anna and Bert, both seen since 10 seconds."""
    anna, bert = reidentifier.identify([ANNA, BERT], [BOX, BOX + 300], 10, (), 10, [True, True])
    assert anna is not None
    assert bert is not None
    return anna, bert


def test_a_subject_learns_only_what_is_clearly_its_own() -> None:
    """Learning the face of somebody who took over the track would make both subjects the same."""
    reidentifier = Reidentifier()
    anna, bert = two_people(reidentifier)
    bert.descriptors = [ANNA + 0.8 * BERT]
    smiling, between = ANNA + 0.3 * BERT, ANNA + 0.4 * BERT
    for face in (smiling, between):
        assert NEW_DESCRIPTOR_DISTANCE < anna.distance(face) < SAME_SUBJECT_DISTANCE
    reidentifier.learn(anna, between)  # .4 from both
    assert len(anna.descriptors) == 1
    reidentifier.learn(anna, smiling)  # .3 from her own, .5 from his
    assert len(anna.descriptors) == 2
    reidentifier.learn(bert, between)
    assert len(bert.descriptors) == 1


@pytest.mark.parametrize("described_s", list(itertools.product((30.0, 29.96), repeat=2)))
def test_tracks_that_exchanged_people_are_put_right_also_if_described_in_different_frames(
    described_s: tuple[float, float],
) -> None:
    tracker = FaceTracker.__new__(FaceTracker)  # without the networks
    tracker._reidentifier = Reidentifier()
    anna, bert = two_people(tracker._reidentifier)
    prediction = MeshPrediction.__new__(MeshPrediction)
    tracker._tracks = [
        _Track(prediction, ANNA, described_s[0], subject=bert),
        _Track(prediction, BERT, described_s[1], subject=anna),
    ]
    tracker._correct_subjects(30.0)
    is_new = 30.0 in described_s
    assert [track.subject for track in tracker._tracks] == ([anna, bert] if is_new else [bert, anna])
