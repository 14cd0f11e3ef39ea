"""BORIS project (.boris): the recording as an observation, people as subjects, classes and speech as state events."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from mien.timeline.formats.annotations import Annotation, Annotations
from mien.timeline.formats.boris_events import NO_SUBJECT, events_of, kind_of, pair

#: Version of the project format: the last one before BORIS 8 added fields that it does not need.
_VERSION = "7.0"


def dumps(annotations: Annotations) -> str:
    """The text of a project with one observation. A state event is its time twice: start and end."""
    events = events_of(annotations)
    behaviours = dict.fromkeys((item.label, item.kind) for _, _, item in events)
    people = dict.fromkeys(item.person for _, _, item in events)
    now = datetime.now().isoformat(timespec="seconds")
    name, media = Path(annotations.media).stem or "recording", annotations.media
    rate = annotations.frame_rate_hz
    project = {
        "time_format": "hh:mm:ss",
        "project_date": now,
        "project_name": name,
        "project_description": "Predicted by mien",
        "project_format_version": _VERSION,
        "subjects_conf": {str(n): {"key": "", "name": person, "description": ""} for n, person in enumerate(people)},
        "behaviors_conf": {
            str(n): {
                "type": "State event",
                "key": "",
                "code": label,
                "description": "",
                "category": kind,
                "modifiers": "",
                "excluded": "",
                "coding map": "",
            }
            for n, (label, kind) in enumerate(behaviours)
        },
        "behavioral_categories": list(dict.fromkeys(kind for _, kind in behaviours)),
        "independent_variables": {},
        "coding_map": {},
        "behaviors_coding_map": [],
        "converters": {},
        "observations": {
            name: {
                "file": {str(n): [media] if media and n == 1 else [] for n in range(1, 9)},
                "type": "MEDIA",
                "date": now,
                "description": "",
                "time offset": 0.0,
                "events": [[time, item.person, item.label, "", ""] for time, _, item in events],
                "observation time interval": [0, 0],
                "independent_variables": {},
                "visualize_spectrogram": False,
                "visualize_waveform": False,
                "close_behaviors_between_videos": False,
                "media_info": {
                    "length": {media: annotations.stop_s},
                    "fps": {media: rate or 0.0},
                    "hasVideo": {media: rate is not None},
                    "hasAudio": {media: any(item.kind == "speech" for _, _, item in events)},
                    "offset": {"1": 0.0},
                },
            }
        },
    }
    return json.dumps(project, ensure_ascii=False, indent=1) + "\n"


def loads(text: str) -> Annotations:
    """The intervals of a project with one observation.

    Raises ValueError: it is no project, has several observations, or a state event without an end.
    """
    project: Any = json.loads(text)
    if not isinstance(project, dict) or not isinstance(project.get("observations"), dict):
        raise ValueError("it has no observations, so it is not a project of BORIS")
    observations: dict[str, Any] = project["observations"]
    if len(observations) != 1:
        names = ", ".join(sorted(observations)[:3])
        raise ValueError(f"it holds {len(observations)} observations{f' ({names})' if names else ''}; keep one")
    (observation,) = observations.values()
    conf = {b["code"]: b for b in project.get("behaviors_conf", {}).values()}
    events = []
    for time, person, code, *_ in observation["events"]:
        about = conf.get(code, {})
        item = Annotation(kind_of(code, about.get("category", "")), person or NO_SUBJECT, 0.0, 0.0, code)
        events.append((float(time), "POINT" if str(about.get("type", "")).upper().startswith("POINT") else "", item))
    items = pair(events)
    files = observation.get("file") or {}
    media = next((path for paths in files.values() for path in paths), "") if isinstance(files, dict) else ""
    lengths = ((observation.get("media_info") or {}).get("length") or {}).values()
    return Annotations(tuple(items), max([*lengths, *(i.stop_s for i in items)], default=0.0), media)
