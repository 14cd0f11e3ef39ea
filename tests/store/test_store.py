"""The feature store: what is written comes back, what was harmed is found, what differs is never mixed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mien.errors import MienError, OutputError
from mien.records import Stream
from mien.store import FeatureError, FeatureStore, ProvenanceError, Reader, StoreError
from mien.store.filenames import escape, unescape
from mien.store.writer import part_path

KEY = {"network": "tiny", "layer": "last", "crop": "112"}


def stream(rows: int = 40, dim: int = 6, seed: int = 0, provenance: dict[str, str] = KEY) -> Stream:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.01, 0.1, rows))
    return Stream(rng.normal(size=(rows, dim)).astype(np.float32), times, rng.random(rows) > 0.3, provenance)


def write(
    store: FeatureStore, clip: str = "a", encoder: str = "tiny", s: Stream | None = None, **options: object
) -> Path:
    return store.write(encoder, clip, s or stream(), **options)


# -- names -----------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=400))
def test_any_clip_id_is_one_safe_file_name_and_comes_back(clip: str) -> None:
    name = escape(clip)
    assert not set(name) & set('/\\:*?"<>|\0\n')
    assert name[0] not in ". "
    assert name[-1] not in ". "
    assert len(name.encode()) <= 180
    assert unescape(name) in (clip, None)
    if len(clip.encode()) <= 40:
        assert unescape(name) == clip


@given(st.lists(st.text(alphabet="a/%~.é _\u4e2d", min_size=1, max_size=120), min_size=2, max_size=8, unique=True))
def test_different_ids_get_different_names(clips: list[str]) -> None:
    assert len({escape(clip) for clip in clips}) == len(clips)


def test_ordinary_ids_stay_as_they_are() -> None:
    for clip in ("1-30-1280x720", "video59_right", "Gespräch 3", "発話"):
        assert escape(clip) == clip


@pytest.mark.parametrize("clip", ["../up", "a/b", "x" * 500, "日本語" * 60, "~", os.fsdecode(b"caf\xe9")])
def test_odd_ids_are_stored_inside_the_store_and_found_again(tmp_path: Path, clip: str) -> None:
    store = FeatureStore(tmp_path / "s")
    path = write(store, clip)
    assert path.parent == tmp_path / "s" / "tiny"
    shelf = store.open("tiny")
    assert list(shelf) == [clip]
    assert clip in shelf
    assert shelf[clip].clip == clip


# -- there and back --------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(0, 50), dim=st.integers(1, 9), seed=st.integers(0, 99), pieces=st.integers(1, 5))
def test_what_is_written_comes_back(
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


def test_others_can_read_it_as_plain_safetensors(tmp_path: Path) -> None:
    s = stream(rows=7, dim=3)  # 42 bytes of values: the times after them would not be aligned without padding
    tensors = load_file(write(FeatureStore(tmp_path), s=s))
    assert tensors["values"].dtype == np.float16
    assert tensors["values"].shape == (7, 3)
    np.testing.assert_array_equal(tensors["times"], s.times)
    np.testing.assert_array_equal(tensors["valid"], s.valid)


@given(start=st.integers(-3, 60), stop=st.integers(-3, 60))
def test_a_window_is_a_slice_of_the_whole(tmp_path_factory: pytest.TempPathFactory, start: int, stop: int) -> None:
    s = stream()
    path = tmp_path_factory.getbasetemp() / "window" / "tiny" / "a.safetensors"
    if not path.exists():
        write(FeatureStore(path.parents[1]), s=s, dtype="float32")
    window = Reader(path).read(start, stop)
    rows = [i for i in range(40) if start <= i < stop]
    np.testing.assert_array_equal(window.times, s.times[rows])
    np.testing.assert_array_equal(window.values[window.valid], s.values[rows][s.valid[rows]])


def test_a_window_in_seconds(tmp_path: Path) -> None:
    s = stream()
    window = Reader(write(FeatureStore(tmp_path), s=s)).between(s.times[5], s.times[9])
    np.testing.assert_array_equal(window.times, s.times[5:9])


def test_a_window_reads_no_more_than_itself(tmp_path: Path) -> None:
    """300 rows of a 205 MB file, in a fresh process: its memory grows by the window, not by the file."""
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


def test_a_reader_travels_to_another_process(tmp_path: Path) -> None:
    reader = Reader(write(FeatureStore(tmp_path)))
    reader.read(0, 5)
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again.stream().values, reader.stream().values)


def test_a_mapped_stream_is_the_stored_one(tmp_path: Path) -> None:
    reader = Reader(write(FeatureStore(tmp_path)))
    mapped = reader.stream(mapped=True)
    assert mapped.values.dtype == np.float16
    assert not mapped.values.flags.owndata
    np.testing.assert_array_equal(mapped.values.astype(np.float32), reader.stream().values)


def test_same_stream_same_bytes(tmp_path: Path) -> None:
    assert write(FeatureStore(tmp_path / "1")).read_bytes() == write(FeatureStore(tmp_path / "2")).read_bytes()


def test_notes_and_origin_are_kept_and_long_notes_do_not_spoil_the_file(tmp_path: Path) -> None:
    s, store = stream(), FeatureStore(tmp_path)
    with store.writer("tiny", "a", dim=6, provenance=KEY, origin={"size": 3}) as writer:
        writer.append(s.values, s.times, s.valid)
        writer.notes += ["audio ends early: é", "x" * 5000]
    reader = Reader(writer.path)
    assert reader.notes == ["audio ends early: é"]
    assert reader.origin == {"size": 3}
    assert not list(store.verify())


# -- never mixed -----------------------------------------------------------------------------------


def test_opening_names_the_key_that_differs_with_both_values(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write(store)
    with pytest.raises(ProvenanceError) as error:
        store.open("tiny", KEY | {"layer": "mean-4", "revision": "f00"})
    assert "a.safetensors was made in another way" in str(error.value)
    assert "layer: the file has 'last', asked for is 'mean-4'" in str(error.value)
    assert "revision: the file has None, asked for is 'f00'" in str(error.value)
    assert "network" not in str(error.value)
    assert "--replace" in str(error.value)
    assert error.value.exit_code == 2


def test_files_of_two_kinds_are_found_without_being_asked_for_one(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write(store, "a")
    write(store, "b", s=stream(provenance=KEY | {"crop": "224"}))
    with pytest.raises(ProvenanceError, match=r"b\.safetensors .*crop: the file has '224', asked for is '112'"):
        store.open("tiny")
    assert store.ls()[0].kinds == 2


def test_a_file_that_comes_later_is_checked_when_it_is_read(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write(store, "a")
    shelf = store.open("tiny", KEY)
    write(store, "b", s=stream(provenance=KEY | {"crop": "224"}))
    with pytest.raises(ProvenanceError, match="crop"):
        shelf["b"]


def test_a_file_of_another_kind_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    store, other = FeatureStore(tmp_path), stream(provenance=KEY | {"crop": "224"})
    before = write(store).read_bytes()
    with pytest.raises(ProvenanceError):
        write(store, s=other)
    assert store.path("tiny", "a").read_bytes() == before
    write(store, s=other, replace=True)
    assert store.open("tiny")["a"].provenance["crop"] == "224"


def test_a_name_taken_by_another_clip_is_refused(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    os.rename(write(store, "A"), store.path("tiny", "a"))  # as a file system does that ignores case
    with pytest.raises(StoreError, match="holds clip 'A'; to this file system 'a' is the same name"):
        write(store, "a")


def test_missing_encoder_and_clip_say_what_is_there(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    with pytest.raises(StoreError, match=r"holds nothing of encoder 'wavlm'; it holds: none"):
        store.open("wavlm")
    write(store)
    with pytest.raises(StoreError, match="it holds: tiny"):
        store.open("wavlm")
    with pytest.raises(StoreError, match=r"b\.safetensors is not in the store"):
        store.open("tiny")["b"]


# -- harm ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    store = FeatureStore(tmp_path_factory.mktemp("flip"))
    path = write(store, s=stream(rows=9, dim=3))
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    faults = list(store.verify())
    assert [f.path for f in faults] == [path]


@given(keep=st.floats(0, 0.999))
def test_a_truncated_file_is_refused_at_the_door(tmp_path_factory: pytest.TempPathFactory, keep: float) -> None:
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


def test_the_text_of_a_truncation_names_both_sizes(tmp_path: Path) -> None:
    path = write(FeatureStore(tmp_path))
    size = path.stat().st_size
    os.truncate(path, size - 10)
    with pytest.raises(StoreError, match=f"is {size - 10:,} bytes where its header promises {size:,}"):
        Reader(path)


def test_foreign_files_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(StoreError, match="has a header that cannot be read"):
        FeatureStore(tmp_path).open("tiny")
    header = b'{"__metadata__":{"format":"mien-stream-9"},"valid":{"data_offsets":[0,0]},"values":{"dtype":"F16"}}'
    (folder / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(StoreError, match="is of format 'mien-stream-9'; this version reads 'mien-stream-1'"):
        FeatureStore(tmp_path).open("tiny")


def test_a_header_with_a_lie_about_offsets_is_refused(tmp_path: Path) -> None:
    path = write(FeatureStore(tmp_path))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"shape":[40,6]', b'"shape":[60,4]').replace(b'"shape":[40]', b'"shape":[41]'))
    with pytest.raises(StoreError, match="does not fit its place"):
        Reader(path)


def test_a_broken_file_is_written_anew(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    path = write(store)
    whole = path.read_bytes()
    os.truncate(path, 100)
    write(store)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("bad", "dtype", "text"),
    [
        (70000.0, "float16", r"column 2 is 70000.0, which float16 cannot hold\n.*\n.*--dtype float32"),
        (np.nan, "float32", r"row 1, column 2 is nan, which float32 cannot hold\n.*\nthe encoder gave it"),
        (np.inf, "float32", "is inf"),
    ],
)
def test_values_that_would_be_wrong_are_refused(tmp_path: Path, bad: float, dtype: str, text: str) -> None:
    s, store = stream(), FeatureStore(tmp_path)
    s.valid[:] = True
    s.values[1, 2] = bad
    with pytest.raises(FeatureError, match=text):
        write(store, s=s, dtype=dtype)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    s.valid[1] = False  # what stands at an invalid row does not matter
    write(store, s=s, dtype=dtype)


def test_times_must_increase_also_between_pieces(tmp_path: Path) -> None:
    s = stream()
    with FeatureStore(tmp_path).writer("tiny", "a", dim=6, provenance=KEY) as writer:
        writer.append(s.values, s.times, s.valid)
        with pytest.raises(FeatureError, match="times must increase; row 40 is at"):
            writer.append(s.values, s.times, s.valid)
    assert Reader(writer.path).rows == 40


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from mien.errors import OutputError
from mien.store import FeatureStore
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    with FeatureStore(Path(sys.argv[1])).writer("tiny", "b", dim=256, provenance={}) as w:
        for i in range(100):
            w.append(np.zeros((100, 256)), np.arange(100) + 100.0 * i, np.ones(100, bool))
except OutputError as error:
    print(error)
"""


def test_a_write_that_the_system_stops_leaves_nothing(tmp_path: Path) -> None:
    """A real refusal (the process's file size limit) halfway through a file."""
    store = FeatureStore(tmp_path)
    write(store, "a")
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert f"{store.path('tiny', 'b')}: File too large" in done.stdout
    assert "free space" in done.stdout
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
    with pytest.raises(OutputError, match=r"No space left on device\nnothing of it was kept\nfree space there"):
        write(store, "a", s=s, replace=True)
    assert store.path("tiny", "a").read_bytes() == before
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.safetensors"]


def test_no_permission_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match=r"check that .* exists and can be written"):
        write(FeatureStore(tmp_path / "s"))


# -- ls, gc ----------------------------------------------------------------------------------------


def test_ls_counts_what_is_there(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    assert store.ls() == []
    s = stream()
    sizes = sum(write(store, clip, s=s).stat().st_size for clip in "abc")
    write(store, "a", "other", s=stream(5, 2), dtype="float32")
    first, second = store.ls()[::-1]
    assert (first.encoder, first.clips, first.rows, first.dim, first.dtype) == ("tiny", 3, 120, 6, "float16")
    assert (first.bytes, first.valid_rows, first.kinds, first.broken) == (sizes, 3 * s.valid.sum(), 1, 0)
    assert (second.encoder, second.clips, second.dtype) == ("other", 1, "float32")


def test_gc_removes_what_the_dead_left_and_spares_the_living(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    path = write(store, "a")
    write(store, "b")
    broken = write(store, "c")
    os.truncate(broken, 20)
    mine = part_path(path)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{gone.stdout.strip()}."))
    other_host = mine.with_name(f".a.elsewhere.{gone.stdout.strip()}.0.part")
    for part in (mine, dead, other_host):
        part.write_bytes(b"half")
    assert {r.path for r in store.gc(dry_run=True)} == {dead}
    assert dead.exists()
    assert {r.path for r in store.gc()} == {dead}
    assert not dead.exists()
    os.utime(other_host, (0, 0))
    found = store.gc(keep={"a", "c"}, broken=True)
    assert {r.path: r.reason.split(" ")[-1] for r in found if r.path != broken} == {
        other_host: "ended",
        store.path("tiny", "b"): "index",
    }
    assert not broken.exists()
    assert path.exists()
    assert mine.exists()


def test_many_files_do_not_use_up_the_descriptors(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for i in range(300):
        write(store, f"c{i}", s=stream(3, 2))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 270, hard))
    try:
        shelf = store.open("tiny", KEY)
        assert sum(shelf[clip].read(0, 1).values.shape[0] for clip in shelf) == 300
    finally:
        shelf.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_errors_are_of_the_house_and_provenance_is_text(tmp_path: Path) -> None:
    assert issubclass(StoreError, MienError)
    assert issubclass(ProvenanceError, MienError)
    with pytest.raises(ValueError, match=r"provenance maps strings to strings; tiny says {'layer': 3}"):
        write(FeatureStore(tmp_path), s=stream(provenance={"layer": 3}))  # type: ignore[dict-item]
    header = json.loads(
        write(FeatureStore(tmp_path)).read_bytes()[8:].split(b"\0")[0].decode(errors="ignore").split("  ")[0]
    )
    assert json.loads(header["__metadata__"]["provenance"]) == KEY
