"""Dataset reader for RAVDESS, the Ryerson Audio-Visual Database of Emotional Speech and Song.

Source: Livingstone, Russo 2018, The Ryerson Audio-Visual Database of Emotional Speech and Song, PLoS ONE 13(5). 24
actors say or sing two English sentences. The folders are `Actor_01` to `Actor_24`, at any depth. The file name has
seven numbers of two digits: modality (01 audio-video, 02 video, 03 audio), vocal channel (01 speech, 02 song), emotion,
intensity (01 normal, 02 strong), statement, repetition, actor. Odd actors are men, even ones women.

The clips of one take, such as `01-01-05-01-01-01-12.mp4` and `03-01-05-01-01-01-12.wav`, show the same performance:
where the audio-video file exists, only that one is a clip. Splits are by actor (`named_clips.subject_splits`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from mien.datasets.index_entries import NOTE, WARNING, CorpusContents, Problem
from mien.datasets.named_clips import (
    NamedClip,
    clip_labels,
    index_clips,
    list_media,
    misnamed,
    without_duplicates,
)
from mien.labels import ANGER, DISGUST, FEAR, HAPPINESS, NEUTRAL, SADNESS, SURPRISE

#: Emotion of the file name -> class. Calm (02) becomes Neutral: our choice, because the corpus describes calm as a
#: second baseline of low arousal beside neutral, and none of the other classes fits.
EMOTIONS: dict[str, int] = {
    "01": NEUTRAL,
    "02": NEUTRAL,
    "03": HAPPINESS,
    "04": SADNESS,
    "05": ANGER,
    "06": FEAR,
    "07": DISGUST,
    "08": SURPRISE,
}
#: `songs`: whether sung clips are indexed too.
OPTIONS: dict[str, tuple[str, ...]] = {"songs": ("no", "yes")}
_AUDIO_VIDEO, _VIDEO, _AUDIO = "01", "02", "03"
_SONG = "02"
_ACTORS = 24
#: Numbers of the file name and their valid values, in order.
_FIELDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("modality", (_AUDIO_VIDEO, _VIDEO, _AUDIO)),
    ("vocal channel", ("01", _SONG)),
    ("emotion", tuple(EMOTIONS)),
    ("intensity", ("01", "02")),
    ("statement", ("01", "02")),
    ("repetition", ("01", "02")),
    ("actor", tuple(f"{actor:02d}" for actor in range(1, _ACTORS + 1))),
)

labels = clip_labels


def read(
    root: Path, *, options: Mapping[str, str] | None = None, progress: Callable[[int, int], None] | None = None
) -> CorpusContents:
    """List the takes under `root`, one clip each, and the files that do not follow the naming.

    Args:
        options: `songs`: `no` (default) or `yes`.
        progress: called with (clips probed, clips in total).

    Raises:
        CorpusError: `root` is no folder, or holds no media file.
    """
    root = Path(root)
    songs = (options or {}).get("songs", OPTIONS["songs"][0]) == "yes"
    problems: list[Problem] = []
    by_name: dict[str, list[str]] = {}
    song_files = 0
    for file in list_media(root, "RAVDESS", "Actor_01 to Actor_24"):
        name = PurePosixPath(file).stem
        if what := _fault(name):
            problems.append(misnamed(file, what))
        elif not songs and name.split("-")[1] == _SONG:
            song_files += 1
        else:
            by_name.setdefault(name, []).append(file)
            problems += _check_folder(file)
    if song_files:
        what, rule = f"{song_files} files are songs", "they are left out; --option songs=yes adds them"
        problems.append(Problem(NOTE, "songs", str(root), None, what, rule))
    files, duplicates = without_duplicates(by_name)
    return index_clips(root, _clips(files), [*problems, *duplicates], progress=progress)


def _fault(name: str) -> str:
    """Why a file name does not follow the scheme, or ""."""
    numbers = name.split("-")
    if len(numbers) != len(_FIELDS):
        return f"the name is not {'-'.join(field.upper().replace(' ', '_') for field, _ in _FIELDS)}"
    for (field, valid), number in zip(_FIELDS, numbers, strict=True):
        if number not in valid:
            return f"{field} {number!r} is not one of {valid[0]} to {valid[-1]}"
    if numbers[2] == "01" and numbers[3] != "01":
        return "a neutral clip has no strong intensity"
    return ""


def _check_folder(file: str) -> list[Problem]:
    """A warning where the folder names another actor than the file name does."""
    folder, actor = PurePosixPath(file).parent.name, PurePosixPath(file).stem[-2:]
    if folder.lower().startswith("actor_") and folder[-2:] != actor:
        what = f"the file name says actor {actor}, the folder {folder}"
        return [Problem(WARNING, "actor differs", file, None, what, "the file name decides")]
    return []


def _clips(files: Mapping[str, str]) -> list[NamedClip]:
    takes: dict[str, dict[str, str]] = {}
    for name, file in files.items():
        takes.setdefault(name[3:], {})[name[:2]] = file
    clips = []
    for take, by_modality in sorted(takes.items()):
        order = [m for m in (_AUDIO_VIDEO, _AUDIO, _VIDEO) if m in by_modality]
        # Without an audio-video file, audio and video alone are two clips, because a clip has one file.
        groups = [order] if _AUDIO_VIDEO in by_modality else [[m] for m in order]
        _, emotion, *_, actor = take.split("-")
        sex = "male" if int(actor) % 2 else "female"
        clips += [
            NamedClip(f"{group[0]}-{take}", tuple(by_modality[m] for m in group), actor, EMOTIONS[emotion], sex)
            for group in groups
        ]
    return clips
