"""`mien live`: predict a camera, a network stream, the screen or a file while it plays."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli import console
from mien.cli.live_display import display
from mien.views.words import count, format_time

if TYPE_CHECKING:
    from mien.live.predictor import LiveStream, Row
    from mien.live.run import LiveFacts
    from mien.live.senders import Sender
    from mien.live.session import Pieces
    from mien.live.sources import Source

#: Largest speed of a file.
MAX_SPEED = 100.0


# Over 60 lines, because Typer reads the options from the signature.
def live(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="The number of a camera (0), an address (rtsp://..., http://...), screen, or a file, which is played.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="starter, the folder of a checkpoint on faces or the starter's voice, or hsemotion.")
    ] = "starter",
    delay: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=30.0,
            metavar="S",
            help="Seconds after which a row is final. Longer: more like mien predict. Shorter: faster, less certain.",
        ),
    ] = 1.0,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE.parquet", help="Also write the rows as a timeline; complete when you stop."),
    ] = None,
    osc: Annotated[
        str | None,
        typer.Option(metavar="[HOST:]PORT", help="Also send each row by Open Sound Control; this computer by default."),
    ] = None,
    lsl: Annotated[
        bool, typer.Option("--lsl", help="Also send each row as a Lab Streaming Layer stream, mien.")
    ] = False,
    lsl_scope: Annotated[
        str, typer.Option(metavar="SCOPE", help="Who is told of the LSL stream: machine, link (local network) or site.")
    ] = "machine",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each row as a line of JSON instead of the view.")
    ] = False,
    no_face: Annotated[bool, typer.Option("--no-face", help="Use the voice alone; the camera stays off.")] = False,
    no_voice: Annotated[bool, typer.Option("--no-voice", help="Use the face alone; the microphone stays off.")] = False,
    max_faces: Annotated[int, typer.Option(min=1, max=64, help="Most people tracked at once.")] = 4,
    microphone: Annotated[
        str, typer.Option(metavar="NAME", help="Sound for a camera or the screen: default, none, or a device's name.")
    ] = "default",
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Size of a camera's pictures; default: the camera's own.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=1, metavar="HZ", help="Pictures per second of a camera; default: its own.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="FFmpeg's name of the device or format of SOURCE, such as decklink."),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.0, max=MAX_SPEED, metavar="X", help="Of a file: 1 real time, 0 as fast as possible."),
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, metavar="S", help="Stop after this time.")] = None,
    retry: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="S", help="Stop when a source stays away for this time; default: wait for it."),
    ] = None,
    devices: Annotated[
        bool, typer.Option("--devices", help="List the cameras and microphones of this computer, and end.")
    ] = False,
) -> None:
    """Predict a camera, stream, screen or file live.

    Shows each person's expression, valence and arousal now, a second late by default.

    The camera and the microphone are on until you press Ctrl-C. Pictures and sound are predicted on this computer and
    dropped at once: nothing is stored, and nothing leaves the computer, unless you ask for --record, --osc or --lsl.
    These get the rows (numbers and boxes), never a picture or a sound. Tell people that they are watched, and why:
    docs/RESPONSIBLE_USE.md.

    The view shows, for each person, the last 30 seconds as a band, the probability of each class, and valence and
    arousal from -1 to 1. Beside the title stand the measured delay and the number of frames that were dropped because
    the computer was too slow. A source that goes away is opened again until it is back.

    A row is final after --delay seconds and never changes. docs/LIVE.md says how such rows differ from those of mien
    predict, and how to call the same from Python (mien.stream).

    \b
    Examples:
      mien live 0
      mien live 0 --record today.parquet --size 640x480
      mien live rtsp://192.168.1.30/stream --no-voice --delay 0.3
      mien live screen --microphone none --osc 9000
      mien live talk.mp4 --speed 2 --json
      mien live --devices
    """
    if devices:
        _print_devices()
        return
    if source is None:
        raise typer.BadParameter("name a camera, an address, screen or a file, or give --devices", param_hint="SOURCE")
    if no_face and no_voice:
        raise typer.BadParameter("together they leave nothing to predict from", param_hint="--no-face and --no-voice")
    from mien.live.predictor import stream as make_stream
    from mien.live.run import run
    from mien.live.sources import DEFAULT, NONE, find_source

    found = find_source(
        source, microphone=NONE if no_voice else microphone, size=size, rate=rate, format=format, pictures=not no_face
    )
    if microphone != DEFAULT and found.kind not in ("camera", "screen"):
        raise typer.BadParameter(
            f"{found.title} brings its own sound; --no-voice leaves it out", param_hint="--microphone"
        )
    if lsl_scope != "machine" and not lsl:
        raise typer.BadParameter("it needs --lsl, without which no LSL stream is opened", param_hint="--lsl-scope")
    if speed is not None and found.kind != "file":
        raise typer.BadParameter(f"{found.title} is no file, and comes at its own speed", param_hint="--speed")
    pace = 1.0 if speed is None else speed
    console.hide_log()
    clock, stop = _SessionClock(pace or 1.0), _StopSignal()
    with ExitStack() as stack:
        stream = stack.enter_context(
            make_stream(model, delay_s=delay, late_s=0.3 if pace else None, max_faces=max_faces, clock=clock)
        )
        recorder = None
        if record is not None:
            from mien.live.recorder import Recorder

            recorder = stack.enter_context(Recorder(record, stream.classes, media=found.media))
        senders = _senders(osc, lsl_scope if lsl else None, stream.classes)
        for sender in senders:
            stack.callback(sender.close)
        notice = _notice(found, (not no_face, not no_voice), record, senders)
        show = stack.enter_context(display(found.title, stream.classes, notice, as_json=as_json))
        stack.enter_context(stop.installed())

        def should_stop() -> bool:
            return stop.is_set or (seconds is not None and clock.seconds >= seconds)

        def on_rows(rows: Sequence[Row], age_s: Sequence[float]) -> None:
            if recorder is not None:
                recorder.add(rows)
            for sender in senders:
                sender.send(rows, age_s)
            show.add(rows)

        clock.start()
        pieces = _pieces(
            found, (not no_face, not no_voice), pace=pace, clock=clock, retry_s=retry, on_state=show.set_state,
            should_stop=should_stop,
        )  # fmt: skip
        stack.callback(pieces.close)
        try:
            facts = run(
                stream, pieces, clock=clock if pace else None, on_rows=on_rows, on_update=show.update,
                should_stop=should_stop, dropped_before=lambda: pieces.dropped,
            )  # fmt: skip
        finally:
            if recorder is not None:
                recorder.info = _info(stream, found, clock, pieces.dropped)
    if not as_json:
        _print_summary(facts, record)


def _senders(osc: str | None, lsl_scope: str | None, classes: Sequence[str]) -> list[Sender]:
    from mien.live.senders import SCOPES, LslSender, OscSender, parse_osc

    senders: list[Sender] = []
    if osc is not None:
        senders.append(OscSender(*parse_osc(osc), classes))
    if lsl_scope is not None:
        if lsl_scope not in SCOPES:
            raise typer.BadParameter(f"{lsl_scope!r} is none of {', '.join(SCOPES)}", param_hint="--lsl-scope")
        senders.append(LslSender(classes, scope=lsl_scope))
    return senders


def _notice(source: Source, wants: tuple[bool, bool], record: Path | None, senders: Sequence[Sender]) -> list[str]:
    """What is on, what is kept and what leaves the computer. wants: whether pictures and sound are read."""
    pictures, sound = wants
    has_microphone = sound and source.has_microphone
    if source.kind == "camera":
        names = [*(["camera"] if pictures else []), *(["microphone"] if has_microphone else [])]
        first = f"The {' and the '.join(names)} {'are' if len(names) > 1 else 'is'} on"
    elif source.kind == "screen":
        first = "The screen is read" if pictures else ""
        if has_microphone:
            first += ", and the microphone is on" if first else "The microphone is on"
    else:
        first = {"device": "The device is on", "file": "The file is played to its end, or"}.get(
            source.kind, "The source is read"
        )
    lines = [f"{first} until you press Ctrl-C. Pictures and sound are dropped at once; none is stored or sent."]
    kept = [f"rows go to {record}"] if record is not None else []
    kept += [sender.notice for sender in senders]
    outputs = "; ".join(kept) or "nothing is stored, and nothing leaves this computer"
    return [*lines, f"{outputs[0].upper()}{outputs[1:]}."]


def _pieces(
    source: Source,
    wants: tuple[bool, bool],
    *,
    pace: float,
    clock: Callable[[], float],
    retry_s: float | None,
    on_state: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Pieces:
    """Pictures and sound of a source. wants: whether pictures and sound are read. pace: of a file, 0 for no waiting."""
    from mien.live.reader import Picture, Reader, Sound, paced, read_file
    from mien.live.session import Pieces

    pictures, sound = wants
    if source.kind == "file":
        pieces: Iterable[Picture | Sound] = read_file(
            Path(source.address.name), want_pictures=pictures, want_sound=sound
        )
        return Pieces([paced(pieces, clock, should_stop=should_stop) if pace else pieces], may_drop=bool(pace))

    def reader(address: Any, title: str, pictures: bool, sound: bool) -> Reader:
        return Reader(
            address, title, want_pictures=pictures, want_sound=sound, retry_s=retry_s, on_state=on_state,
            should_stop=should_stop, clock=clock,
        )  # fmt: skip

    readers: list[Iterable[Picture | Sound]] = []
    if pictures or source.microphone is None:
        readers.append(reader(source.address, source.title, pictures, sound and source.microphone is None))
    if sound and source.microphone is not None:
        readers.append(reader(source.microphone, f"microphone {source.microphone.name}", False, True))
    return Pieces(readers, on_note=lambda text: on_state(f"{text}; going on without it"))


class _SessionClock:
    """Seconds since the session began, times the speed of the media: the clock of the rows.

    Attributes:
        started: date and time at which it began.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self.start()

    def start(self) -> None:
        """Set the clock to 0 seconds."""
        self.started, self._start = datetime.now(UTC), time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds that passed, whatever the speed."""
        return time.monotonic() - self._start

    def __call__(self) -> float:
        return self.seconds * self._speed


class _StopSignal:
    """Ctrl-C and SIGTERM ask to stop; a second one ends the process at once."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take the signals inside the block."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._event.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._event.set()


def _info(stream: LiveStream, source: Source, clock: _SessionClock, dropped_before: int) -> dict[str, Any]:
    """The facts of a session that a timeline keeps."""
    return {
        "model": stream.name,
        "version": version("mien"),
        "live": {
            "source": source.kind,
            "started": clock.started.isoformat(timespec="milliseconds"),
            "seconds": round(clock.seconds, 3),
            "delay_s": stream.delay_s,
            "frames": stream.frames + dropped_before,
            "dropped": stream.dropped + dropped_before,
        },
    }


def _print_summary(facts: LiveFacts, record: Path | None) -> None:
    delay = "" if facts.delay_s is None else f", delay {facts.delay_s:.2f} s at the end"
    place = f", in {record}" if record is not None else ""
    console.stdout().print(
        f"{format_time(facts.latest_s)}: {count(facts.rows, 'row')}{place}; {count(facts.frames, 'frame')}, "
        f"{facts.dropped:,} dropped{delay}",
        markup=False,
    )


def _print_devices() -> None:
    from mien.live.sources import devices

    found = devices()
    table = console.table("device", "what it gives", "description")
    for device in found:
        table.add_row(device.name, " and ".join(device.media), device.description)
    console.stdout().print(table if found else "no camera and no microphone was found")
