"""Receive an upload to disk as it comes: raw, or the one file of a form; bounded in size and time."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import IO
from urllib.parse import unquote

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from mien.serve.responses import RequestError

#: Types of a body that is the recording itself.
RAW = re.compile(r"(video|audio|image)/[\w.+-]+|application/(octet-stream|mp4|ogg|mxf|x-matroska)", re.ASCII)
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")
#: Slowest mean rate of an upload after its first idle time, in bytes per second. Our choice: below any mobile network.
MIN_RATE = 8 << 10
#: Bytes that are written to the disk at once.
_BLOCK = 1 << 20
#: Bytes of a form beside its file: boundaries and headers.
_FORM_BYTES = 16 << 10
#: Bytes of the disk that an upload leaves free, so that the results of other jobs have space.
RESERVE = 256 << 20
_NOTHING = "Nothing was kept of the upload."


async def receive_upload(request: Request, path: Path, *, limit: int, idle_seconds: float) -> str:
    """Write the recording of a request to `path` and return its suffix, "" or such as `.mp4`.

    Args:
        limit: most bytes. idle_seconds: longest time without a byte.

    Raises:
        RequestError: 408 for a slow client, 411 to 422 for a wrong request, 507 for a full disk. ClientDisconnect. The
            file may then be there in part.
    """
    media_type, parameters = parse_options_header(request.headers.get("content-type", ""))
    kind = media_type.decode("latin-1").lower()
    is_form = kind == "multipart/form-data"
    _check_headers(request, kind, is_form, limit, path)
    form = _Form(parameters.get(b"boundary", b"")) if is_form else None
    suffix = suffix_of(unquote(request.headers.get("x-file-name", "")))
    received, written, block = 0, 0, bytearray()
    with path.open("xb") as file:
        async for data in _timed(request, idle_seconds):
            received += len(data)
            block += form.feed(data) if form else data
            if written + len(block) > limit or received > limit + _FORM_BYTES:
                raise _too_large(limit)
            if len(block) >= _BLOCK:
                written += len(block)
                await run_in_threadpool(_write, file, bytes(block))
                block.clear()
        written += len(block)
        await run_in_threadpool(_write, file, bytes(block), sync=True)
    if form:
        suffix = form.finish()
    if not written:
        raise RequestError(
            HTTPStatus.UNPROCESSABLE_ENTITY, "the upload is empty (0 bytes)", follows="Nothing was accepted.",
            remedy="Send the bytes of a video, sound file or picture.",
        )  # fmt: skip
    return suffix


def suffix_of(name: str) -> str:
    """The suffix of a client's file name in small letters, "" for none or an odd one. Nothing else of it is used."""
    suffix = os.path.splitext(re.split(r"[\\/]", name)[-1])[1].lower()
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def _check_headers(request: Request, kind: str, is_form: bool, limit: int, path: Path) -> None:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body is compressed (header Content-Encoding)",
            follows="Nothing was accepted.", remedy="Send the recording as it is.",
        )  # fmt: skip
    if not is_form and not RAW.fullmatch(kind):
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the type of the body is not that of a recording",
            follows="Nothing was accepted.",
            remedy="Send a form with one file, or the bytes with `Content-Type: application/octet-stream`.",
        )  # fmt: skip
    declared = int(request.headers.get("content-length", "0"))  # h11 has refused what is not a number
    if declared > limit + (_FORM_BYTES if is_form else 0):
        raise _too_large(limit)
    if shutil.disk_usage(path.parent).free < declared + RESERVE:
        raise _full()


async def _timed(request: Request, idle_seconds: float) -> AsyncIterator[bytes]:
    """The pieces of the body. Raises RequestError for a client that pauses or is too slow."""
    start, received = time.monotonic(), 0
    pieces = request.stream()
    while True:
        try:
            data = await asyncio.wait_for(anext(pieces), idle_seconds)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _too_slow() from None
        received += len(data)
        if time.monotonic() - start > idle_seconds + received / MIN_RATE:
            raise _too_slow()
        yield data


def _write(file: IO[bytes], data: bytes, *, sync: bool = False) -> None:
    try:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full() from error
        raise


class _Form:
    """A form with one file: returns the bytes of the file as the bytes of the form come."""

    def __init__(self, boundary: bytes) -> None:
        if not 0 < len(boundary) <= 70:  # RFC 2046
            raise _bad_form("it has no boundary")
        self._name: bytes | None = None
        self._suffix, self._header, self._value = "", b"", b""
        self._data, self._files, self._ended = bytearray(), 0, False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_header,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._check_part,
                "on_part_data": self._add_data,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> bytes:
        """Bytes of the file in the next bytes of the form. Raises RequestError for something else than one file."""
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise _bad_form("it is damaged") from error
        found = bytes(self._data)
        self._data.clear()
        return found

    def finish(self) -> str:
        """The suffix of the file's name. Raises RequestError for a form that is not complete."""
        if not self._ended:
            raise _bad_form("it ends early")
        if not self._files:
            raise _bad_form("it has no file")
        return self._suffix

    def _begin(self) -> None:
        self._name = None

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            self._name = options.get(b"filename")
        self._header = self._value = b""

    def _check_part(self) -> None:
        if self._name is None:
            raise _bad_form("it has a field that is no file; options belong into the address, as ?model=starter")
        self._files += 1
        if self._files > 1:
            raise _bad_form("it has several files")
        self._suffix = suffix_of(self._name.decode("utf-8", "replace"))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _end(self) -> None:
        self._ended = True


def _bad_form(why: str) -> RequestError:
    return RequestError(
        HTTPStatus.UNPROCESSABLE_ENTITY, f"the form cannot be used: {why}", follows=_NOTHING,
        remedy="Send one file, as `curl -F file=@clip.mp4` does.",
    )  # fmt: skip


def _too_large(limit: int) -> RequestError:
    return RequestError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the upload is larger than {limit / (1 << 20):.4g} MB", follows=_NOTHING,
        remedy="Send a part of the recording, or start the server with a larger --max-upload.",
    )  # fmt: skip


def _too_slow() -> RequestError:
    return RequestError(
        HTTPStatus.REQUEST_TIMEOUT, "the upload paused for too long or is too slow", follows=_NOTHING,
        remedy="Send it again over a better connection.",
    )  # fmt: skip


def _full() -> RequestError:
    return RequestError(
        HTTPStatus.INSUFFICIENT_STORAGE, "the server's disk has no space for the upload", follows=_NOTHING,
        remedy="Try again when other jobs have been deleted, or free some space on the server.",
    )  # fmt: skip


__all__ = ["ClientDisconnect", "receive_upload", "suffix_of"]
