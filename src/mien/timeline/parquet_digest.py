"""A digest inside Parquet files, compared before they are parsed.

polars writes no checksums into Parquet files, and a single changed bit in a page can end the whole process, because its
reader allocates what the page states. So the SHA-256 of all other bytes stands between the pages and the footer. Other
readers find the footer from the end of the file and the pages by their offsets, and never look there.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import IO

#: Key in the metadata of files that hold a digest, so that one whose digest was destroyed is not taken for a file of
#: another program.
KEY = "mien.digest"
METADATA = {KEY: "sha256"}
_MAGIC = b"MIENSHA2"
_BLOCK = len(_MAGIC) + hashlib.sha256().digest_size
#: A Parquet file ends with the length of its footer, 4 bytes, and these.
_END = b"PAR1"
_TAIL = 4 + len(_END)
#: Number of bytes at the end of a file that are searched for `KEY`.
_SEARCHED = 1 << 20


def add(path: Path) -> None:
    """Insert the digest into a complete Parquet file, written with `METADATA` in its metadata.

    Raises OSError; ValueError if the file has no footer.
    """
    with path.open("r+b") as file:
        size, start = _footer(file)
        file.seek(start)
        footer = file.read(size - start)
        digest = _digest(file, start, footer)
        file.seek(start)
        file.write(_MAGIC + digest + footer)


def verify(path: Path) -> None:
    """Compare the digest of a Parquet file; one without, of another program, passes.

    Raises OSError; ValueError if the file is truncated, or any of its bytes has changed.
    """
    with path.open("rb") as file:
        size, start = _footer(file)
        file.seek(max(0, start - _BLOCK))
        block = file.read(_BLOCK)
        if block.startswith(_MAGIC):
            footer = file.read(size - start)
            if _digest(file, start - _BLOCK, footer) != block[len(_MAGIC) :]:
                raise ValueError("its digest differs: the file is damaged")
            return
        file.seek(max(0, size - _SEARCHED))
        if KEY.encode() in file.read():
            raise ValueError("its digest is not where it belongs: the file is damaged")


def _footer(file: IO[bytes]) -> tuple[int, int]:
    """Size of the file, and where its footer begins."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    if size < 2 * _TAIL or not tail.endswith(_END):
        raise ValueError("it does not end as a Parquet file does: it is cut off, or of another kind")
    start = size - _TAIL - struct.unpack("<I", tail[:4])[0]
    if start < len(_END):
        raise ValueError("its footer is longer than the file")
    return size, start


def _digest(file: IO[bytes], stop: int, footer: bytes) -> bytes:
    """SHA-256 of the bytes before `stop` and of the footer."""
    digest = hashlib.sha256()
    file.seek(0)
    while stop > 0 and (part := file.read(min(stop, 1 << 20))):
        digest.update(part)
        stop -= len(part)
    digest.update(footer)
    return digest.digest()
