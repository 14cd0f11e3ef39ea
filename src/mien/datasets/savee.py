"""Dataset reader for SAVEE, Surrey Audio-Visual Expressed Emotion.

Source: Haq, Jackson 2010, Multimodal Emotion Recognition, in Machine Audition, IGI Global. Four English men (DC, JE,
JK, KL) speak sentences in seven emotions. The file name gives the emotion and the sentence number, and the folder the
speaker: `AudioData/DC/a01.wav`, `AudioVisualClip/DC/a01.avi`. In the copy with one folder, `ALL/DC_a01.wav`, the name
gives the speaker too. Where video and sound of an utterance exist, the video is used. Splits are by speaker
(`named_clips.subject_splits`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from mien.datasets.index_entries import CorpusContents
from mien.datasets.named_clips import NamedClip, class_of, clip_labels, read_named_files
from mien.labels import ANGER, DISGUST, FEAR, HAPPINESS, NEUTRAL, SADNESS, SURPRISE

#: Emotion letters of the file name -> class.
EMOTIONS: dict[str, int] = {
    "n": NEUTRAL,
    "a": ANGER,
    "d": DISGUST,
    "f": FEAR,
    "h": HAPPINESS,
    "sa": SADNESS,
    "su": SURPRISE,
}
SPEAKERS = ("DC", "JE", "JK", "KL")
_NAME = re.compile(r"((?P<speaker>[A-Z]{2})_)?(?P<emotion>[a-z]{1,2})(?P<sentence>\d{1,2})")

labels = clip_labels


def read(root: Path, *, progress: Callable[[int, int], None] | None = None) -> CorpusContents:
    """List the utterances under `root`, and the files that do not follow the naming.

    The id of a clip is `SPEAKER_NAME`, such as `DC_a01`.

    Args:
        progress: called with (clips probed, clips in total).

    Raises:
        CorpusError: `root` is no folder, or holds no media file.
    """
    return read_named_files(Path(root), "SAVEE", "AudioData or ALL", _parse, progress=progress)


def _parse(file: Path) -> NamedClip:
    name = _NAME.fullmatch(file.stem)
    if name is None:
        raise ValueError("the name is not [SPEAKER_]EMOTION NUMBER, such as a01 or DC_a01")
    expression = class_of(name["emotion"], EMOTIONS)
    speaker = name["speaker"] or file.parent.name
    if speaker not in SPEAKERS:
        source = "the name" if name["speaker"] else "the folder"
        raise ValueError(f"speaker {speaker!r}, of {source}, is none of {', '.join(SPEAKERS)}")
    clip = f"{speaker}_{name['emotion']}{int(name['sentence']):02d}"
    return NamedClip(clip, (file.as_posix(),), speaker, expression, "male")
