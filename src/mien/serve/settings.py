"""Settings of the server, checked when it starts."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from mien.errors import ConfigError

#: Characters that a token may have: those of a WebSocket subprotocol and of a URL fragment.
TOKEN = re.compile(r"[A-Za-z0-9_.~-]{16,200}")
_NOTHING = "The server did not start."


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of `mien serve`.

    Attributes:
        folder: uploads, results and the list of jobs; created with mode 0700.
        host, port: address to listen on. port 0: a free one.
        token: what every request but health checks and the files of the page has to show; "" for none.
        models: names that clients may ask for; the first is the default.
        workers: processes that predict, one job each at a time.
        queue: most jobs that wait, uploads in progress included.
        upload_bytes: most bytes of an upload.
        job_seconds: longest time of a job. job_bytes: most memory of a worker during a job (its resident set size).
        keep_seconds: time from the end of a job until everything of it is deleted.
        idle_seconds: longest pause of a client within a request.
        live: most live sessions at a time.
        ray: address of a Ray cluster that runs the jobs; "" for processes on this machine.
        public_url: address under which a proxy publishes the server, such as `https://mien.example.org`; "" for none.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8642
    token: str = ""
    models: tuple[str, ...] = ("starter",)
    workers: int = field(default_factory=lambda: default_workers())
    queue: int = 64
    upload_bytes: int = 2 << 30
    job_seconds: float = 3600.0
    job_bytes: int = 4 << 30
    keep_seconds: float = 3600.0
    idle_seconds: float = 15.0
    live: int = 2
    ray: str = ""
    public_url: str = ""

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can reach the server."""
        return is_loopback(self.host)


def default_workers() -> int:
    """Half the cores, because a prediction uses two: on two cores that other programs used as well, one worker finished
    1.06 files a second and two 0.71 (`bench/serve.py`)."""
    return max(1, (os.cpu_count() or 1) // 2)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is the machine itself."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_access(host: str, token: str, *, generated: bool = False) -> None:
    """Raise ConfigError for an address beyond this machine without a token, or for a token that cannot be sent.

    Args:
        generated: a token is made for this run, so none has to be given.
    """
    if token and not TOKEN.fullmatch(token):
        raise ConfigError(
            f"--token has {len(token)} characters, or some that cannot be sent in a header",
            follows=_NOTHING,
            remedy="Use 16 to 200 letters, digits, or any of _ . ~ -, such as the output of "
            "`python -c 'import secrets; print(secrets.token_urlsafe(24))'`.",
        )
    if not is_loopback(host) and not token and not generated:
        raise ConfigError(
            f"--host {host} lets other machines connect, and no token protects the server",
            follows=_NOTHING,
            remedy="Add --token TOKEN, or --token auto for one that is made and printed, or omit --host.",
        )
