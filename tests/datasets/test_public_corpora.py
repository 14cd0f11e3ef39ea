"""Readers of acted corpora: labels from file names and tables, splits by subject, and problems of other files."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from mien.cli.main import app
from mien.cli.options import CORPUS_NAMES
from mien.datasets.index import CORPORA, Index, build_index
from mien.datasets.named_clips import subject_splits
from mien.errors import ConfigError, CorpusError
from mien.labels import EXPRESSIONS


def sound(root: Path, *names: str) -> Path:
    """Write silent sound files of 0.2 s."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, np.zeros(1600), 8000)
    return root


def video(root: Path, *names: str) -> Path:
    """Write black videos of five frames at 25 frames a second."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(root / name), "w") as container:
            stream = container.add_stream("mpeg4" if name.endswith(".mp4") else "flv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(5):
                container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
            container.mux(stream.encode(None))
    return root


def expressions(index: Index) -> dict[str, str]:
    """Clip id -> expression, which has to be that of every label of the clip."""
    found = {}
    for clip in index.clips():
        assert clip.labels is not None
        assert np.isnan(clip.labels.valence_arousal).all()
        assert len(clip.labels.times) == 5  # 0.2 s at 25 a second
        (expression,) = set(clip.labels.expression.tolist())
        found[clip.id] = EXPRESSIONS[expression]
    return found


def splits(index: Index) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in index.entries:
        found.setdefault(entry.subject, set()).add(entry.splits["expr"])
    return found


def kinds(index: Index) -> Counter[tuple[str, str]]:
    return Counter((problem.severity, problem.kind) for problem in index.problems)


def test_the_help_names_every_corpus() -> None:
    assert set(re.split(", | or ", CORPUS_NAMES)) == set(CORPORA)


# --- splits by subject ---


def test_held_out_subjects_are_a_fifth_each_with_both_sexes() -> None:
    sexes = {f"{n:02d}": "male" if n % 2 else "female" for n in range(1, 25)}
    split_of = subject_splits(sexes)
    assert Counter(split_of.values()) == {"train": 14, "val": 5, "test": 5}
    for split in ("val", "test"):
        counts = Counter(sexes[s] for s, other in split_of.items() if other == split)
        assert sorted(counts.values()) == [2, 3]
    assert subject_splits(dict(reversed(sexes.items()))) == split_of
    assert subject_splits(sexes, seed=1) != split_of


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [(1, ["train"]), (2, ["train", "val"]), (3, ["test", "train", "val"]), (4, ["test", "train", "train", "val"])],
)
def test_few_subjects_are_split_as_far_as_they_go(subjects: int, expected: list[str]) -> None:
    assert sorted(subject_splits({str(n): "" for n in range(subjects)}).values()) == expected


# --- RAVDESS ---


@pytest.mark.parametrize(
    ("emotion", "expression"),
    [
        ("01", "Neutral"),
        ("02", "Neutral"),
        ("03", "Happiness"),
        ("04", "Sadness"),
        ("05", "Anger"),
        ("06", "Fear"),
        ("07", "Disgust"),
        ("08", "Surprise"),
    ],
)
def test_ravdess_emotion_and_actor_are_in_the_file_name(tmp_path: Path, emotion: str, expression: str) -> None:
    index = build_index("ravdess", sound(tmp_path, f"Actor_12/03-01-{emotion}-01-02-01-12.wav"))
    assert expressions(index) == {f"03-01-{emotion}-01-02-01-12": expression}
    assert index.entries[0].subject == "12"
    assert index.counts["subjects by sex"] == {"female": 1}
    assert index.problems == []


def test_ravdess_uses_the_audio_video_file_of_a_take(tmp_path: Path) -> None:
    take = "01-05-02-01-02-07"
    video(tmp_path, f"Video_Speech_Actor_07/Actor_07/01-{take}.mp4", f"Video_Speech_Actor_07/Actor_07/02-{take}.mp4")
    sound(tmp_path, f"Audio_Speech_Actors_01-24/Actor_07/03-{take}.wav")
    (entry,) = build_index("ravdess", tmp_path).entries
    assert (entry.id, entry.has_video) == (f"01-{take}", True)
    assert entry.media == f"Video_Speech_Actor_07/Actor_07/01-{take}.mp4"
    assert entry.times is not None
    np.testing.assert_allclose(entry.times.seconds, np.arange(5) / 25)


def test_ravdess_audio_and_video_alone_are_two_clips(tmp_path: Path) -> None:
    take = "01-05-02-01-02-08"
    video(sound(tmp_path, f"Actor_08/03-{take}.flac"), f"Actor_08/02-{take}.mp4")
    entries = build_index("ravdess", tmp_path).entries
    assert [(e.id, e.has_audio, e.has_video) for e in entries] == [
        (f"03-{take}", True, False),
        (f"02-{take}", False, True),
    ]


def test_ravdess_falls_back_to_sound_if_the_video_cannot_be_read(tmp_path: Path) -> None:
    take = "01-05-02-01-02-08"
    sound(tmp_path, f"Actor_08/03-{take}.wav")
    (tmp_path / "Actor_08" / f"01-{take}.mp4").write_bytes(b"no video")
    index = build_index("ravdess", tmp_path)
    assert [e.media for e in index.entries] == [f"Actor_08/03-{take}.wav"]
    (problem,) = index.problems
    assert (problem.kind, problem.file) == ("unreadable media", f"Actor_08/01-{take}.mp4")
    assert problem.rule == f"Actor_08/03-{take}.wav is used"


def test_ravdess_leaves_songs_out_unless_asked(tmp_path: Path) -> None:
    sound(tmp_path, "Actor_01/03-01-03-01-01-01-01.wav", "Actor_01/03-02-04-01-01-01-01.wav")
    index = build_index("ravdess", tmp_path)
    assert expressions(index) == {"03-01-03-01-01-01-01": "Happiness"}
    assert [p.what for p in index.problems] == ["1 files are songs"]
    both = build_index("ravdess", tmp_path, options={"songs": "yes"})
    assert expressions(both) == {"03-01-03-01-01-01-01": "Happiness", "03-02-04-01-01-01-01": "Sadness"}
    assert both.problems == []


def test_ravdess_problems_name_each_file_that_does_not_fit(tmp_path: Path) -> None:
    good = "03-01-03-01-01-01-01.wav"
    sound(tmp_path, f"Actor_01/{good}", f"copy/Actor_01/{good}", "Actor_02/03-01-03-01-01-02-01.wav", "noise.wav")
    sound(tmp_path, "Actor_01/03-01-09-01-01-01-01.wav", "Actor_01/03-01-03-01-01-01-25.wav")
    sound(tmp_path, "Actor_01/03-01-01-02-01-01-01.wav")
    index = build_index("ravdess", tmp_path)
    assert set(expressions(index)) == {"03-01-03-01-01-01-01", "03-01-03-01-01-02-01"}
    assert {(p.severity, p.file): p.what for p in index.problems} == {
        ("error", "noise.wav"): "the name is not MODALITY-VOCAL_CHANNEL-EMOTION-INTENSITY-STATEMENT-REPETITION-ACTOR",
        ("error", "Actor_01/03-01-09-01-01-01-01.wav"): "emotion '09' is not one of 01 to 08",
        ("error", "Actor_01/03-01-03-01-01-01-25.wav"): "actor '25' is not one of 01 to 24",
        ("error", "Actor_01/03-01-01-02-01-01-01.wav"): "a neutral clip has no strong intensity",
        ("warning", "Actor_02/03-01-03-01-01-02-01.wav"): "the file name says actor 01, the folder Actor_02",
        ("note", f"copy/Actor_01/{good}"): "'03-01-03-01-01-01-01' occurs twice",
    }
    assert {p.rule for p in index.problems if p.severity == "error"} == {"the file is left out"}


def test_the_real_ravdess(shared: Path) -> None:
    index = build_index("ravdess", shared / "ravdess")
    assert index.problems == []
    assert len(index.entries) == 660
    # 60 clips of each actor: 4 neutral, 8 of each other emotion; calm is Neutral
    assert index.counts["labelled clips"] == {
        "Neutral": 132, "Anger": 88, "Disgust": 88, "Fear": 88, "Happiness": 88, "Sadness": 88, "Surprise": 88,
    }  # fmt: skip
    assert sorted(splits(index)) == [f"{n:02d}" for n in range(1, 13) if n != 5]
    assert index.counts["subjects by sex"] == {"female": 6, "male": 5}
    assert Counter(next(iter(s)) for s in splits(index).values()) == {"train": 7, "val": 2, "test": 2}
    assert all(len(s) == 1 for s in splits(index).values())
    for clip in list(index.clips())[::60]:
        assert clip.media is not None
        assert clip.labels is not None
        assert clip.labels.times[-1] == pytest.approx(soundfile.info(clip.media).duration, abs=0.06)


# --- options and wrong roots ---


def test_options_are_checked_before_the_corpus_is_read(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(ConfigError, match=r"option songs of ravdess cannot be 'maybe'(.|\n)*no, yes; no is the def"):
        build_index("ravdess", missing, options={"songs": "maybe"})
    with pytest.raises(ConfigError, match=r"ravdess has no option 'song'(.|\n)*Its options are songs\."):
        build_index("ravdess", missing, options={"song": "yes"})
    with pytest.raises(ConfigError, match=r"emodb has no option 'songs'(.|\n)*it has none"):
        build_index("emodb", missing, options={"songs": "yes"})


ACTED = ["ravdess"]


@pytest.mark.parametrize("corpus", ACTED)
def test_a_root_that_is_not_the_corpus_is_an_error(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"does not exist; the root of .* is a folder\nNothing was indexed"):
        build_index(corpus, tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"holds no .*\nNothing was indexed"):
        build_index(corpus, tmp_path)


@pytest.mark.parametrize("corpus", ACTED)
def test_a_root_without_any_file_of_the_corpus_names_one(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"has no usable clip: error: holiday\.wav: .*; the file is left out"):
        build_index(corpus, sound(tmp_path, "holiday.wav"))


def test_mien_index_takes_options_of_the_corpus(tmp_path: Path) -> None:
    sound(tmp_path, "Actor_01/03-02-04-01-01-01-01.wav", "Actor_02/03-01-04-01-01-01-02.wav")
    out = tmp_path / "index.jsonl"
    arguments = ["index", "ravdess", str(tmp_path), "--out", str(out), "--json"]
    result = CliRunner().invoke(app, [*arguments, "--option", "songs=yes"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["clips"] == "2"
    assert expressions(Index.load(out)) == {"03-02-04-01-01-01-01": "Sadness", "03-01-04-01-01-01-02": "Sadness"}
    wrong = CliRunner().invoke(app, [*arguments, "--option", "songs"])
    assert wrong.exit_code == 2
