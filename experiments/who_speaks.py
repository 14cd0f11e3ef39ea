"""Who speaks, measured on rendered pairs of people: `python -m experiments.who_speaks --help`.

Two sets of clips with known turns. In `conversation`, two people talk by turns, and whoever listens shows expressions.
In `chewing`, one person talks while the other moves the mouth as in speech, without a sound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer

import mien
from mien.media.video import write_video
from mien.predict import active_speaker, rows
from mien.synthetic.mesh_tracks import simulate_mouth_opening
from mien.synthetic.render import Scene, render_video, subject_is_left
from mien.synthetic.scenario import Scenario, draw_scenario, seeded_rng
from mien.synthetic.speech_synthesis import synthesise_scenario
from mien.timeline.table import Timeline
from mien.timeline.transcript import Span, match_speakers

Turns = tuple[tuple[float, float], ...]


def draw_pair(number: int, seconds: float, seed: int, *, chewing: bool) -> Scenario:
    """Two people at 25 frames per second: turns of 1 to 4 s that go to the other person in four of five cases, with
    pauses of 0.15 to 1 s; chewing: the subject has all turns, and the second person moves the mouth on their own."""
    base = draw_scenario("test", number, seconds=seconds, seed=seed, balance=1.0, impairments=False, second=True)
    assert base.second is not None
    rng = seeded_rng(seed, number, "turns")
    turns: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    now, who = float(rng.uniform(0.1, 0.8)), int(rng.integers(2))
    while now < seconds - 1:
        stop = min(now + float(rng.uniform(1, 4)), seconds)
        turns[0 if chewing else who].append((now, stop))
        now = stop + float(rng.uniform(0.15, 1.0))
        who = 1 - who if rng.random() < 0.8 else who
    now = float(rng.uniform(0, 1))
    while chewing and now < seconds - 1:
        stop = min(now + float(rng.uniform(2, 6)), seconds)
        turns[1].append((now, stop))
        now = stop + float(rng.uniform(0.5, 2))
    rate = Fraction(25)
    return replace(
        base, rate=rate, speech=tuple(turns[0]), second=replace(base.second, rate=rate, speech=tuple(turns[1]))
    )


def render(scenario: Scenario, path: Path, *, chewing: bool) -> None:
    """Write the clip; chewing: the second person's mouth moves without a sound."""
    if not chewing:
        render_video(scenario, path)
        return
    assert scenario.second is not None
    times, speech = scenario.times(), synthesise_scenario(scenario)
    scene = Scene(scenario, speech.mouth_opening_at(times), simulate_mouth_opening(scenario.second, times))
    write_video(path, scene.frames(), rate=scenario.rate, audio=speech.samples)


def count_rows(timeline: Timeline, turns: dict[int, Turns]) -> np.ndarray:
    """Rows with speech in some turn, those of the right person (`own`), and those of a wrong one, `(3,)`."""
    found = np.zeros(3, int)
    truth: dict[float, int] = {}
    for subject in timeline.subjects:
        times = timeline.rows_of(subject)["time_s"].to_numpy()
        for start, stop in turns.get(subject, ()):
            truth |= dict.fromkeys(times[(times >= start) & (times < stop)].tolist(), subject)
    for subject in timeline.subjects:
        table = timeline.rows_of(subject)
        for time, speech in zip(table["time_s"], table["speech"], strict=True):
            if time in truth and speech is not None:
                found[0] += subject == timeline.subjects[0]
                found[1] += speech == "own" and truth[time] == subject
                found[2] += speech == "own" and truth[time] != subject
    return found


def by_side(timeline: Timeline, scenario: Scenario) -> tuple[int, int]:
    """Subject numbers of the scenario's subject and of the second person, by the side of their boxes."""
    left = {s: timeline.rows_of(s)["x1"].cast(pl.Float64).mean() for s in timeline.subjects}
    first, second = sorted(left, key=lambda s: left[s])[:2]
    return (first, second) if subject_is_left(scenario) else (second, first)


def measure(numbers: range, seconds: float, seed: int, chewing: bool, report: Callable[[str], Any]) -> None:
    """Predict the clips with and without the level of the sound, and report shares of rows and matched speakers."""
    predictor = mien.load("starter")
    attribute = active_speaker.attribute_speech
    totals = {name: np.zeros(3, int) for name in ("motion alone", "motion and sound")}
    shares: tuple[list[float], list[float]] = ([], [])
    with TemporaryDirectory() as folder:
        for number in numbers:
            typer.echo(f"clip {number + 1} of {len(numbers)}", err=True)
            scenario = draw_pair(number, seconds, seed, chewing=chewing)
            path = Path(folder) / f"{number}.mp4"
            render(scenario, path, chewing=chewing)
            for name in totals:
                rows.attribute_speech = (  # type: ignore[assignment]
                    attribute
                    if name == "motion and sound"
                    else lambda o, t, s, level=None, **more: attribute(o, t, s, **more)
                )
                timeline = predictor.predict(path)
                if len(timeline.subjects) != 2:
                    report(f"clip {number}: {len(timeline.subjects)} people found, left out")
                    continue
                people = by_side(timeline, scenario)
                second = () if chewing or scenario.second is None else scenario.second.speech
                totals[name] += count_rows(timeline, {people[0]: scenario.speech, people[1]: second})
            if not chewing and len(timeline.subjects) == 2:
                spans = [Span(*turn, "", f"S{k}") for k, own in enumerate((scenario.speech, second)) for turn in own]
                matched = match_speakers(timeline, spans)
                shares[0].append(float(matched.get("S0") == people[0]))
                shares[1].append(float(matched.get("S1", people[1]) == people[1]))
    rows.attribute_speech = attribute
    for name, (total, right, wrong) in totals.items():
        parts = {"right": right, "wrong": wrong, "undecided": total - right - wrong}
        report(f"{name}: {total} rows, " + ", ".join(f"{k} {n / total:.3f}" for k, n in parts.items()))
    if shares[0]:
        report(f"speakers of a transcript matched: {np.mean(shares):.3f} of {2 * len(shares[0])}")


def main(
    clips: Annotated[int, typer.Option(min=1, help="Clips of each set.")] = 10,
    seconds: Annotated[float, typer.Option(min=3, help="Length of a clip.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Seed of people and turns; 5 chose the weights of the method.")] = 9,
) -> None:
    """Measure who speaks on rendered pairs. A clip of 20 s takes about a minute and a half on one core."""
    for name, chewing in (("conversation", False), ("chewing", True)):
        typer.echo(name)
        measure(range(clips), seconds, seed, chewing, typer.echo)


if __name__ == "__main__":
    typer.run(main)
