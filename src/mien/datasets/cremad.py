"""Dataset reader for CREMA-D, the Crowd-sourced Emotional Multimodal Actors Dataset.

Source: Cao, Cooper, Keutmann, Gur, Nenkova, Verma 2014, CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset,
IEEE Transactions on Affective Computing 5(4). 91 actors say twelve sentences with six emotions. The root holds:

* `VideoFlash/1001_DFA_ANG_XX.flv`, `AudioWAV/1001_DFA_ANG_XX.wav`, `AudioMP3/`: actor, sentence, intended emotion,
  level. Where a take has several files, the video (which has sound) is used, otherwise the .wav file.
* `VideoDemographics.csv`: sex of the actors, used to balance the splits.
* `processedResults/summaryTable.csv`: for each file, the emotions that most raters chose from the voice (`VoiceVote`),
  the face (`FaceVote`) and both (`MultiModalVote`), ties separated by `:`.

Splits are by actor (`named_clips.subject_splits`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from mien.datasets.index_entries import ERROR, NOTE, WARNING, CorpusContents, Problem
from mien.datasets.named_clips import NamedClip, clip_labels, index_clips, parse_files, read_csv
from mien.errors import CorpusError
from mien.labels import ANGER, DISGUST, FEAR, HAPPINESS, NEUTRAL, SADNESS

#: Emotion of the file name -> class.
EMOTIONS: dict[str, int] = {
    "NEU": NEUTRAL,
    "ANG": ANGER,
    "DIS": DISGUST,
    "FEA": FEAR,
    "HAP": HAPPINESS,
    "SAD": SADNESS,
}
#: `labels`: the emotion that the actor intended, or the one that most raters chose from face and voice.
OPTIONS: dict[str, tuple[str, ...]] = {"labels": ("intended", "multimodal-votes")}
DEMOGRAPHICS = "VideoDemographics.csv"
VOTES = "processedResults/summaryTable.csv"
#: Votes have the first letter of the emotion.
_VOTE_LETTERS = {name[0]: expression for name, expression in EMOTIONS.items()}
#: The level is XX where none was asked for; X is a misprint in one published name, 1040_ITH_SAD_X.
_NAME = re.compile(r"(?P<actor>\d{4})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>LO|MD|HI|XX|X)")

labels = clip_labels


def read(
    root: Path, *, options: Mapping[str, str] | None = None, progress: Callable[[int, int], None] | None = None
) -> CorpusContents:
    """List the takes under `root`, one clip each, and the files that do not follow the naming.

    Args:
        options: `labels`: `intended` (default), or `multimodal-votes`, which leaves out clips without a single
            winning emotion.
        progress: called with (clips probed, clips in total).

    Raises:
        CorpusError: `root` is no folder, holds no media file, or lacks the table of votes that the option needs.
    """
    root = Path(root)
    clips, problems = parse_files(root, "CREMA-D", "VideoFlash, AudioWAV and VideoDemographics.csv", _parse)
    sexes = _read_sexes(root, problems)
    unknown = sorted({clip.subject for clip in clips} - set(sexes))
    if sexes and unknown:
        what = f"{len(unknown)} actors of the clips have no row, such as {unknown[0]}"
        problems.append(Problem(WARNING, "unknown actors", DEMOGRAPHICS, None, what, "their sex is unknown"))
    clips = [replace(clip, sex=sexes.get(clip.subject, "")) for clip in clips]
    if (options or {}).get("labels") == "multimodal-votes":
        clips = _with_votes(root, clips, problems)
    return index_clips(root, clips, problems, progress=progress)


def _parse(file: Path) -> NamedClip:
    name = _NAME.fullmatch(file.stem)
    if name is None:
        raise ValueError("the name is not ACTOR_SENTENCE_EMOTION_LEVEL, such as 1001_DFA_ANG_XX")
    if name["emotion"] not in EMOTIONS:
        raise ValueError(f"emotion {name['emotion']!r} is none of {', '.join(EMOTIONS)}")
    return NamedClip(file.stem, (file.as_posix(),), name["actor"], EMOTIONS[name["emotion"]])


def _read_sexes(root: Path, problems: list[Problem]) -> dict[str, str]:
    """Actor -> `female` or `male`; adds problems for a missing table and for rows that cannot be used."""
    try:
        rows = read_csv(root / DEMOGRAPHICS, ("ActorID", "Sex"))
    except CorpusError as error:
        rule = "the sex of the actors is unknown, so the splits do not balance it"
        problems.append(Problem(WARNING, "no demographics", DEMOGRAPHICS, None, error.what, rule))
        return {}
    sexes = {}
    for line, row in rows:
        sex = row["Sex"].lower()
        if sex in ("female", "male"):
            sexes[row["ActorID"]] = sex
        else:
            what = f"sex {row['Sex']!r} of actor {row['ActorID']!r} is not Male or Female"
            problems.append(Problem(WARNING, "bad row", DEMOGRAPHICS, line, what, "the sex counts as unknown"))
    return sexes


def _with_votes(root: Path, clips: list[NamedClip], problems: list[Problem]) -> list[NamedClip]:
    """Clips with the winning vote as expression; adds a problem for each clip without one."""
    votes = {
        row["FileName"]: (line, row["MultiModalVote"])
        for line, row in read_csv(root / VOTES, ("FileName", "MultiModalVote"))
    }
    rated = []
    for clip in clips:
        line, vote = votes.get(clip.id, (None, ""))
        if vote in _VOTE_LETTERS:
            rated.append(replace(clip, expression=_VOTE_LETTERS[vote]))
        elif ":" in vote and set(vote.split(":")) <= set(_VOTE_LETTERS):
            what = f"the votes for {clip.id} tie: {vote}"
            problems.append(Problem(NOTE, "tied votes", VOTES, line, what, "the clip is left out"))
        else:
            what = f"vote {vote!r} for {clip.id} is none of {', '.join(_VOTE_LETTERS)}" if line else f"no row {clip.id}"
            problems.append(Problem(ERROR, "no vote", VOTES, line, what, "the clip is left out"))
    return rated
