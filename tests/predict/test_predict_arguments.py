"""Conversion of the options of the command line and of the server to arguments of `Predictor.predict`."""

from __future__ import annotations

from mien.cli.predict_jobs import Format, PredictOptions
from mien.predict.request import predict_arguments
from mien.serve.jobs import JobOptions


def test_the_options_of_an_upload_are_arguments() -> None:
    given = JobOptions(
        max_faces=2, voice=False, audio_track=2, split_channels=True, min_quality=0.3, start_s=1.0, stop_s=2.0
    )
    assert predict_arguments(given) == {
        "face": True, "voice": False, "audio_track": 2, "split_channels": True, "min_quality": 0.3, "start_s": 1.0,
        "stop_s": 2.0,
    }  # fmt: skip


def test_the_options_of_the_command_are_arguments() -> None:
    given = PredictOptions(
        Format.csv, report=True, embed=True, overlay=True, face=False, voice=True, as_json=True, rate_hz=5.0,
        face_rate_hz=6.0, features=("gaze",),
    )  # fmt: skip
    assert predict_arguments(given) == {
        "face": False, "voice": True, "audio_track": None, "split_channels": False, "min_quality": 0.0, "start_s": 0.0,
        "stop_s": None, "face_rate_hz": 6.0, "features": ("gaze",),
    }  # fmt: skip
