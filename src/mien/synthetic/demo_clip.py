"""Demonstration clip: several expressions, one interval without a face and one without a voice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from mien.synthetic.expression_prototypes import prototypes
from mien.synthetic.render import render_video
from mien.synthetic.scenario import Impairment, Scenario, Segment

#: Expression prototypes and their shares of the clip. Rest between them makes onset and offset visible.
SEGMENTS = (
    ("rest", 0.10),
    ("open smile", 0.16),
    ("rest", 0.06),
    ("open mouth", 0.14),
    ("rest", 0.06),
    ("pout", 0.16),
    ("rest", 0.06),
    ("bared teeth", 0.14),
    ("rest", 0.12),
)
#: Intervals as shares of the clip: phrases, the face absent, the voice muted.
SPEECH = ((0.03, 0.25), (0.30, 0.50), (0.55, 0.75), (0.80, 0.97))
ABSENT, MUTED = (0.42, 0.54), (0.62, 0.78)


def demo_scenario(seconds: float = 20.0) -> Scenario:
    """Scenario of the demonstration clip, scaled to a length in seconds."""
    segments, now = [], 0.0
    for name, share in SEGMENTS:
        stop = now + share * seconds
        expression = prototypes()[name].expression
        segments.append(Segment(now, stop, expression, name, 1.0 if expression else 0.0, 0.3, 0.35))
        now = stop
    impairments = (
        Impairment("absent", ABSENT[0] * seconds, ABSENT[1] * seconds),
        Impairment("silent", MUTED[0] * seconds, MUTED[1] * seconds),
    )
    return Scenario(
        id="demo",
        seed=7,
        split="test",
        subject="demo-person",
        identity_seed=11,
        sex="female",
        seconds=seconds,
        rate=Fraction(30000, 1001),
        segments=tuple(segments),
        speech=tuple((a * seconds, b * seconds) for a, b in SPEECH),
        impairments=impairments,
    )


def render_demo_clip(path: Path, *, seconds: float = 20.0, progress: Callable[[int, int], None] | None = None) -> None:
    """Render the demonstration clip to an MP4; see `render.render_video`.

    Raises:
        ArtefactError: the face networks are not here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    render_video(demo_scenario(seconds), path, progress=progress)


def render_expression(
    path: Path, prototype: str, *, person: int = 0, seconds: float = 2.0, rate: Fraction | int = 25
) -> None:
    """Render a person with one expression, without speech, to an MP4.

    Args:
        path: of the MP4. Its folder is created.
        prototype: name of `mien.synthetic.expression_prototypes.prototypes`, such as `smile`, `frown` or `boredom`.
        person: number of the face; each is another person.
        seconds: length. rate: frames per second.

    Raises:
        ValueError: there is no such prototype. ArtefactError: the face networks are not here.
    """
    if prototype not in prototypes():
        raise ValueError(f"there is no prototype {prototype!r}; use one of {', '.join(prototypes())}")
    expression, ramp_s = prototypes()[prototype].expression, min(0.2, seconds / 4)
    scenario = replace(
        demo_scenario(seconds),
        id=path.stem,
        seed=person,
        identity_seed=person,
        rate=Fraction(rate),
        segments=(Segment(0.0, seconds, expression, prototype, 1.0, ramp_s, ramp_s),),
        speech=(),
        impairments=(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    render_video(scenario, path)
