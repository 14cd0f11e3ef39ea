"""Rows of a live prediction for other programs: Open Sound Control (OSC) and the Lab Streaming Layer (LSL)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from mien.errors import ConfigError
from mien.labels import probability_column
from mien.live.predictor import Row

#: Hosts that are this computer.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: How far LSL announces a stream: this computer, the local network, the site.
SCOPES = ("machine", "link", "site")


class Sender(Protocol):
    """Gets the rows as they become final.

    Attributes:
        notice: where the rows go, as a part of a sentence.
    """

    notice: str

    def send(self, rows: Sequence[Row], age_s: Sequence[float]) -> None:
        """Send rows. age_s: seconds since the time of each row."""

    def close(self) -> None:
        """End the connection."""


def parse_osc(text: str) -> tuple[str, int]:
    """`HOST:PORT`, or `PORT` on this computer. Raises ConfigError for another form."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"--osc {text}: not a port, or a host and a port",
            follows="Nothing was opened.",
            remedy="Write --osc 9000 for this computer, or --osc 192.168.1.20:9000 for another one.",
        )
    return host, int(port)


class OscSender:
    """One OSC bundle over UDP for each row, with messages to `/mien/SUBJECT/...`:

    | address | arguments |
    |---|---|
    | `time` | seconds (float64), frame number (int; -1 without a picture) |
    | `evidence` | `face`, `voice`, `both` or `none` |
    | `expression` | name of the most probable class, its probability |
    | `probabilities` | one float for each class, in the order of `/mien/classes` |
    | `affect` | valence, arousal in [-1, 1] |
    | `box` | x1, y1, x2, y2 in pixels |

    What a row lacks is not sent. `/mien/classes` has the class names, once at the start and then every 2 s of rows.

    Args:
        host, port: of the receiver. classes: class names.

    Raises:
        ConfigError: python-osc is not installed, or the host is unknown.
    """

    def __init__(self, host: str, port: int, classes: Sequence[str]) -> None:
        try:
            from pythonosc.udp_client import UDPClient
        except ImportError:
            raise _missing("python-osc", "--osc") from None
        try:
            self._client = UDPClient(host, port)
        except OSError as error:
            raise ConfigError(
                f"--osc {host}:{port}: the host cannot be reached ({error.strerror or error})",
                follows="Nothing was opened.",
                remedy="Check the name; --osc 9000 sends to this computer.",
            ) from None
        self._classes, self._columns = tuple(classes), [probability_column(name) for name in classes]
        self._named_s = -math.inf
        self.notice = f"rows are sent to {f'[{host}]' if ':' in host else host}:{port}"
        self.notice += " on this computer" if host in LOOPBACK else ", another computer"

    def send(self, rows: Sequence[Row], age_s: Sequence[float]) -> None:
        """Send each row as a bundle; what cannot be delivered is lost, as UDP does."""
        for row in rows:
            messages = list(self._messages(row))
            if abs(row["time_s"] - self._named_s) >= 2:
                messages.append(("/mien/classes", list(self._classes)))
                self._named_s = row["time_s"]
            try:
                self._client.send(_bundle(messages))
            except OSError:  # no route or no receiver at the moment
                continue

    def _messages(self, row: Row) -> list[tuple[str, list[Any]]]:
        at = f"/mien/{row['subject']}/"
        messages: list[tuple[str, list[Any]]] = [
            (at + "time", [row["time_s"], -1 if row["frame"] is None else row["frame"]]),
            (at + "evidence", [row["evidence"]]),
        ]
        if row["expression"] is not None:
            messages.append((at + "expression", [row["expression"], row["confidence"]]))
            messages.append((at + "probabilities", [row[name] for name in self._columns]))
        if row["valence"] is not None and row["arousal"] is not None:
            messages.append((at + "affect", [row["valence"], row["arousal"]]))
        if row["x1"] is not None:
            messages.append((at + "box", [row[name] for name in ("x1", "y1", "x2", "y2")]))
        return messages

    def close(self) -> None:
        """Nothing to end: UDP has no connection."""


def _bundle(messages: list[tuple[str, list[Any]]]) -> Any:
    from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
    from pythonosc.osc_message_builder import OscMessageBuilder

    bundle = OscBundleBuilder(IMMEDIATELY)
    for address, arguments in messages:
        message = OscMessageBuilder(address)
        for place, value in enumerate(arguments):
            is_time = address.endswith("/time") and place == 0
            message.add_arg(value, OscMessageBuilder.ARG_TYPE_DOUBLE if is_time else None)
        bundle.add_content(message.build())
    return bundle.build()


class LslSender:
    """One LSL stream named `mien`, of type `Expression`, with an irregular rate and one sample for each row.

    Channels: `subject`, `time_s`, one for each class (`p_...`), `valence`, `arousal`, `confidence`; NaN where a row has
    no value. A sample's timestamp is the time of its row on LSL's clock. The channels are named in the description.

    The library listens on every network interface of the computer, on a port of its own choice, because it has no
    setting against that. With the scope `machine` it announces the stream to programs of this computer only.

    Args:
        classes: class names. scope: one of `SCOPES`. name: of the stream.

    Raises:
        ConfigError: pylsl is not installed.
    """

    def __init__(self, classes: Sequence[str], *, scope: str = "machine", name: str = "mien") -> None:
        try:
            import pylsl
        except (ImportError, RuntimeError):
            raise _missing("pylsl", "--lsl") from None
        listen = "ListenAddress = 127.0.0.1\n[ports]\nIPv6 = disable\n" if scope == "machine" else ""
        pylsl.set_config_content(f"[log]\nlevel = -2\n[multicast]\nResolveScope = {scope}\n{listen}")
        self.channels = ("subject", "time_s", *map(probability_column, classes), "valence", "arousal", "confidence")
        about = pylsl.StreamInfo(name, "Expression", len(self.channels), pylsl.IRREGULAR_RATE, "double64", name)
        description = about.desc().append_child("channels")
        for channel in self.channels:
            description.append_child("channel").append_child_value("label", channel)
        self._outlet = pylsl.StreamOutlet(about)
        self._clock = pylsl.local_clock
        place = "this computer" if scope == "machine" else "the network"
        self.notice = f"rows are announced on {place} as the LSL stream {name}, whose library listens on every network"

    def send(self, rows: Sequence[Row], age_s: Sequence[float]) -> None:
        """Send each row as a sample."""
        now = self._clock()
        for row, age in zip(rows, age_s, strict=True):
            values = [math.nan if row[name] is None else float(row[name]) for name in self.channels]
            self._outlet.push_sample(values, now - age)

    def close(self) -> None:
        """Close the stream."""
        del self._outlet


def _missing(package: str, option: str) -> ConfigError:
    return ConfigError(
        f"{option} needs the package {package}, which is not installed",
        follows="Nothing was opened.",
        remedy=f"Run: pip install 'mien[live]', or omit {option}.",
    )
