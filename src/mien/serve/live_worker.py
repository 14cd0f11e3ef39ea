"""Process of one live session: pictures and sound on standard input, rows as JSON lines on standard output.

Each message on the input is its length (32 bits, little-endian) and its bytes, as the client sent them; an empty one
asks for the last rows. What a client sends is decoded here, so that damaged data can end this process only.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from mien.errors import MienError
from mien.processes import forbid_core_dumps
from mien.serve.live_messages import INT_SOUND, LiveMessage, parse
from mien.serve.live_video import MAX_PIXELS, ChunkError, Pictures
from mien.serve.worker import NICE

LENGTH = struct.Struct("<I")


def messages(source: IO[bytes]) -> Iterator[bytes]:
    """The messages of a stream, until it ends or an empty one comes."""
    while len(head := source.read(LENGTH.size)) == LENGTH.size and (length := LENGTH.unpack(head)[0]):
        message = source.read(length)
        if len(message) < length:
            return
        yield message
    if len(head) < LENGTH.size:
        os._exit(0)  # the client or the server is gone


def samples(message: LiveMessage) -> np.ndarray:
    """`(n,)` float32 in [-1, 1]; what is not a number is silence."""
    if message.kind == INT_SOUND:
        return np.frombuffer(message.data, "<i2").astype(np.float32) / 32768
    floats = np.nan_to_num(np.frombuffer(message.data, "<f4"), nan=0.0, posinf=1.0, neginf=-1.0)
    clipped: np.ndarray = np.clip(floats, -1, 1).astype(np.float32)
    return clipped


def _session(model: str, delay_s: float, source: IO[bytes], replies: IO[str]) -> None:
    from mien.live.predictor import stream

    def send(kind: str, **content: Any) -> None:
        replies.write(json.dumps({"type": kind, **content}, default=float) + "\n")
        replies.flush()

    pictures = Pictures()
    with stream(model, delay_s=delay_s) as live:
        send("ready", classes=list(live.classes), delay_s=delay_s)
        for data in messages(source):
            message = parse(data)
            if message.is_picture:
                rows = []
                try:
                    for time_s, image in pictures.decode(message):
                        rows += live.frame(image, time_s)
                except ChunkError as error:
                    send("key_frame", what=str(error))
                send("read")
            else:
                rows = live.sound(samples(message), message.rate, message.time_s)
            if rows:
                faces = {str(subject): [float(x) for x in box] for subject, box in live.faces.items()}
                send("rows", rows=rows, faces=faces, dropped=live.dropped)
        if rows := live.finish():
            send("rows", rows=rows, faces={}, dropped=live.dropped)
        send("end", dropped=live.dropped)


def main() -> None:
    """Run one session: model and delay are the arguments."""
    os.umask(0o077)
    os.nice(NICE)
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(MAX_PIXELS)
    forbid_core_dumps()
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no reply
    try:
        _session(sys.argv[1], float(sys.argv[2]), sys.stdin.buffer, replies)
    except MienError as error:
        reason = {"what": error.what, "follows": error.follows, "remedy": error.remedy}
        replies.write(json.dumps({"type": "error", **reason}) + "\n")
    except ValueError as error:
        reason = {"what": str(error), "follows": "The session ended.", "remedy": "docs/SERVER.md describes messages."}
        replies.write(json.dumps({"type": "error", **reason}) + "\n")
    replies.close()


if __name__ == "__main__":
    main()
