"""One clip to show: several expressions, a face that leaves for a while, a voice that falls silent for a while."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from mien.synthetic.expression_prototypes import recipes
from mien.synthetic.render import Truth, render
from mien.synthetic.scenario import Impairment, Scenario, Segment

#: Expression's recipe and the share of the clip it takes. Neutral between, so that each is seen to come and to go.
SCRIPT = (
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
#: Shares of the clip: speech, the face away, the voice muted.
SPEECH = ((0.03, 0.25), (0.30, 0.50), (0.55, 0.75), (0.80, 0.97))
AWAY, MUTED = (0.42, 0.54), (0.62, 0.78)


def demo_plan(seconds: float = 20.0, *, faults: bool = True) -> Scenario:
    """The script at any length; the same every time."""
    segments, now = [], 0.0
    for name, share in SCRIPT:
        stop = now + share * seconds
        expression = recipes()[name].expression
        segments.append(Segment(now, stop, expression, name, 1.0 if expression else 0.0, 0.3, 0.35))
        now = stop
    mishaps = (
        Impairment("absent", AWAY[0] * seconds, AWAY[1] * seconds),
        Impairment("silent", MUTED[0] * seconds, MUTED[1] * seconds),
    )
    return Scenario(
        id="demo",
        seed=7,
        split="test",
        subject="demo-person",
        person=11,
        sex="female",
        seconds=seconds,
        rate=Fraction(30000, 1001),
        segments=tuple(segments),
        speech=tuple((a * seconds, b * seconds) for a, b in SPEECH),
        faults=mishaps if faults else (),
    )


def demo_clip(
    path: Path, *, seconds: float = 20.0, faults: bool = True, progress: Callable[[int, int], None] | None = None
) -> Truth:
    """Render the demo clip to an MP4. Raises ArtefactError if the face networks are not here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return render(demo_plan(seconds, faults=faults), path, progress=progress)
