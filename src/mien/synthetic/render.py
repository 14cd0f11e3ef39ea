"""Rendering: a scenario as pictures with light and impairments, frame by frame, and as MP4 with sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from mien.media.video import write_video
from mien.synthetic.eyes import Eyes, follow_with_lids, simulate_eyes
from mien.synthetic.mesh_tracks import identity_of, simulate_actions, simulate_head_pose, smooth_noise
from mien.synthetic.puppet import Placement, PuppetRenderer, blend
from mien.synthetic.puppet_mesh import load_puppet_mesh
from mien.synthetic.scenario import Scenario, seeded_rng
from mien.synthetic.speech_synthesis import synthesise_scenario

SIZE = (640, 360)
#: Seconds in which a person leaves or enters the picture, and in which a hand rises or falls.
LEAVE_S, HAND_S = 0.4, 0.3
#: Standard deviation of sensor noise in grey levels.
GRAIN = 2.0


def _ease(times: np.ndarray, scenario: Scenario, kind: str, ramp_s: float) -> np.ndarray:
    """`(time,)` level in [0, 1] of an impairment of this kind, with smooth onset and offset."""
    out = np.zeros(len(times))
    for impairment in scenario.impairments:
        if impairment.kind == kind:
            rise = np.clip((times - impairment.start_s) / ramp_s, 0, 1)
            fall = np.clip((impairment.stop_s - times) / ramp_s, 0, 1)
            level = np.minimum(rise, fall)
            out = np.maximum(out, level * level * (3 - 2 * level))
    return out


def _draw_placement(scenario: Scenario, share: float, pair: bool) -> Placement:
    """Draw a placement at `share` of the frame's width from the left. pair: two people, who face each other."""
    rng = seeded_rng(scenario.identity_seed, "placing")
    mirrored = share < 0.5 if pair else bool(rng.random() < 0.5)
    zoom = float(rng.uniform(0.6, 0.66) if pair else rng.uniform(0.62, 0.82))
    puppet = load_puppet_mesh()
    centre = puppet.texture.shape[1] - 1 - puppet.origin[0] if mirrored else puppet.origin[0]
    # the photograph reaches the lower edge of the frame, also where it is too small to be moved up or down
    highest = max(SIZE[1] - puppet.texture.shape[0] * zoom, -60 * zoom)
    corner = (SIZE[0] * share - centre * zoom, float(rng.uniform(highest, max(highest, -8 * zoom))))
    return Placement(zoom, corner, mirrored)


def _backdrop(scenario: Scenario) -> np.ndarray:
    """`(height, width, 3)` uint8: the background of the photograph, cropped, blurred, tinted and flipped at random."""
    rng = seeded_rng(scenario.seed, "backdrop")
    plate = load_puppet_mesh().plate
    scale = SIZE[0] / plate.shape[1] * rng.uniform(1.0, 1.25)
    big = cv2.resize(plate, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    x, y = (int(rng.integers(0, big.shape[i] - s + 1)) for i, s in ((1, SIZE[0]), (0, SIZE[1])))
    view = cv2.GaussianBlur(big[y : y + SIZE[1], x : x + SIZE[0]], (0, 0), rng.uniform(0.5, 4.0))
    if rng.random() < 0.5:
        view = view[:, ::-1]
    tint = 1 + 0.04 * rng.standard_normal(3)
    return np.clip(view * rng.uniform(0.6, 1.05) * tint, 0, 255).astype(np.uint8)


def _hand(skin: np.ndarray) -> np.ndarray:
    """`(260, 200, 4)` uint8 RGBA drawing of a raised hand with soft edges. skin: `(3,)` colour."""
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


def subject_is_left(scenario: Scenario) -> bool:
    """Whether the subject of a scenario with two people is in the left half of the picture."""
    return scenario.second is not None and bool(seeded_rng(scenario.seed, "side").random() < 0.5)


class Scene:
    """All pictures of one scenario; `frames()` renders them one by one.

    Args:
        scenario: its `second` person, if any, is placed beside the subject.
        opening: `(frame,)` mouth opening of the voice in [0, 1]; None simulates one.
        second_opening: the same of the second person.
        moving_eyes: paint eyes that look around, with the gaze in `eyes`, instead of those of the photograph.
    """

    def __init__(
        self,
        scenario: Scenario,
        opening: np.ndarray | None = None,
        second_opening: np.ndarray | None = None,
        *,
        moving_eyes: bool = False,
    ) -> None:
        self.scenario = scenario
        self.times = scenario.times()
        #: Scenario's id -> eyes of its person, if they move.
        self.eyes: dict[str, Eyes] = {}
        self._moving_eyes = moving_eyes
        #: Scenario's id -> true action-unit strengths `(frame, units)` of its person.
        self.actions: dict[str, np.ndarray] = {}
        self._direction = -1 if subject_is_left(scenario) else 1
        share = 0.5 if scenario.second is None else (0.28 if self._direction < 0 else 0.72)
        self._placement = _draw_placement(scenario, share, scenario.second is not None)
        self._subject = self._make_puppet(scenario, self._placement, opening)
        self._second = None
        if scenario.second is not None:
            placement = _draw_placement(scenario.second, 1 - share, True)
            self._second = self._make_puppet(scenario.second, placement, second_opening)
        self._backdrop = _backdrop(scenario)
        self._absence = _ease(self.times, scenario, "absent", LEAVE_S)
        self._coverage = _ease(self.times, scenario, "occluded", HAND_S)
        self._brightness = np.ones(len(self.times))
        for impairment in scenario.impairments:
            if impairment.kind == "dark":
                active = (self.times >= impairment.start_s) & (self.times < impairment.stop_s)
                self._brightness[active] = impairment.amount
        rng = seeded_rng(scenario.seed, "grain")
        self._grain = (GRAIN * rng.standard_normal((SIZE[1] + 64, SIZE[0] + 64, 1))).astype(np.int16).repeat(3, axis=2)
        self._skin = load_puppet_mesh().texture[240, 400, :3] * 0.9

    def _make_puppet(self, scenario: Scenario, placement: Placement, opening: np.ndarray | None) -> PuppetRenderer:
        identity = identity_of(scenario.identity_seed, scenario.sex)
        actions = simulate_actions(scenario, identity, self.times, opening)
        self.actions[scenario.id] = actions
        eyes: Eyes | None = None
        if self._moving_eyes:
            eyes = self.eyes[scenario.id] = simulate_eyes(scenario, self.times)
            follow_with_lids(actions, eyes.gaze)
        pose = simulate_head_pose(scenario, self.times)
        sway = smooth_noise(seeded_rng(scenario.seed, "sway"), self.times, 2, 1.5) * (0.06, 0.03)
        return PuppetRenderer(identity, actions, pose, sway, placement, SIZE, eyes)

    def frames(self) -> Iterator[np.ndarray]:
        """Yield `(360, 640, 3)` uint8 RGB, one for each of `times`."""
        background = self._backdrop.copy()
        if self._second is not None:
            self._second.draw_body(background)
        with_subject = background.copy()
        self._subject.draw_body(with_subject)
        for frame in range(len(self.times)):
            absence = self._absence[frame]
            shift = int(absence * SIZE[0]) * self._direction
            canvas = background.copy() if absence else with_subject.copy()
            if 0 < absence < 1:
                self._subject.draw_body(canvas, shift)
            if self._second is not None:
                self._second.draw_head(canvas, frame)
            if absence < 1:
                self._subject.draw_head(canvas, frame, shift)
            if self._coverage[frame] > 0:
                self._cover(canvas, float(self._coverage[frame]))
            yield self._expose(canvas, frame)

    def _cover(self, canvas: np.ndarray, level: float) -> None:
        """Draw a hand over the lower face. level: 0 below the picture, 1 raised."""
        puppet, placement = load_puppet_mesh(), self._placement
        amount = max(f.amount for f in self.scenario.impairments if f.kind == "occluded")
        size = placement.zoom * puppet.scale * (1.6 + 1.6 * amount) / 200
        hand = cv2.resize(_hand(self._skin), None, fx=size, fy=size, interpolation=cv2.INTER_AREA)
        centre = puppet.texture.shape[1] - 1 - puppet.origin[0] if placement.mirrored else puppet.origin[0]
        x = int(placement.corner[0] + placement.zoom * centre - hand.shape[1] * 0.5)
        top = placement.corner[1] + placement.zoom * (puppet.origin[1] + puppet.scale * (0.75 - 0.9 * amount))
        y = int(top * level + SIZE[1] * (1 - level))
        blend(canvas, np.ascontiguousarray(hand[..., :3]), np.ascontiguousarray(hand[..., 3]), (x, y))

    def _expose(self, canvas: np.ndarray, frame: int) -> np.ndarray:
        """Apply brightness and sensor noise."""
        dx, dy = (frame * 37) % 64, (frame * 23) % 64
        grain = np.ascontiguousarray(self._grain[dy : dy + SIZE[1], dx : dx + SIZE[0]])
        if self._brightness[frame] < 1:
            canvas = cv2.convertScaleAbs(canvas, alpha=float(self._brightness[frame]))
        return cv2.add(canvas, grain, dtype=cv2.CV_8U)


def render_video(
    scenario: Scenario,
    path: Path,
    *,
    moving_eyes: bool = False,
    progress: Callable[[int, int], None] | None = None,
    on_frame: Callable[[int, np.ndarray], None] | None = None,
) -> Scene:
    """Write the MP4 of a scenario: H.264, 640 × 360, at the scenario's frame rate, with its voice and that of a second
    person who speaks.

    Args:
        moving_eyes: as in `Scene`.
        progress: called with the number of finished frames and of all frames.
        on_frame: called with the index and the picture of each frame before it is encoded.

    Returns the scene, which holds the true action-unit strengths.

    Raises:
        OutputError: the file cannot be written.
        ArtefactError: the face networks, which locate the face in the photograph, are not here.
    """
    speech, times, second_opening = synthesise_scenario(scenario), scenario.times(), None
    samples = speech.samples
    if scenario.second is not None and scenario.second.speech:
        other = synthesise_scenario(scenario.second)
        second_opening = other.mouth_opening_at(times)
        samples = np.clip(samples + other.samples, -1, 1)
    scene = Scene(scenario, speech.mouth_opening_at(times), second_opening, moving_eyes=moving_eyes)

    def images() -> Iterator[np.ndarray]:
        for i, image in enumerate(scene.frames()):
            if on_frame is not None:
                on_frame(i, image)
            if progress is not None:
                progress(i + 1, len(scene.times))
            yield image

    write_video(path, images(), rate=scenario.rate, audio=samples)
    return scene
