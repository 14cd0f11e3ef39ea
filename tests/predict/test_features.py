"""The table of features: columns against closed forms and against the known truth of simulated and rendered people."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.encode.encode_media import EncodedMedia
from mien.encode.subject_features import VideoFaces
from mien.encode.subject_track import SubjectTrack
from mien.encoders import face_geometry, voice_prosody
from mien.encoders.voice_prosody import VoiceProsody
from mien.predict import blinks
from mien.predict.feature_columns import COLUMNS, KEYS, VOICE, schema
from mien.predict.features import (
    PROSODY,
    face_columns,
    feature_rows,
    needs_prosody,
    openface_angles,
    take_prosody,
    without_voice_of_others,
)
from mien.records import Stream
from mien.synthetic import mesh_tracks
from mien.synthetic.scenario import draw_scenario
from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline

DOCS = Path(__file__).parents[2] / "docs"


def faces_of(geometry: np.ndarray, times: np.ndarray, read: np.ndarray | None = None) -> VideoFaces:
    """One person, seen in the frames whose geometry is finite."""
    track = SubjectTrack(0)
    rows = np.flatnonzero(np.isfinite(geometry).all(axis=1))
    rows = rows if read is None else np.intersect1d(rows, read)
    track.rows.extend(rows)
    track.geometry.extend(geometry[rows])
    return VideoFaces(times, [track], read=read)


def simulated(number: int, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, mesh_tracks.MeshTrack]:
    """True lid closure of the blinks of a simulated person, and the track of the meshes."""
    closures: list[np.ndarray] = []
    simulate = mesh_tracks._blinks

    def recorded(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
        closures.append(simulate(rng, times))
        return closures[-1]

    with monkeypatch.context() as patch:
        patch.setattr(mesh_tracks, "_blinks", recorded)
        track = mesh_tracks.simulate_track(draw_scenario("test", number, seconds=20, seed=77, impairments=False))
    return closures[0], track


def test_head_pose_and_blinks_of_simulated_people(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, hits, found, true = [], 0, 0, 0
    for number in range(8):
        closure, track = simulated(number, monkeypatch)
        columns = face_columns(faces_of(face_geometry.compute_features(track.meshes), track.times), 0)
        angles = np.stack([columns[name] for name in ("pose_Rx", "pose_Ry", "pose_Rz")], axis=1)
        errors.append(np.abs(angles - np.stack(openface_angles(*track.pose.T), axis=1)).mean(axis=0))
        middles = [[(track.times[a] + track.times[b - 1]) / 2 for a, b in blinks._runs(flags)]
                   for flags in (closure > 0.1, columns["AU45_c"] > 0)]  # fmt: skip
        assert columns["blinks"][-1] == len(middles[1])
        near = np.abs(np.subtract.outer(middles[0], middles[1])) < 0.25
        hits, true, found = hits + int(near.any(axis=1).sum()), true + len(near), found + len(middles[1])
    assert true > 20
    assert 2 * hits / (true + found) > 0.93
    assert np.degrees(np.mean(errors, axis=0)).max() < 3.0


@given(st.lists(st.floats(-1.2, 1.2), min_size=3, max_size=3))
def test_angles_describe_the_same_rotation_as_the_pose(pose: list[float]) -> None:
    """Rx Ry Rz of the angles is the rotation Rz Ry Rx of pitch, yaw and roll."""
    pitch, yaw, roll = pose
    x, y, z = (float(a[0]) for a in openface_angles(*np.array(pose)[:, None]))

    def about(axis: int, angle: float) -> np.ndarray:
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        matrix = np.eye(3)
        matrix[i, i] = matrix[j, j] = np.cos(angle)
        matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
        return matrix

    expected = about(2, roll) @ about(1, -yaw) @ about(0, pitch)
    np.testing.assert_allclose(about(0, x) @ about(1, y) @ about(2, z), expected, atol=1e-9)


def dips(times: np.ndarray, *spans: tuple[float, float], depth: float = 0.6) -> np.ndarray:
    opening = np.full(len(times), 0.1)
    for start, stop in spans:
        opening[(times >= start) & (times < stop)] *= 1 - depth
    return opening


@pytest.mark.parametrize("rate", [15.0, 25.0, 29.97, 60.0])
def test_short_dips_are_blinks_and_long_ones_are_not(rate: float) -> None:
    times = np.arange(round(10 * rate)) / rate
    found = blinks.find_blinks(dips(times, (1.0, 1.2), (4.0, 5.5), (8.0, 8.3)), times)
    assert found is not None
    assert found.max() == 2
    first, second = times[found == 1], times[found == 2]
    assert first[0] >= 1.0
    assert first[-1] < 1.2
    assert second[0] >= 8.0
    assert second[-1] < 8.3
    shallow = blinks.find_blinks(dips(times, (1.0, 1.2), depth=0.06), times)
    assert shallow is not None
    assert not shallow.any()


def test_two_blinks_are_two_although_the_lids_do_not_open_fully_between_them() -> None:
    times = np.arange(100) / 25
    opening = dips(times, (2.0, 2.12), (2.4, 2.52))
    opening[(times >= 2.12) & (times < 2.4)] = 0.09
    found = blinks.find_blinks(opening, times)
    assert found is not None
    assert found.max() == 2
    assert not found[(times >= 2.13) & (times < 2.4)].any()


def test_blinks_do_not_reach_across_a_gap_in_the_face() -> None:
    times = np.arange(300) / 30
    opening = dips(times, (2.0, 2.2))
    opening[(times >= 5) & (times < 7)] = np.nan
    opening[times >= 7] = 0.06  # the person sits differently: not a blink
    found = blinks.find_blinks(opening, times)
    assert found is not None
    assert found.max() == 1


def test_blinks_are_unknown_where_faces_are_read_too_seldom() -> None:
    assert blinks.find_blinks(np.full(50, 0.1), np.arange(50) / 10) is None
    times = np.arange(300) / 30
    geometry = np.tile(face_geometry.load_canonical_face()["resting_mean"], (300, 1))
    columns = face_columns(faces_of(geometry, times, read=np.arange(0, 300, 5)), 0)
    assert np.isnan(columns["blinks"]).all()
    assert np.isfinite(columns["pose_Rx"]).all()


def prosody(times: np.ndarray, **values: float) -> Stream:
    """Prosody of a voice with these columns, silent in the second half."""
    rows = np.zeros((len(times), voice_prosody.DIM), np.float32)
    valid = times < times[-1] / 2
    for name, value in values.items():
        rows[valid, voice_prosody.COLUMN[name]] = value
    return Stream(rows, times, valid, {})


def sound_only(stream: Stream, stop_s: float) -> EncodedMedia:
    level = Stream(
        np.full((len(stream.times), 1), -20.0, np.float32), stream.times, np.ones(len(stream.times), bool), {}
    )
    return EncodedMedia(VideoFaces(np.zeros(0)), {"voice": stream}, stream, True, stop_s, level)


def test_voice_columns_have_their_units() -> None:
    times = (np.arange(100) + 0.5) / 25
    stream = prosody(times, pitch=0.5, voicing=1.0, alpha_ratio=-1.2, centroid=0.8, energy=0.1)
    table = feature_rows(sound_only(stream, 4.0), stream)
    assert table.columns == [*KEYS, *(c.name for c in COLUMNS)]
    assert table.schema == pl.Schema(schema())
    spoken, silent = table.row(5, named=True), table.row(35, named=True)
    assert spoken["f0_hz"] == pytest.approx(150 * 2**0.5, rel=1e-5)
    assert (spoken["alpha_ratio_db"], spoken["energy_db"]) == pytest.approx((-12.0, 1.0), rel=1e-5)
    assert spoken["centroid_hz"] == pytest.approx(800)
    assert spoken["level_db"] == pytest.approx(-20)
    assert (spoken["voice_activity"], silent["voice_activity"]) == (1, 0)
    assert silent["level_db"] == pytest.approx(-20)
    assert all(silent[c.name] is None for c in VOICE)
    assert spoken["pose_Rx"] is None


def test_pitch_of_a_mostly_unvoiced_cell_is_not_given() -> None:
    times = (np.arange(100) + 0.5) / 25
    stream = prosody(times, pitch=0.5, voicing=0.25)
    assert feature_rows(sound_only(stream, 4.0), stream)["f0_hz"].is_null().all()


def test_the_voice_of_others_is_left_out() -> None:
    times = (np.arange(100) + 0.5) / 25
    stream = prosody(times, pitch=0.5, voicing=1.0)
    table = feature_rows(sound_only(stream, 4.0), stream)
    speech = pl.Series(["other"] * 5 + ["shared"] * 5 + [None] * 30)
    own = without_voice_of_others(table, speech)
    assert own["f0_hz"][:5].is_null().all()
    assert own["f0_hz"][5:10].is_not_null().all()
    assert own["level_db"].equals(table["level_db"])


def test_the_model_does_not_get_the_prosody_added_for_features() -> None:
    times = (np.arange(100) + 0.5) / 25
    stream = prosody(times)
    media = sound_only(stream, 4.0)
    media.audio[PROSODY] = stream

    class Hears:
        def encode_audio(self) -> None: ...

    assert needs_prosody({"voice": Hears()})
    assert not needs_prosody({"voice": VoiceProsody()})
    assert not needs_prosody({})
    assert take_prosody(media, {"voice": Hears()}) is not None
    assert list(media.audio) == ["voice"]


def timeline(features: pl.DataFrame | None, count: int = 40) -> Timeline:
    times = np.arange(count) / 10
    nothing = np.zeros(count, bool)
    rows = subject_rows(
        0, times, probabilities=np.full((count, 8), 0.125), valence_arousal=np.zeros((count, 2)), voice=nothing
    )
    return Timeline(rows, features=features)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_features_are_written_and_are_no_part_of_the_timeline(tmp_path: Path, suffix: str) -> None:
    stream = prosody((np.arange(100) + 0.5) / 25, pitch=0.5, voicing=1.0)
    table = feature_rows(sound_only(stream, 4.0), stream)
    path = timeline(table).write_features(tmp_path / f"features.{suffix}")
    read = {"csv": pl.read_csv, "parquet": pl.read_parquet, "jsonl": pl.read_ndjson}[suffix](path)
    assert sorted(read.columns) == sorted(table.columns)
    np.testing.assert_allclose(read["f0_hz"][:15].to_numpy(), table["f0_hz"][:15].to_numpy(), atol=1e-4)
    assert read["f0_hz"][30] is None
    plain = timeline(None).write(tmp_path / "plain.csv").read_bytes()
    assert timeline(table).write(tmp_path / "with.csv").read_bytes() == plain


def test_features_of_other_rows_are_refused(tmp_path: Path) -> None:
    stream = prosody((np.arange(100) + 0.5) / 25)
    table = feature_rows(sound_only(stream, 4.0), stream)
    with pytest.raises(ValueError, match="other rows"):
        timeline(table, count=39)
    with pytest.raises(ValueError, match=r"\.csv, \.parquet or \.jsonl, not as 'features\.txt'"):
        timeline(table).write_features(tmp_path / "features.txt")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="features=True"):
        timeline(None).write_features(tmp_path / "features.csv")


def test_the_page_states_every_column_with_its_unit_and_definition() -> None:
    page = (DOCS / "FEATURES.md").read_text(encoding="utf-8").split("## Names in other programs")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", page, re.MULTILINE)
    stated = {name: (unit, definition) for name, unit, definition in rows}
    for column in COLUMNS:
        if not column.name.endswith("_change"):
            assert stated.get(column.name) == (column.unit, column.definition), column.name
