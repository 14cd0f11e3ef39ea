"""Dataset reader for EMOVO, Italian acted emotional speech.

Source: Costantini, Iaderola, Paoloni, Todisco 2014, EMOVO Corpus: an Italian Emotional Speech Database, LREC. Six
actors (f1 to f3 women, m1 to m3 men) speak 14 sentences in seven emotional states. The file name gives all labels:
`f1/dis-f1-b1.wav` is disgust (Italian disgusto), speaker f1, sentence b1. Splits are by speaker
(`named_clips.subject_splits`).
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
    "neu": NEUTRAL,
    "rab": ANGER,  # rabbia
    "dis": DISGUST,  # disgusto
    "pau": FEAR,  # paura
    "gio": HAPPINESS,  # gioia
    "tri": SADNESS,  # tristezza
    "sor": SURPRISE,  # sorpresa
}
_NAME = re.compile(r"(?P<emotion>[a-z]+)-(?P<speaker>[fm][1-3])-(?P<sentence>[a-z]\d)")

labels = clip_labels


def read(root: Path, *, progress: Callable[[int, int], None] | None = None) -> CorpusContents:
    """List the utterances under `root`, and the files that do not follow the naming.

    Args:
        progress: called with (clips probed, clips in total).

    Raises:
        CorpusError: `root` is no folder, or holds no media file.
    """
    return read_named_files(Path(root), "EMOVO", "f1 to m3", _parse, progress=progress)


def _parse(file: Path) -> NamedClip:
    name = _NAME.fullmatch(file.stem.lower())
    if name is None:
        raise ValueError("the name is not EMOTION-SPEAKER-SENTENCE, such as dis-f1-b1")
    expression = class_of(name["emotion"], EMOTIONS)
    sex = "female" if name["speaker"][0] == "f" else "male"
    return NamedClip(file.stem.lower(), (file.as_posix(),), name["speaker"], expression, sex)
