"""Label Studio tasks (.labelstudio.json): intervals as pre-annotations (`predictions`) of one task.

Regions are those of an Audio tag, in seconds; docs/ANNOTATIONS.md has the labelling configuration for video. The person
of a region is its meta text. Format: https://labelstud.io/guide/export and https://labelstud.io/guide/predictions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mien.timeline.formats.annotations import EXPRESSION, KINDS, SPEECH, Annotation, Annotations, parse_tier

#: Name of the Audio tag in the labelling configuration.
_TO_NAME = "audio"


def dumps(annotations: Annotations) -> str:
    """The text of a list with one task, to import. Valence and arousal are left out: Label Studio has numbers only for
    regions that have a label."""
    result = [
        {
            "id": f"mien_{number}",
            "from_name": item.kind,
            "to_name": _TO_NAME,
            "type": "labels",
            "original_length": round(annotations.stop_s, 3),
            "meta": {"text": [item.person]},
            "value": {
                "start": round(item.start_s, 3),
                "end": round(item.stop_s, 3),
                "channel": 0,
                "labels": [item.label],
            },
        }
        for number, item in enumerate(annotations.items)
        if item.kind in (EXPRESSION, SPEECH)
    ]
    prediction = {"model_version": "mien", "result": result}
    task = {
        "data": {"video": Path(annotations.media).as_posix() if annotations.media else ""},
        "predictions": [prediction],
    }
    return json.dumps([task], ensure_ascii=False, indent=1) + "\n"


def loads(text: str) -> Annotations:
    """The intervals of an export with one task: those of its first annotation that is not cancelled, else of its first
    prediction. Regions of a video timeline count frames, which needs `fps` in the data of the task.

    Raises ValueError: it is no export, or holds several tasks.
    """
    content: Any = json.loads(text)
    if isinstance(content, dict) and str(content.get("format", "")).startswith("mien-timeline"):
        raise ValueError("it states how a timeline was made; give the timeline beside it, such as timeline.csv")
    tasks = content if isinstance(content, list) else [content]
    if not tasks or not all(isinstance(t, dict) and ("annotations" in t or "predictions" in t) for t in tasks):
        raise ValueError("it is not an export of Label Studio: a list of tasks with annotations or predictions")
    if len(tasks) > 1:
        raise ValueError(f"it holds {len(tasks)} tasks, and a timeline is one recording; save each task as a file")
    (task,) = tasks
    done = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
    chosen = [*done, *(task.get("predictions") or [])][:1]
    notes = (f"of {len(done)} annotations of the task, the first is read",) if len(done) > 1 else ()
    data = task.get("data") or {}
    items = sorted(
        (item for part in chosen for region in part["result"] for item in _intervals(region, data)),
        key=lambda i: (i.person, i.kind, i.start_s),
    )
    lengths = [float(r["original_length"]) for p in chosen for r in p["result"] if r.get("original_length")]
    media = next((str(data[k]) for k in ("video", "audio") if data.get(k)), "")
    return Annotations(tuple(items), max([*lengths, *(i.stop_s for i in items)], default=0.0), media, notes=notes)


def _intervals(region: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[Annotation]:
    value, form = region.get("value") or {}, str(region.get("type", ""))
    name = str(region.get("from_name", ""))
    texts = (region.get("meta") or {}).get("text") or []
    person = texts[0] if isinstance(texts, list) and texts else texts if isinstance(texts, str) else ""
    kind = name if name in KINDS else parse_tier(name)[0]
    person = person or "subject_0"
    labels = [str(value["number"])] if form == "number" and "number" in value else value.get(form) or []
    if form == "timelinelabels":
        rate = data.get("fps")
        if not rate:
            raise ValueError('its regions count frames, and its data has no "fps"; add the frame rate to the data')
        spans = [((r["start"] - 1) / float(rate), r["end"] / float(rate)) for r in value.get("ranges") or []]
    elif "start" in value and "end" in value:
        spans = [(float(value["start"]), float(value["end"]))]
    else:
        return
    for start, stop in spans:
        for label in labels:
            yield Annotation(kind, person, start, stop, str(label))
