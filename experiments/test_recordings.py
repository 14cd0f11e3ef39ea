"""Recordings of people of the synthetic corpus that no training recording shows."""

from __future__ import annotations

from mien.records import Recording
from mien.synthetic.recordings import simulate_recordings

#: Number of test recordings, their length in seconds, and their seed, which differs from that of training.
TEST, TEST_SECONDS, TEST_SEED = 40, 20.0, 3407


def simulate_test_recordings(*, snr_db: float | None = None, workers: int = 1) -> list[Recording]:
    """Simulate the test recordings. snr_db: noise throughout; None adds none."""
    return simulate_recordings(
        "test",
        TEST,
        seconds=TEST_SECONDS,
        seed=TEST_SEED,
        balance=0.5,
        impairments=False,
        snr_db=snr_db,
        workers=workers,
    )
