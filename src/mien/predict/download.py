"""Download of a recording from an address, which the caller allowed."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from mien.downloads import announce, human_size, is_offline
from mien.errors import MediaError
from mien.printable import printable

if TYPE_CHECKING:
    import requests

#: Largest recording that is downloaded, bytes. Our choice: an hour of video in high resolution.
MAX_BYTES = 4_000_000_000
#: Seconds without an answer, and without a byte, after which a download fails. Our choice.
TIMEOUT_S = 30.0
_PIECE = 1 << 20
_NOTHING = "Nothing was predicted."


def is_address(text: str) -> bool:
    """Whether a text is an address, `SCHEME://...`. Letters of a Windows drive are none."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and len(scheme) > 1 and scheme.isalnum()


def shown(address: str) -> str:
    """An address without user, password, query and fragment, which may hold secrets."""
    parts = urlsplit(address)
    return printable(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))


def download_to(file: IO[bytes], address: str, *, max_bytes: int = MAX_BYTES) -> None:
    """Download an address into a file that is open.

    Args:
        address: http or https; so must be what it redirects to.
        max_bytes: a larger recording is refused: by the size that the server states, or while it arrives.

    Raises:
        MediaError: another scheme, no answer, an error of the server, too large, or MIEN_OFFLINE is set.
    """
    name = shown(address)
    if urlsplit(address).scheme.lower() not in ("http", "https"):
        raise MediaError(
            f"{name} is not an address of http or https",
            follows=_NOTHING,
            remedy="Give an address that starts with https://, or download the recording and give its path.",
        )
    if is_offline():
        raise MediaError(
            f"{name} was not downloaded: MIEN_OFFLINE forbids downloads",
            follows=_NOTHING,
            remedy="Unset MIEN_OFFLINE, or give the path of a file.",
        )
    import requests  # imported here because it takes a tenth of a second

    announce("a recording", name, "a temporary file")
    try:
        with requests.get(address, stream=True, timeout=TIMEOUT_S) as answer:
            _check(answer, name, max_bytes)
            size = 0
            for piece in answer.iter_content(_PIECE):
                size += len(piece)
                if size > max_bytes:
                    raise _too_large(name, size, max_bytes)
                file.write(piece)
    except (requests.RequestException, ValueError) as error:
        raise MediaError(
            f"{name} could not be downloaded: {type(error).__name__}",
            follows=_NOTHING,
            remedy="Check the address and the connection, or download the recording and give its path.",
        ) from None  # the error of requests shows the whole address


def _check(answer: requests.Response, name: str, max_bytes: int) -> None:
    if not answer.ok:
        raise MediaError(
            f"{name} could not be downloaded: the server answered {answer.status_code} {printable(answer.reason)}",
            follows=_NOTHING,
            remedy="Open the address in a browser: it may need a login, or have moved.",
        )
    stated = answer.headers.get("Content-Length", "")
    if stated.isdigit() and int(stated) > max_bytes:
        raise _too_large(name, int(stated), max_bytes)


def _too_large(name: str, size: int, max_bytes: int) -> MediaError:
    return MediaError(
        f"{name} has {human_size(size)} or more, and at most {human_size(max_bytes)} are downloaded",
        follows=_NOTHING,
        remedy="Download the recording yourself and give its path.",
    )
