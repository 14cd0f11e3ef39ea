"""Dataset reader for TESS, the Toronto emotional speech set.

Source: Pichora-Fuller, Dupuis 2020, Toronto emotional speech set (TESS), University of Toronto, doi:10.5683/SP2/E8H2MF.
An older and a younger actress (OAF, YAF) say 200 words in the phrase "Say the word ..." in seven emotions. The file
name gives all labels: `OAF_angry/OAF_back_angry.wav`. `ps` is pleasant surprise, which becomes Surprise.

With two speakers there is no test split: one is `train`, the other `val` (`named_clips.subject_splits`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from mien.datasets.index_entries import CorpusContents
from mien.datasets.named_clips import NamedClip, class_of, clip_labels, read_named_files
from mien.labels import ANGER, DISGUST, FEAR, HAPPINESS, NEUTRAL, SADNESS, SURPRISE

#: Emotion of the file name -> class.
EMOTIONS: dict[str, int] = {
    "neutral": NEUTRAL,
    "angry": ANGER,
    "disgust": DISGUST,
    "fear": FEAR,
    "happy": HAPPINESS,
    "sad": SADNESS,
    "ps": SURPRISE,
}
#: `OA` is a misprint of `OAF` in one published name, OA_bite_neutral.wav.
_NAME = re.compile(r"(?P<speaker>OAF?|YAF)_(?P<word>[A-Za-z]+)_(?P<emotion>[A-Za-z]+)")

labels = clip_labels


def read(root: Path, *, progress: Callable[[int, int], None] | None = None) -> CorpusContents:
    """List the utterances under `root`, and the files that do not follow the naming.

    Args:
        progress: called with (clips probed, clips in total).

    Raises:
        CorpusError: `root` is no folder, or holds no media file.
    """
    return read_named_files(Path(root), "TESS", "OAF_angry to YAF_sad", _parse, progress=progress)


def _parse(file: Path) -> NamedClip:
    name = _NAME.fullmatch(file.stem)
    if name is None:
        raise ValueError("the name is not SPEAKER_WORD_EMOTION, such as OAF_back_angry")
    expression = class_of(name["emotion"], EMOTIONS)
    speaker = "YAF" if name["speaker"] == "YAF" else "OAF"
    clip = f"{speaker}_{name['word']}_{name['emotion'].lower()}"
    return NamedClip(clip, (file.as_posix(),), speaker, expression, "female")
