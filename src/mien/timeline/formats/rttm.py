"""RTTM files of speaker diarisation: who speaks when. Expressions, valence and arousal have no place in it.

Specification: NIST, Rich Transcription 2009 evaluation plan, appendix A.
"""

from __future__ import annotations

from pathlib import Path

from mien.timeline.formats.annotations import SPEECH, Annotation, Annotations


def dumps(annotations: Annotations) -> str:
    """One line SPEAKER for each interval of speech. White space in names becomes an underscore."""
    recording = _word(Path(annotations.media).stem) or "recording"
    lines = [
        f"SPEAKER {recording} 1 {i.start_s:.3f} {i.stop_s - i.start_s:.3f} <NA> <NA> {_word(i.person)} <NA> <NA>\n"
        for i in sorted(annotations.items, key=lambda i: (i.start_s, i.person))
        if i.kind == SPEECH
    ]
    return "".join(lines)


def _word(text: str) -> str:
    return "_".join(text.split())


def loads(text: str) -> Annotations:
    """The lines SPEAKER of a file of one recording as intervals of speech; lines of other types are left out.

    Raises ValueError: a line has too few fields or a time that is no number, or there are several recordings.
    """
    items, recordings = [], set()
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            if fields and not fields[0].isupper() and not fields[0].startswith(";"):
                raise ValueError(f"line {number} does not begin with a type such as SPEAKER: {line[:40]!r}")
            continue
        if len(fields) < 8:
            raise ValueError(f"line {number} has {len(fields)} fields, and SPEAKER needs at least 8")
        try:
            start, seconds = float(fields[3]), float(fields[4])
        except ValueError:
            raise ValueError(f"line {number} has no times in fields 4 and 5: {line[:60]!r}") from None
        recordings.add(fields[1])
        items.append(Annotation(SPEECH, fields[7], start, start + seconds, SPEECH))
    if len(recordings) > 1:
        raise ValueError(f"it holds {len(recordings)} recordings ({', '.join(sorted(recordings)[:3])}); keep one")
    return Annotations(tuple(items), max((i.stop_s for i in items), default=0.0))
