"""The feature store: round trips, damage detection, and separation of provenances."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mien.errors import MienError, OutputError
from mien.store import FeatureError, FeatureStore, ProvenanceError, Reader, StoreError
from tests.store.streams import KEY, stream, write

# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", ["../up", "a/b", "x" * 500, "日本語" * 60, "~", os.fsdecode(b"caf\xe9")])
def test_unusual_ids_are_stored_inside_the_store_and_recovered(tmp_path: Path, clip: str) -> None:
    store = FeatureStore(tmp_path / "s")
    path = write(store, clip)
    assert path.parent == tmp_path / "s" / "tiny"
    features = store.open("tiny")
    assert list(features) == [clip]
    assert clip in features
    assert features[clip].clip == clip


# -- round trips -----------------------------------------------------------------------------------


@settings(max_examples=30)
@given(rows=st.integers(0, 50), dim=st.integers(1, 9), seed=st.integers(0, 99), pieces=st.integers(1, 5))
def test_written_streams_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: int, dim: int, seed: int, pieces: int
) -> None:
    store, s = FeatureStore(tmp_path_factory.mktemp("store")), stream(rows, dim, seed)
    for dtype in ("float16", "float32"):
        with store.writer(dtype, "c", dim=dim, provenance=KEY, dtype=dtype) as writer:
            for part in np.array_split(np.arange(rows), pieces):
                writer.append(s.values[part], s.times[part], s.valid[part])
        reader = Reader(writer.path)
        back = reader.stream()
        assert back.values.dtype == np.float32
        assert back.provenance == KEY
        np.testing.assert_array_equal(back.times, s.times)
        np.testing.assert_array_equal(back.valid, s.valid)
        np.testing.assert_array_equal(back.values[s.valid], s.values[s.valid].astype(dtype).astype(np.float32))
        assert not back.values[~s.valid].any()
        assert (reader.rows, reader.dim, reader.dtype, reader.valid_rows) == (rows, dim, dtype, s.valid.sum())


def test_files_are_plain_safetensors(tmp_path: Path) -> None:
    s = stream(rows=7, dim=3)  # 42 bytes of values: the times after them would not be aligned without padding
    tensors = load_file(write(FeatureStore(tmp_path), s=s))
    assert tensors["values"].dtype == np.float16
    assert tensors["values"].shape == (7, 3)
    np.testing.assert_array_equal(tensors["times"], s.times)
    np.testing.assert_array_equal(tensors["valid"], s.valid)


@given(start=st.integers(-3, 60), stop=st.integers(-3, 60))
def test_reading_rows_equals_slicing_the_stream(
    tmp_path_factory: pytest.TempPathFactory, start: int, stop: int
) -> None:
    s = stream()
    path = tmp_path_factory.getbasetemp() / "window" / "tiny" / "a.safetensors"
    if not path.exists():
        write(FeatureStore(path.parents[1]), s=s, dtype="float32")
    window = Reader(path).read(start, stop)
    rows = [i for i in range(40) if start <= i < stop]
    np.testing.assert_array_equal(window.times, s.times[rows])
    np.testing.assert_array_equal(window.values[window.valid], s.values[rows][s.valid[rows]])


def test_reading_an_interval_in_seconds(tmp_path: Path) -> None:
    s = stream()
    window = Reader(write(FeatureStore(tmp_path), s=s)).between(s.times[5], s.times[9])
    np.testing.assert_array_equal(window.times, s.times[5:9])


def test_reading_rows_does_not_load_the_file(tmp_path: Path) -> None:
    """300 rows of a 205 MB file, in a fresh process: its memory grows by the rows, not by the file."""
    store = FeatureStore(tmp_path)
    with store.writer("big", "a", dim=1024, provenance=KEY) as writer:
        for i in range(100):
            writer.append(np.zeros((1000, 1024), np.float16), np.arange(1000) + 1000.0 * i, np.ones(1000, bool))
    code = (
        "import sys, resource; from pathlib import Path; from mien.store import Reader; r = Reader(Path(sys.argv[1]));"
        "m = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; a = m();"
        "w = r.read(50_000, 50_300);"
        "assert w.values.shape == (300, 1024); print(m() - a)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(writer.path)], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 12_000


def test_a_reader_can_be_pickled(tmp_path: Path) -> None:
    reader = Reader(write(FeatureStore(tmp_path)))
    reader.read(0, 5)
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again.stream().values, reader.stream().values)


def test_a_mapped_stream_equals_the_stored_values(tmp_path: Path) -> None:
    reader = Reader(write(FeatureStore(tmp_path)))
    mapped = reader.stream(mapped=True)
    assert mapped.values.dtype == np.float16
    assert not mapped.values.flags.owndata
    np.testing.assert_array_equal(mapped.values.astype(np.float32), reader.stream().values)


def test_files_are_deterministic(tmp_path: Path) -> None:
    assert write(FeatureStore(tmp_path / "1")).read_bytes() == write(FeatureStore(tmp_path / "2")).read_bytes()


def test_notes_and_origin_are_stored_and_too_long_notes_are_dropped(tmp_path: Path) -> None:
    s, store = stream(), FeatureStore(tmp_path)
    with store.writer("tiny", "a", dim=6, provenance=KEY, origin={"size": 3}) as writer:
        writer.append(s.values, s.times, s.valid)
        writer.notes += ["audio ends early: é", "x" * 5000]
    reader = Reader(writer.path)
    assert reader.notes == ["audio ends early: é"]
    assert reader.origin == {"size": 3}
    assert not list(store.verify())


# -- provenance -------------------------------------------------------------------------------------


def test_opening_reports_each_differing_key_with_both_values(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write(store)
    with pytest.raises(ProvenanceError) as error:
        store.open("tiny", KEY | {"layer": "mean-4", "revision": "f00"})
    assert "a.safetensors has another provenance" in str(error.value)
    assert "layer: the file has 'last', 'mean-4' is requested" in str(error.value)
    assert "revision: the file has None, 'f00' is requested" in str(error.value)
    assert "network" not in str(error.value)
    assert "--replace" in str(error.value)
    assert error.value.exit_code == 2


def test_files_of_two_provenances_are_refused_without_a_requested_one(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write(store, "a")
    write(store, "b", s=stream(provenance=KEY | {"crop": "224"}))
    with pytest.raises(ProvenanceError, match=r"b\.safetensors .*crop: the file has '224', '112' is requested"):
        store.open("tiny")
    assert store.ls()[0].kinds == 2


def test_a_file_written_after_opening_is_checked_when_it_is_read(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write(store, "a")
    features = store.open("tiny", KEY)
    write(store, "b", s=stream(provenance=KEY | {"crop": "224"}))
    with pytest.raises(ProvenanceError, match="crop"):
        features["b"]


def test_a_file_of_another_provenance_is_overwritten_only_with_replace(tmp_path: Path) -> None:
    store, other = FeatureStore(tmp_path), stream(provenance=KEY | {"crop": "224"})
    before = write(store).read_bytes()
    with pytest.raises(ProvenanceError):
        write(store, s=other)
    assert store.path("tiny", "a").read_bytes() == before
    write(store, s=other, replace=True)
    assert store.open("tiny")["a"].provenance["crop"] == "224"


def test_a_file_of_another_clip_is_not_overwritten(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    os.rename(write(store, "A"), store.path("tiny", "a"))  # as on a file system that ignores case
    with pytest.raises(StoreError, match="belongs to clip 'A'; to this file system 'a' is the same name"):
        write(store, "a")


def test_a_missing_encoder_or_clip_is_an_error_that_lists_the_encoders(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    with pytest.raises(StoreError, match=r"has no features of encoder 'wavlm'; it has: none"):
        store.open("wavlm")
    write(store)
    with pytest.raises(StoreError, match="it has: tiny"):
        store.open("wavlm")
    with pytest.raises(StoreError, match=r"b\.safetensors is not in the store"):
        store.open("tiny")["b"]


# -- damage ----------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_any_flipped_bit_is_detected(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    store = FeatureStore(tmp_path_factory.mktemp("flip"))
    path = write(store, s=stream(rows=9, dim=3))
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    faults = list(store.verify())
    assert [f.path for f in faults] == [path]


@given(keep=st.floats(0, 0.999))
def test_a_truncated_file_is_refused_when_opening(tmp_path_factory: pytest.TempPathFactory, keep: float) -> None:
    store = FeatureStore(tmp_path_factory.mktemp("cut"))
    path = write(store)
    size = path.stat().st_size
    os.truncate(path, int(size * keep))
    with pytest.raises(StoreError) as error:
        store.open("tiny")
    assert str(path) in str(error.value)
    assert "mien store gc STORE --broken" in str(error.value)
    assert [f.path for f in store.verify()] == [path]
    assert store.ls()[0].broken == 1


def test_the_error_of_a_truncated_file_names_both_sizes(tmp_path: Path) -> None:
    path = write(FeatureStore(tmp_path))
    size = path.stat().st_size
    os.truncate(path, size - 10)
    with pytest.raises(StoreError, match=f"has {size - 10:,} bytes, but its header promises {size:,}"):
        Reader(path)


def test_files_of_other_formats_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(StoreError, match="has a header that cannot be read"):
        FeatureStore(tmp_path).open("tiny")
    header = b'{"__metadata__":{"format":"mien-stream-9"},"valid":{"data_offsets":[0,0]},"values":{"dtype":"F16"}}'
    (folder / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(StoreError, match="has format 'mien-stream-9'; this version reads 'mien-stream-1'"):
        FeatureStore(tmp_path).open("tiny")


def test_a_header_with_wrong_offsets_is_refused(tmp_path: Path) -> None:
    path = write(FeatureStore(tmp_path))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"shape":[40,6]', b'"shape":[60,4]').replace(b'"shape":[40]', b'"shape":[41]'))
    with pytest.raises(StoreError, match="offsets do not match the size of 'times'"):
        Reader(path)


def test_a_broken_file_is_overwritten(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    path = write(store)
    whole = path.read_bytes()
    os.truncate(path, 100)
    write(store)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("bad", "dtype", "text"),
    [
        (70000.0, "float16", r"column 2 is 70000.0, which float16 cannot represent\.\n.*\n.*--dtype float32"),
        (np.nan, "float32", r"row 1, column 2 is nan, which float32 cannot represent\.\n.*\nThe encoder returned it"),
        (np.inf, "float32", "is inf"),
    ],
)
def test_values_that_cannot_be_represented_are_refused(tmp_path: Path, bad: float, dtype: str, text: str) -> None:
    s, store = stream(), FeatureStore(tmp_path)
    s.valid[:] = True
    s.values[1, 2] = bad
    with pytest.raises(FeatureError, match=text):
        write(store, s=s, dtype=dtype)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    s.valid[1] = False  # values at invalid rows are not stored
    write(store, s=s, dtype=dtype)


def test_times_must_increase_across_appends(tmp_path: Path) -> None:
    s = stream()
    with FeatureStore(tmp_path).writer("tiny", "a", dim=6, provenance=KEY) as writer:
        writer.append(s.values, s.times, s.valid)
        with pytest.raises(FeatureError, match="times must increase; row 40 is at"):
            writer.append(s.values, s.times, s.valid)
    assert Reader(writer.path).rows == 40


def test_a_file_size_limit_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    """The limit is reached halfway through a file."""
    store = FeatureStore(tmp_path)
    write(store, "a")
    script = Path(__file__).with_name("write_beyond_limit.py")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=True)
    assert f"{store.path('tiny', 'b')} could not be written: File too large." in done.stdout
    assert "Free some space" in done.stdout
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.safetensors"]


@pytest.mark.parametrize("when", ["write", "fsync", "replace"])
def test_a_full_disk_is_an_output_error_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    store, s = FeatureStore(tmp_path), stream(rows=2000, dim=600)
    before = write(store, "a").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "write":
        from mien.store.writer import Writer

        monkeypatch.setattr(Writer, "_write", full)
    else:
        monkeypatch.setattr(os, when, full)
    with pytest.raises(OutputError, match=r"No space left on device\.\nNothing of it was kept\.\nFree some space"):
        write(store, "a", s=s, replace=True)
    assert store.path("tiny", "a").read_bytes() == before
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.safetensors"]


def test_no_permission_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match=r"Check that .* exists and can be written"):
        write(FeatureStore(tmp_path / "s"))


def test_errors_are_mien_errors_and_provenance_is_text(tmp_path: Path) -> None:
    assert issubclass(StoreError, MienError)
    assert issubclass(ProvenanceError, MienError)
    with pytest.raises(ValueError, match=r"provenance maps strings to strings; encoder tiny gives {'layer': 3}"):
        write(FeatureStore(tmp_path), s=stream(provenance={"layer": 3}))  # type: ignore[dict-item]
    header = json.loads(
        write(FeatureStore(tmp_path)).read_bytes()[8:].split(b"\0")[0].decode(errors="ignore").split("  ")[0]
    )
    assert json.loads(header["__metadata__"]["provenance"]) == KEY
