"""Convert the face recognition network of the npm package @vladmandic/face-api (MIT) to ONNX, with its card.

    npm pack @vladmandic/face-api@1.7.15
    python bench/face_recognition_onnx.py vladmandic-face-api-1.7.15.tgz face-recognition.onnx

The network is that of dlib's `dnn_face_recognition_ex` (D. King): a ResNet of 27 convolutions, 150 × 150 RGB to 128
values; two faces are the same person below a Euclidean distance of 0.6 (dlib's figure, 99.38 % of the pairs of LFW).
The package holds its weights for TensorFlow.js, most of them as 8-bit integers with a scale and a minimum.
`mien people --descriptor face-recognition.onnx` reads the result. docs/PEOPLE.md says how exact it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

MODEL = "package/model/face_recognition_model"
SIDE, DIM, OPSET = 150, 128, 17
#: Means of the channels red, green and blue that the package subtracts before it divides by 255, and the framing of its
#: crops (`FaceLandmarks68.align`: 1/0.45 of the distance from eyes to mouth, 43 % of it above the centre of the three),
#: as the margin and shift of mien's crops.
MEANS, MARGIN, DOWN = (122.782, 117.001, 104.298), -0.12, 0.144
#: Two mean descriptors closer than this Euclidean distance count as one person (docs/PEOPLE.md). dlib's 0.6 is for
#: descriptors of single pictures.
SAME_PERSON = 0.5
#: Blocks in order; those with "down" halve the size.
BLOCKS = (
    "conv32_1", "conv32_2", "conv32_3", "conv64_down", "conv64_1", "conv64_2", "conv64_3", "conv128_down", "conv128_1",
    "conv128_2", "conv256_down", "conv256_1", "conv256_2", "conv256_down_out",
)  # fmt: skip


def read_weights(package: Path) -> dict[str, np.ndarray]:
    """Weights by name, float32, from the package's archive."""
    with tarfile.open(package) as archive:
        parts = [archive.extractfile(f"{MODEL}{end}") for end in ("-weights_manifest.json", ".bin")]
        manifest, data = (part.read() if part else b"" for part in parts)
    groups = json.loads(manifest)
    weights, offset = {}, 0
    for entry in (entry for group in groups for entry in group["weights"]):
        packed, count = entry.get("quantization"), int(np.prod(entry["shape"]))
        values = np.frombuffer(data, packed["dtype"] if packed else "<f4", count, offset)
        offset += values.nbytes
        values = values * np.float32(packed["scale"]) + np.float32(packed["min"]) if packed else values
        weights[entry["name"]] = values.astype(np.float32).reshape(entry["shape"])
    assert offset == len(data), "all bytes are weights"
    return weights


class Graph:
    """The network's graph while it is built. `last`: name of the newest value; `side`: its height and width."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights, self.last, self.side = weights, "face", SIDE
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        """Name of a constant."""
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Append a node; its output becomes `last`."""
        self.last = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [self.last], **attributes))
        return self.last

    def convolve(self, name: str, stride: int, *, relu: bool) -> str:
        """Convolution and scale as one convolution: w (f x + b) + c. Without padding where it halves the size."""
        gain = self.weights[f"{name}/scale/weights"]
        filters = (self.weights[f"{name}/conv/filters"] * gain).transpose(3, 2, 0, 1)
        bias = self.weights[f"{name}/conv/bias"] * gain + self.weights[f"{name}/scale/biases"]
        kernel = filters.shape[2]
        pad = 0 if stride == 2 else kernel // 2
        names = self.constant(f"{name}/f", np.ascontiguousarray(filters)), self.constant(f"{name}/b", bias)
        self.add("Conv", self.last, *names, strides=[stride] * 2, pads=[pad] * 4, kernel_shape=[kernel] * 2)
        if stride == 2:
            self.side = (self.side - kernel) // 2 + 1
        return self.add("Relu", self.last) if relu else self.last

    def pad(self, name: str, value: str, high: Sequence[int]) -> str:
        """Pad a tensor with zeros at the end of each axis; returns the name of the output."""
        return self.add("Pad", value, self.constant(name, np.array([0] * 4 + list(high), np.int64)))

    def block(self, name: str) -> None:
        """Residual block; one that halves the size adds the mean of 2 × 2 values, with zeros for new channels."""
        before, side, halves = self.last, self.side, "down" in name
        self.convolve(f"{name}/conv1", 2 if halves else 1, relu=True)
        out = self.convolve(f"{name}/conv2", 1, relu=False)
        if halves:
            channels = [self.weights[f"{name}/conv1/conv/filters"].shape[i] for i in (3, 2)]
            before = self.add("AveragePool", before, kernel_shape=[2, 2], strides=[2, 2])
            pooled = side // 2
            more = [0, channels[0] - channels[1], max(0, self.side - pooled), max(0, self.side - pooled)]
            before = self.pad(f"{name}/more", before, more)
            if lack := max(0, pooled - self.side):
                out = self.pad(f"{name}/lack", out, [0, 0, lack, lack])
                self.side = pooled
        self.add("Relu", self.add("Add", out, before))


def build(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The network: `face` `(batch, 3, 150, 150)`, (RGB − means) / 255, to `descriptor` `(batch, 128)`."""
    graph = Graph(weights)
    graph.convolve("conv32_down", 2, relu=True)
    graph.add("MaxPool", graph.last, kernel_shape=[3, 3], strides=[2, 2])
    graph.side = (graph.side - 3) // 2 + 1
    for name in BLOCKS:
        graph.block(name)
    graph.add("ReduceMean", graph.last, axes=[2, 3], keepdims=0)
    graph.add("MatMul", graph.last, graph.constant("fc", weights["fc"]))
    graph.nodes[-1].output[0] = "descriptor"
    shapes = (
        helper.make_tensor_value_info("face", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE]),
        helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, ["batch", DIM]),
    )
    body = helper.make_graph(graph.nodes, "face_recognition", [shapes[0]], [shapes[1]], graph.constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    data = build(read_weights(given.package)).SerializeToString()
    given.out.write_bytes(data)
    card = {
        "name": "face-recognition",
        "file": given.out.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "licence": "MIT",
        "size": SIDE,
        "colour": "rgb",
        "layout": "nchw",
        "mean": [round(mean / 255, 6) for mean in MEANS],
        "std": [1.0],
        "margin": MARGIN,
        "down": DOWN,
        "same_person": SAME_PERSON,
    }
    given.out.with_suffix(".yaml").write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
    print(f"{given.out} ({len(data):,} bytes) and its card {given.out.with_suffix('.yaml').name}")


if __name__ == "__main__":
    main()
