"""Notes on missing or shared evidence, which a Timeline's table itself does not explain."""

from __future__ import annotations

from collections.abc import Mapping

from mien.encode.encode_media import EncodedMedia
from mien.encode.video_pass import MIN_VISIBLE_S
from mien.encoders.protocol import Encoder
from mien.media.video import MediaInfo
from mien.predict.channels import has_speech
from mien.predict.request import Request

#: End of a note where no row has a prediction.
_NOTHING = "; nothing was predicted"


def evidence_notes(
    info: MediaInfo, media: EncodedMedia, encoders: Mapping[str, Encoder], request: Request, max_faces: int
) -> list[str]:
    """Notes on missing or shared evidence, which the table itself does not explain."""
    notes = []
    faces, speech = media.faces, media.speech
    speaks = has_speech(media)
    face_only = "; every row rests on the face alone" if faces.subjects else ""
    if request.face and info.has_video and faces.encoders and not faces.subjects:
        rest = "; every row rests on the voice alone" if speaks else "" if media.audio else _NOTHING
        notes.append("no face was detected" + rest)
    if faces.brief:
        count = "1 face was" if faces.brief == 1 else f"{faces.brief} faces were"
        notes.append(f"{count} left out, visible for less than {MIN_VISIBLE_S} s at a time")
    if faces.passed_over:
        count = "1 more face was" if faces.passed_over == 1 else f"{faces.passed_over} more faces were"
        notes.append(
            f"at least {count} in the picture at once than --max-faces {max_faces}, and passed over; give a "
            "larger --max-faces to read them"
        )
    if request.voice and info.kind == "video" and not info.has_audio:
        notes.append(f"the video has no sound{face_only or ('' if encoders else _NOTHING)}")
    if speech is not None and not speaks:
        notes.append(f"no speech was detected{face_only}")
    if len(faces.subjects) > 1 and speaks:
        notes.append(
            f"{len(faces.subjects)} people share one sound; speech counts for the person whose mouth moves with "
            "it, and for all in view where that cannot be decided (column speech)"
        )
    return notes
