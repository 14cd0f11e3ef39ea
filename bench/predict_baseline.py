"""Baseline of `bench/predict.py`: OpenCV's VideoCapture, a face detector on every frame, an expression network.

    python bench/predict_baseline.py VIDEO DETECTOR.onnx EXPRESSION.onnx

Prints the number of frames.
"""

from __future__ import annotations

import sys

import cv2
import numpy as np
import onnxruntime


def main() -> None:
    """Predict every frame of a video, without sound, tracking or timestamps."""
    cv2.setNumThreads(2)
    video, frames = cv2.VideoCapture(sys.argv[1]), 0
    detector, network = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in sys.argv[2:4]
    )
    detector_input, network_input = detector.get_inputs()[0].name, network.get_inputs()[0]
    while True:
        ok, frame = video.read()
        if not ok:
            break
        small = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), (320, 240))
        tensor = ((small.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]
        scores, boxes = detector.run(None, {detector_input: tensor})
        best = scores[0, :, 1].argmax()
        if scores[0, best, 1] > 0.7:
            x1, y1, x2, y2 = (boxes[0, best] * np.tile(frame.shape[1::-1], 2)).clip(0).astype(int)
            if x2 > x1 + 4 and y2 > y1 + 4:
                grey = cv2.resize(cv2.cvtColor(frame[y1:y2, x1:x2], cv2.COLOR_BGR2GRAY), (64, 64))
                shape = [n if isinstance(n, int) else 1 for n in network_input.shape]
                network.run(None, {network_input.name: ((grey.astype(np.float32) / 255 - 0.5) * 2).reshape(shape)})
        frames += 1
    print(frames)


if __name__ == "__main__":
    main()
