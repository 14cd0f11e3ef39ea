"""Third-party files that mien downloads: their names, pinned digests, licences and sources.

`mien.hub` fetches them. A file inside a Python wheel is taken from there without installing the package: silero-vad,
for example, requires torch, and only its network is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from mien.downloads import human_size


@dataclass(frozen=True, slots=True)
class Artefact:
    """A third-party file, downloaded from the first of `urls` that works, or taken from a Python wheel.

    file: its name in mirrors and cache. digest: `sha256:HEX`, or `git:HEX` (git's blob name: SHA-1 of `blob SIZE\\0`
    and the bytes). size: bytes, None if not measured. use: what it does, as the end of a sentence. wheel, member: a pip
    requirement and a path inside that wheel.
    """

    name: str
    file: str
    digest: str
    size: int | None
    licence: str
    use: str
    urls: tuple[str, ...] = ()
    wheel: str = ""
    member: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.file}, {human_size(self.size) if self.size else 'size unknown'}, {self.licence})"


# The last mediapipe release whose wheel contains the networks. Only three members of it are kept.
_MEDIAPIPE = "mediapipe==0.10.21"
_OPENWAKEWORD = "openwakeword==0.4.0"
_PIPECAT = "pipecat-ai==1.14.0"
_SILERO = "silero-vad==6.2.3"
_GITHUB = "https://github.com/"

ARTEFACTS: dict[str, Artefact] = {
    a.name: a
    for a in (
        Artefact(
            "blazeface",
            "face_detection_short_range.tflite",
            "sha256:bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
            229_714,
            "Apache-2.0",
            "detects faces in a frame",
            wheel=_MEDIAPIPE,
            member="mediapipe/modules/face_detection/face_detection_short_range.tflite",
        ),
        Artefact(
            "blazeface-full-range",
            "face_detection_full_range_sparse.tflite",
            "sha256:2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
            676_746,
            "Apache-2.0",
            "detects small faces that blazeface misses",
            wheel=_MEDIAPIPE,
            member="mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
        ),
        Artefact(
            "facemesh",
            "face_landmark.tflite",
            "sha256:1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
            1_242_398,
            "Apache-2.0",
            "locates 468 landmarks of a face",
            wheel=_MEDIAPIPE,
            member="mediapipe/modules/face_landmark/face_landmark.tflite",
        ),
        Artefact(
            "face-landmarker",
            "face_landmarker.task",
            "sha256:64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            3_758_596,
            "Apache-2.0",
            "locates 478 landmarks with the irises and scores 52 blendshapes, for --blendshapes and --gaze",
            urls=(
                "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1"
                "/face_landmarker.task",
            ),
        ),
        Artefact(
            "ultraface",
            "ultraface-rfb-320.onnx",
            "sha256:34cd7e60aeff28744c657de7a3dc64e872d506741de66987f3426f2b79f88017",
            1_270_727,
            "MIT",
            "detects small faces that blazeface misses",
            urls=tuple(
                f"{_GITHUB}Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB/raw/{commit}"
                "/models/onnx/version-RFB-320.onnx"
                for commit in ("dffdddda", "0f9ca4a9fc80170fd505168fd1132b837141f7df")
            ),
        ),
        Artefact(
            "yunet",
            "face_detection_yunet_2023mar.onnx",
            "sha256:8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
            232_589,
            "MIT",
            "detects small faces that blazeface misses (used where ultraface is absent)",
            urls=(
                "https://media.githubusercontent.com/media/opencv/opencv_zoo/82b38c8f98e7b52aa171400f3e4c722352d0669f"
                "/models/face_detection_yunet/face_detection_yunet_2023mar.onnx",
            ),
        ),
        Artefact(
            "hsemotion",
            "enet_b0_8_va_mtl.onnx",
            "git:7ce9d6dd5b82b260bc19bfe7822a6ffa1abb6011",
            None,
            "Apache-2.0",
            "predicts 8 expressions, valence and arousal from a face crop",
            urls=(f"{_GITHUB}sb-ai-lab/EmotiEffLib/raw/f1df0e85/models/affectnet_emotions/onnx/enet_b0_8_va_mtl.onnx",),
        ),
        Artefact(
            "silero-vad",
            "silero_vad_16k_sequence.onnx",
            "sha256:9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
            1_246_165,
            "MIT",
            "detects speech",
            wheel=_SILERO,
            member="silero_vad/data/silero_vad_16k_sequence.onnx",
        ),
        Artefact(
            "openwakeword-melspectrogram",
            "openwakeword-melspectrogram.onnx",
            "sha256:ba2b0e0f8b7b875369a2c89cb13360ff53bac436f2895cced9f479fa65eb176f",
            1_087_958,
            "Apache-2.0",
            "computes the mel bands that openwakeword-embedding reads",
            wheel=_OPENWAKEWORD,
            member="openwakeword/resources/models/melspectrogram.onnx",
        ),
        Artefact(
            "openwakeword-embedding",
            "openwakeword-embedding.onnx",
            "sha256:ba754db3cd768a524c655ea90655ee5e6055a43b8dfd29366a11e93716ae9e51",
            1_328_103,
            "Apache-2.0",
            "embeds speech for voice-embedding",
            wheel=_OPENWAKEWORD,
            member="openwakeword/resources/models/embedding_model.onnx",
        ),
        Artefact(
            "smart-turn",
            "smart-turn-v3.2-cpu.onnx",
            "sha256:2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
            8_679_182,
            "BSD-2-Clause",
            "hears how something is said, for smart-turn and voice-speech",
            wheel=_PIPECAT,
            member="pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx",
        ),
    )
}


#: Networks that the starter reads recordings with.
NEEDED = ("blazeface", "facemesh", "silero-vad", "smart-turn")
