"""Prediction with a model: encode pictures and sound side by side while the network loads, then fuse them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.encode.create_encoders import (
    create_encoders,
    differences_from_training,
    encoder_device,
    release_networks,
    source_of,
    source_of_encoder,
)
from mien.encode.encode_media import EncodedMedia, encode_media
from mien.encode.face_measures import FaceMeasure
from mien.encode.face_rate import SEVERAL_HZ, automatic_rate
from mien.encode.video_pass import MAX_SIDE, TIMES_ONLY_SIDE, media_facts
from mien.encoders.protocol import Encoder
from mien.errors import ConfigError, MediaError
from mien.faces.upside_down import is_upside_down, turn
from mien.inference import InputFeature, StreamModel
from mien.media.video import MediaInfo
from mien.memory import release_after_rows, release_freed_memory
from mien.predict.channels import (
    beyond_notes,
    channel_notes,
    has_speech,
    joined,
    numbers_of_channels,
    quality_notes,
)
from mien.predict.feature_columns import requested
from mien.predict.notes import evidence_notes
from mien.predict.progress import PartialRows, throttle
from mien.predict.protocol import MediaInput, ProgressCallback, RowsCallback
from mien.predict.request import Request
from mien.predict.section import Section
from mien.predict.sources import Source, check_modalities, open_source
from mien.printable import printable
from mien.records import Frame, Stream
from mien.timeline.class_names import check_classes

if TYPE_CHECKING:
    import polars as pl

    from mien.timeline.table import Timeline

#: Seconds of sound decoded at once. Our choice: short, because the voice encoder needs memory beside the video decoder.
BLOCK_S = 2.0
#: Pictures of a recording, at most, by which is decided whether it is upside down. Our choice.
SAMPLED_PICTURES = 5
#: Versions of packages; looking one up takes 2 ms.
_version = cache(metadata.version)


class ModelPredictor:
    """The `Predictor` of any model over streams: a checkpoint, an ensemble, a network over single faces.

    Args:
        model: a loaded model, or a function that loads it, which runs in the background when it is needed.
        name: the model's name in the results.
        max_faces: the largest number of people tracked at once.
        device: of the encoders: `auto`, `cpu`, `cuda`, `cuda:N`.
        features: modality -> input, where it is known before the model is loaded.
        voice_note: a note for timelines to which the voice contributed.

    Attributes:
        reidentify, one_thread: as in `Predictor`; True and False at first.
    """

    def __init__(
        self,
        model: StreamModel | Callable[[], StreamModel],
        *,
        name: str = "",
        max_faces: int = 4,
        device: str = "auto",
        features: Mapping[str, InputFeature] | None = None,
        voice_note: str = "",
    ) -> None:
        self._model: StreamModel | None = None
        self._future: Future[StreamModel] | None = None
        self._loader: Callable[[], StreamModel] | None = None
        if callable(model):
            self._loader = model
        else:
            self._model = _with_checked_classes(model)
        self._features, self._device, self._voice_note = features, device, voice_note
        self._encoders: dict[str, Encoder] = {}
        self.name, self.max_faces = name, max_faces
        self.reidentify, self.one_thread = True, False

    @property
    def model(self) -> StreamModel:
        """The model; waits until it is loaded.

        Raises:
            ConfigError: it is damaged, or cannot run on the device.
        """
        if self._model is None:
            self._model = self._start_loading().result()
        return self._model

    def _loaded(self) -> StreamModel | None:
        """The model if it is loaded."""
        return self.model if self._model is not None or (self._future is not None and self._future.done()) else None

    def _start_loading(self) -> Future[StreamModel]:
        """Load in the background, once it is certain that there is something to predict: a process cannot end while
        it imports torch, and a mistyped file name must not wait for that."""
        if self._future is None:
            loader = self._loader
            assert loader is not None
            pool = ThreadPoolExecutor(1, thread_name_prefix="mien-load")
            self._future = pool.submit(lambda: _with_checked_classes(loader()))
            pool.shutdown(wait=False)
        return self._future

    def predict(
        self,
        recording: MediaInput = None,
        *,
        frames: Any = None,
        times: Any = None,
        fps: float | None = None,
        audio: tuple[Any, float] | None = None,
        download: bool = False,
        face: bool = True,
        voice: bool = True,
        audio_track: int | None = None,
        split_channels: bool = False,
        min_quality: float = 0.0,
        face_rate_hz: float | None = None,
        features: bool | str | Iterable[str] = False,
        start_s: float = 0.0,
        stop_s: float | None = None,
        progress: ProgressCallback | None = None,
        on_rows: RowsCallback | None = None,
    ) -> Timeline:
        """Predict the Timeline of a recording; see `Predictor.predict`."""
        request = Request(
            Section(start_s, stop_s), face, voice, audio_track, split_channels, min_quality, face_rate_hz,
            requested(features), progress, on_rows,
        )  # fmt: skip
        with open_source(
            recording, frames=frames, times=times, fps=fps, audio=audio, download=download, video=face, sound=voice,
            audio_track=request.track,
        ) as source:  # fmt: skip
            return self._predict(source, request)

    def _predict(self, source: Source, request: Request) -> Timeline:
        start = time.perf_counter()
        seconds: dict[str, float] = {}
        info, section = source.info, request.section
        notes = [f"{printable(info.path)}: {note}" for note in info.notes]
        check_modalities(info, request.face, request.voice)
        if self._model is None:
            self._start_loading()
        encoders = self._encoders_of(info, request.face, request.voice)
        channels: list[int | None] = [None]
        if request.split_channels and request.voice:
            channels = numbers_of_channels(info, request.face)
        on_time = throttle(request.progress, info.duration_s)
        rate_hz = request.face_rate_hz or (None if request.groups is not None else automatic_rate(encoders.values()))
        rates = rate_hz, max(rate_hz, SEVERAL_HZ) if rate_hz and not request.face_rate_hz else rate_hz
        read, measures = self._with_features(encoders, info, request)
        rows = PartialRows(self._loaded, request) if request.on_rows is not None else None
        encodings = [
            self._encode(source, request, read, measures, notes, seconds, on_time, channel, rates, rows)
            for channel in channels
        ]
        media = next((each for each in encodings if has_speech(each)), encodings[0])
        if request.split_channels:
            notes += channel_notes(encodings)
        notes = [*dict.fromkeys(notes)]  # a recording that is decoded twice is described once
        prosody = [_take_prosody(each, encoders) for each in encodings] if request.groups is not None else []
        encoded = time.perf_counter()
        model = self.model
        if info.kind != "image":  # a picture leaves little, and this takes as long as a detection
            release_networks(encoders.values(), info.duration_s or 0.0)
            release_freed_memory()  # decoders and encoders are freed, and fusing needs as much again
        seconds["load"] = time.perf_counter() - encoded
        # Imported here, because polars takes 50 MB, and decoding and encoding most of a recording's memory.
        from mien.predict.rows import timeline_rows
        from mien.timeline.table import Timeline

        table = joined([timeline_rows(model, each, min_quality=request.min_quality) for each in encodings])
        table = section.rows(table, info)
        release_after_rows(len(table))
        features: pl.DataFrame | None = None
        if request.groups is not None:
            from mien.predict.features import feature_rows, missing_notes, without_voice_of_others

            groups = request.groups
            features = joined([feature_rows(*pair, groups) for pair in zip(encodings, prosody, strict=True)])
            features = without_voice_of_others(section.rows(features, info), table["speech"])
            notes += missing_notes(features, info, face=request.face, voice=request.voice)
        notes += beyond_notes(table, media)
        seconds["encode"] = media.faces.encode_s
        seconds["fuse"] = time.perf_counter() - encoded - seconds["load"]
        notes += differences_from_training(encoders, model.features)
        notes += evidence_notes(info, media, encoders, request, self.max_faces)
        if self._voice_note and has_speech(media):
            notes.append(self._voice_note)
        notes += quality_notes(table, request.min_quality)
        seconds["total"] = time.perf_counter() - start
        facts = self._info(info, media, encoders, seconds)
        if not section.is_all:
            facts["section"] = {"start_s": section.start_s, "stop_s": section.stop_s}
        if request.track is not None:
            facts["media"]["audio_track"] = request.track  # of report and overlay
        return Timeline(table, classes=model.labels, media=source.media, notes=notes, info=facts, features=features)

    def _encoders_of(self, info: MediaInfo, face: bool, voice: bool) -> dict[str, Encoder]:
        """The encoders of the inputs in use, made once and before anything is decoded.

        Raises:
            ConfigError: the options exclude all that the model reads. MediaError: the recording lacks it.
        """
        features = self._features if self._features is not None else self.model.features
        in_use = {"pictures": face and info.has_video, "sound": voice and info.has_audio}
        sources = {name: source_of(feature) for name, feature in features.items()}
        wanted = {name: f for name, f in features.items() if (source := sources[name]) is None or in_use[source]}
        new = {name: feature for name, feature in wanted.items() if name not in self._encoders}
        if new:
            self._encoders |= create_encoders(new, device=encoder_device(new, self._device))
        sources |= {name: source_of_encoder(encoder) for name, encoder in self._encoders.items()}
        self._check_sources(info, {source for source in sources.values() if source}, face, voice)
        return {name: self._encoders[name] for name in wanted if in_use[source_of_encoder(self._encoders[name])]}

    def _check_sources(self, info: MediaInfo, read: set[str], face: bool, voice: bool) -> None:
        """Raise an error if the recording, or the options, leave nothing that the model reads."""
        if len(read) != 1:
            return
        pictures = read == {"pictures"}
        what, option, other = ("faces", "--no-face", "sound") if pictures else ("the voice", "--no-voice", "pictures")
        if not (face if pictures else voice):
            raise ConfigError(
                f"the model {self.name!r} reads {what} only, which {option} excludes",
                follows="Nothing was predicted.",
                remedy=f"Omit {option}, or use --model starter.",
            )
        if not (info.has_video if pictures else info.has_audio) and not info.has_video:
            raise MediaError(
                f"{printable(info.path)} has {other} only, and the model {self.name!r} reads {what} only",
                follows="Nothing was predicted.",
                remedy="Use --model starter, which reads both.",
            )

    def _with_features(
        self, encoders: Mapping[str, Encoder], info: MediaInfo, request: Request
    ) -> tuple[Mapping[str, Encoder], Sequence[FaceMeasure]]:
        """The encoders to run, and the measures of faces, with those that the table of features needs."""
        if request.groups is None:
            return encoders, ()
        from mien.predict.features import create_measures, with_prosody

        return with_prosody(encoders), create_measures(request.groups if request.face and info.has_video else ())

    def _encode(
        self,
        source: Source,
        request: Request,
        encoders: Mapping[str, Encoder],
        measures: Sequence[FaceMeasure],
        notes: list[str],
        seconds: dict[str, float],
        on_time: Callable[[float], None],
        channel: int | None,
        rates: tuple[float | None, float | None],
        rows: PartialRows | None,
    ) -> EncodedMedia:
        def on_position(time_s: float) -> None:
            if self._future is not None and self._future.done() and (error := self._future.exception()):
                raise error  # the model cannot be loaded: report it now, not after an hour of video
            on_time(time_s)

        info, section = source.info, request.section
        looks = any(source_of_encoder(encoder) == "pictures" for encoder in encoders.values())
        max_side = MAX_SIDE if looks else TIMES_ONLY_SIDE
        # A still picture is decoded once.
        still = list(source.frames(max_side=max_side, notes=notes)) if info.kind == "image" else None

        def check_orientation() -> bool:
            if not looks:
                return False
            if still is not None:
                return is_upside_down(frame.image for frame in still)
            return is_upside_down(source.sample(SAMPLED_PICTURES, max_side=MAX_SIDE))

        turned = still is None and check_orientation()

        def pictures() -> Iterator[Frame]:
            for frame in still or source.frames(max_side=max_side, notes=notes):
                yield frame.with_image(turn) if turned else frame

        def sound() -> Iterator[tuple[float, np.ndarray]]:
            return source.blocks(seconds=BLOCK_S, track=request.track, channel=channel, notes=notes)

        def encode() -> EncodedMedia:
            return encode_media(
                encoders,
                frames=(lambda: section.frames(pictures(), str(info.path))) if info.has_video else None,
                audio=(lambda: section.blocks(sound())) if info.has_audio else None,
                width=info.width,
                max_faces=self.max_faces,
                reidentify=self.reidentify,
                still=still is not None,
                side_by_side=still is None and not self.one_thread,
                measures=measures,
                face_rate_hz=rates[0],
                several_rate_hz=rates[1],
                seconds=seconds,
                on_time=on_position,
                on_part=rows if still is None and not turned else None,
            )

        media = encode()
        if still is not None and not media.faces.has_upright_face() and check_orientation():
            turned = True
            media = encode()
        if turned:
            notes.append(
                "the pictures are upside down; they were turned to be read, and boxes are given as they are stored"
            )
            media.faces.turned = (info.width, info.height)
        return media

    def _info(
        self, info: MediaInfo, media: EncodedMedia, encoders: Mapping[str, Encoder], seconds: dict[str, float]
    ) -> dict[str, Any]:
        order = ("decode", "detect", "mesh", "track", "voice", "encode", "load", "fuse", "total")
        return {
            "model": self.name,
            "version": _version("mien"),
            "inputs": {name: {"encoder": e.name, "licence": e.licence} for name, e in encoders.items()},
            "media": media_facts(info, len(media.faces.times)),
            "faces_read": len(media.faces.times) if media.faces.read is None else len(media.faces.read),
            "seconds": {stage: round(seconds[stage], 3) for stage in order if stage in seconds},
        }


def _with_checked_classes(model: StreamModel) -> StreamModel:
    """The model. Raises ConfigError, before a long recording is decoded, if its classes cannot name columns."""
    check_classes(model.labels)
    return model


def _take_prosody(media: EncodedMedia, encoders: Mapping[str, Encoder]) -> Stream | None:
    from mien.predict.features import take_prosody

    return take_prosody(media, encoders)
