"""A plan as pictures: the stage, its light and its mishaps, frame by frame, and the MP4 with sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mien.media.video import write_video
from mien.synthetic.mesh_tracks import cast, head_pose, perform, wander
from mien.synthetic.puppet import Placing, RenderedPuppet, lay
from mien.synthetic.puppet_mesh import puppet
from mien.synthetic.scenario import Scenario, entropy
from mien.synthetic.speech_synthesis import Sound, speak

SIZE = (640, 360)
#: Seconds in which somebody leaves the picture, comes back, or a hand comes up.
LEAVE_S, HAND_S = 0.4, 0.3
#: Sensor noise in grey levels.
GRAIN = 2.0


@dataclass(frozen=True, slots=True)
class Truth:
    """What the pictures hold. times: `(frame,)` seconds; visible: `(frame,)` bool, the subject's whole face is in
    the picture, lit and uncovered; actions: `(frame, units)`; pose: `(frame, 3)` radians."""

    times: np.ndarray
    visible: np.ndarray
    actions: np.ndarray
    pose: np.ndarray


def _ease(times: np.ndarray, plan: Scenario, kind: str, ramp_s: float) -> np.ndarray:
    """`(time,)` in [0, 1]: how far a fault of this kind has come on, smoothly."""
    out = np.zeros(len(times))
    for fault in plan.faults:
        if fault.kind == kind:
            rise = np.clip((times - fault.start_s) / ramp_s, 0, 1)
            fall = np.clip((fault.stop_s - times) / ramp_s, 0, 1)
            level = np.minimum(rise, fall)
            out = np.maximum(out, level * level * (3 - 2 * level))
    return out


def _placing(plan: Scenario, share: float, crowd: bool) -> Placing:
    """Where a person stands: `share` of the frame's width from the left. Two people face each other's side."""
    rng = entropy(plan.person, "placing")
    mirrored = share < 0.5 if crowd else bool(rng.random() < 0.5)
    zoom = float(rng.uniform(0.6, 0.66) if crowd else rng.uniform(0.62, 0.82))
    doll = puppet()
    centre = doll.texture.shape[1] - 1 - doll.origin[0] if mirrored else doll.origin[0]
    low = SIZE[1] - doll.texture.shape[0] * zoom
    corner = (SIZE[0] * share - centre * zoom, float(rng.uniform(max(low, -60 * zoom), -8 * zoom)))
    return Placing(zoom, corner, mirrored)


def _backdrop(plan: Scenario) -> np.ndarray:
    """`(height, width, 3)` uint8: the photograph's background, tinted, softened and mirrored by the plan."""
    rng = entropy(plan.seed, "backdrop")
    plate = puppet().plate
    scale = SIZE[0] / plate.shape[1] * rng.uniform(1.0, 1.25)
    big = cv2.resize(plate, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    x, y = (int(rng.integers(0, big.shape[i] - s + 1)) for i, s in ((1, SIZE[0]), (0, SIZE[1])))
    view = cv2.GaussianBlur(big[y : y + SIZE[1], x : x + SIZE[0]], (0, 0), rng.uniform(0.5, 4.0))
    if rng.random() < 0.5:
        view = view[:, ::-1]
    tint = 1 + 0.04 * rng.standard_normal(3)
    return np.clip(view * rng.uniform(0.6, 1.05) * tint, 0, 255).astype(np.uint8)


def _hand(skin: np.ndarray) -> np.ndarray:
    """`(height, width, 4)` a hand held up, palm away: drawn, with a soft edge and shaded fingers."""
    out = np.zeros((260, 200, 4), np.uint8)
    tone = [int(c) for c in skin]
    dark = [int(c * 0.72) for c in skin]
    fingers = (
        ((60, 130), (38, 44), 15),
        ((88, 118), (82, 18), 16),
        ((116, 118), (126, 20), 16),
        ((143, 132), (166, 48), 14),
    )
    for base, tip, width in (*fingers, ((62, 190), (22, 130), 17)):
        cv2.line(out, base, tip, (*dark, 255), 2 * width + 3, cv2.LINE_AA)
        cv2.line(out, base, tip, (*tone, 255), 2 * width, cv2.LINE_AA)
    cv2.ellipse(out, (102, 172), (54, 62), 0, 0, 360, (*tone, 255), -1, cv2.LINE_AA)
    cv2.rectangle(out, (72, 200), (134, 260), (*tone, 255), -1)
    light = cv2.GaussianBlur(out, (0, 0), 7)
    out[..., :3] = np.where(out[..., 3:] > 0, 0.55 * out[..., :3] + 0.45 * light[..., :3], 0)
    return cv2.GaussianBlur(out, (0, 0), 1.2)


class Scene:
    """All of one recording's pictures. `frames()` draws them one by one.

    Args:
        plan: the script; its `second`, if any, stands beside the subject.
        opening: `(frame,)` mouth opening of the voice in [0, 1], or None to make one up.
    """

    def __init__(self, plan: Scenario, opening: np.ndarray | None = None) -> None:
        self.plan = plan
        self.times = plan.times()
        crowd = plan.second is not None
        side = bool(entropy(plan.seed, "side").random() < 0.5)
        here = (0.28 if side else 0.72) if crowd else 0.5
        self.subject_is_left = here < 0.5
        self.actions, self.pose, self._actor, self._placing = self._enter(plan, here, crowd, opening)
        self._other = self._enter(plan.second, 1 - here, crowd, None)[2] if plan.second else None
        self._backdrop = _backdrop(plan)
        self._away = _ease(self.times, plan, "absent", LEAVE_S)
        self._covered = _ease(self.times, plan, "occluded", HAND_S)
        self._dark = np.ones(len(self.times))
        for fault in plan.faults:
            if fault.kind == "dark":
                self._dark[(self.times >= fault.start_s) & (self.times < fault.stop_s)] = fault.amount
        rng = entropy(plan.seed, "grain")
        self._grain = (GRAIN * rng.standard_normal((SIZE[1] + 64, SIZE[0] + 64, 1))).astype(np.int16).repeat(3, axis=2)
        self._skin = puppet().texture[240, 400, :3] * 0.9

    def _enter(
        self, plan: Scenario, share: float, crowd: bool, opening: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, RenderedPuppet, Placing]:
        who = cast(plan.person, plan.sex)
        actions = perform(plan, who, self.times, opening)
        pose = head_pose(plan, self.times)
        sway = wander(entropy(plan.seed, "sway"), self.times, 2, 1.5) * (0.06, 0.03)
        placing = _placing(plan, share, crowd)
        return actions, pose, RenderedPuppet(plan.person, plan.sex, actions, pose, sway, placing, SIZE), placing

    def truth(self) -> Truth:
        """See `Truth`."""
        visible = (self._away == 0) & (self._covered < 0.05) & (self._dark > 0.5)
        return Truth(self.times, visible, self.actions, self.pose)

    def frames(self) -> Iterator[np.ndarray]:
        """`(360, 640, 3)` uint8 RGB, one per plan time."""
        empty = self._backdrop.copy()
        if self._other is not None:
            self._other.draw_body(empty)
        usual = empty.copy()
        self._actor.draw_body(usual)
        for frame in range(len(self.times)):
            gone = self._away[frame]
            shift = int(gone * SIZE[0]) * (-1 if self.subject_is_left else 1)
            canvas = empty.copy() if gone else usual.copy()
            if 0 < gone < 1:
                self._actor.draw_body(canvas, shift)
            if self._other is not None:
                self._other.draw_head(canvas, frame)
            if gone < 1:
                self._actor.draw_head(canvas, frame, shift)
            if self._covered[frame] > 0:
                self._cover(canvas, float(self._covered[frame]))
            yield self._expose(canvas, frame)

    def _cover(self, canvas: np.ndarray, level: float) -> None:
        """A hand before the lower face; it comes up from below."""
        doll, placing = puppet(), self._placing
        amount = max(f.amount for f in self.plan.faults if f.kind == "occluded")
        size = placing.zoom * doll.scale * (1.6 + 1.6 * amount) / 200
        hand = cv2.resize(_hand(self._skin), None, fx=size, fy=size, interpolation=cv2.INTER_AREA)
        centre = doll.texture.shape[1] - 1 - doll.origin[0] if placing.mirrored else doll.origin[0]
        x = int(placing.corner[0] + placing.zoom * centre - hand.shape[1] * 0.5)
        top = placing.corner[1] + placing.zoom * (doll.origin[1] + doll.scale * (0.75 - 0.9 * amount))
        y = int(top * level + SIZE[1] * (1 - level))
        lay(canvas, np.ascontiguousarray(hand[..., :3]), np.ascontiguousarray(hand[..., 3]), (x, y))

    def _expose(self, canvas: np.ndarray, frame: int) -> np.ndarray:
        dx, dy = (frame * 37) % 64, (frame * 23) % 64
        grain = np.ascontiguousarray(self._grain[dy : dy + SIZE[1], dx : dx + SIZE[0]])
        if self._dark[frame] < 1:
            canvas = cv2.convertScaleAbs(canvas, alpha=float(self._dark[frame]))
        return cv2.add(canvas, grain, dtype=cv2.CV_8U)


def render(
    plan: Scenario,
    path: Path,
    *,
    speech: Sound | None = None,
    progress: Callable[[int, int], None] | None = None,
    each: Callable[[int, np.ndarray], None] | None = None,
) -> Truth:
    """Write the plan's MP4: H.264 640 × 360 at the plan's rate, with its voice.

    Args:
        speech: the plan's voice; synthesised when absent.
        progress: called with frames done and frames in all.
        each: called with every frame's index and picture before it is encoded.

    Raises:
        OutputError: the file cannot be written.
        ArtefactError: the face networks, which read the photograph, are not here.
    """
    speech = speak(plan) if speech is None else speech
    stage = Scene(plan, speech.opening(plan.times()))

    def drawn() -> Iterator[np.ndarray]:
        for i, image in enumerate(stage.frames()):
            if each is not None:
                each(i, image)
            if progress is not None:
                progress(i + 1, len(stage.times))
            yield image

    write_video(path, drawn(), rate=plan.rate, audio=speech.samples)
    return stage.truth()
