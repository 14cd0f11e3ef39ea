"""ELAN annotation files (.eaf), EAF 3.0: one tier for each kind of annotation and person, with the person as
participant. Specification: Max Planck Institute for Psycholinguistics, EAF Annotation Format 3.0.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from mien.timeline.formats.annotations import Annotation, Annotations, parse_tier, tier_name

_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_TYPE = "intervals"
_MIME = {".mp4": "video/mp4", ".wav": "audio/x-wav", ".mpg": "video/mpeg", ".mov": "video/quicktime"}
#: Characters that XML 1.0 cannot hold.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def dumps(annotations: Annotations) -> str:
    """The text of an .eaf file. Times are whole milliseconds, as the format has them."""
    root = ET.Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": "mien",
            "DATE": datetime.now(UTC).isoformat(timespec="seconds"),
            "FORMAT": "3.0",
            "VERSION": "3.0",
            "xmlns:xsi": _XSI,
            "xsi:noNamespaceSchemaLocation": _SCHEMA,
        },
    )
    header = ET.SubElement(root, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    if annotations.media:
        media = Path(annotations.media)
        links = {"MEDIA_URL": media.absolute().as_uri(), "RELATIVE_MEDIA_URL": f"./{_text(media.name)}"}
        ET.SubElement(header, "MEDIA_DESCRIPTOR", {**links, "MIME_TYPE": _MIME.get(media.suffix.lower(), "unknown")})
    ET.SubElement(header, "PROPERTY", {"NAME": "lastUsedAnnotationId"}).text = str(len(annotations.items))
    order = ET.SubElement(root, "TIME_ORDER")
    number = 0
    slots: list[tuple[int, str]] = []
    for (kind, person), items in annotations.tiers().items():
        tier = ET.SubElement(
            root,
            "TIER",
            {
                "LINGUISTIC_TYPE_REF": _TYPE,
                "PARTICIPANT": _text(person),
                "TIER_ID": _text(tier_name(kind, person)),
            },
        )
        for item in items:
            number += 1
            start = round(1000 * item.start_s)
            names = f"ts{2 * number - 1}", f"ts{2 * number}"
            slots += [(start, names[0]), (max(round(1000 * item.stop_s), start + 1), names[1])]
            about = {"ANNOTATION_ID": f"a{number}", "TIME_SLOT_REF1": names[0], "TIME_SLOT_REF2": names[1]}
            holder = ET.SubElement(ET.SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", about)
            ET.SubElement(holder, "ANNOTATION_VALUE").text = _text(item.label)
    for value, name in sorted(slots, key=lambda slot: slot[0]):
        ET.SubElement(order, "TIME_SLOT", {"TIME_SLOT_ID": name, "TIME_VALUE": str(value)})
    facts = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": _TYPE, "TIME_ALIGNABLE": "true"}
    ET.SubElement(root, "LINGUISTIC_TYPE", facts)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _text(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def loads(text: str) -> Annotations:
    """The intervals of an .eaf file. Times without a value lie evenly between their neighbours; an annotation that
    refers to another one has its time, of which several share it evenly. Annotations without text are left out.

    Raises ValueError: it is no EAF.
    """
    try:
        root = ET.fromstring(text.encode())
    except ET.ParseError as error:
        raise ValueError(f"it is not XML ({error})") from None
    if root.tag != "ANNOTATION_DOCUMENT":
        raise ValueError(f"its root element is {root.tag}, and an ELAN file has ANNOTATION_DOCUMENT")
    slots = _slots(root)
    spans = _spans(root, slots)
    items = []
    for tier in root.iterfind("TIER"):
        kind, person = parse_tier(tier.get("TIER_ID", ""), tier.get("PARTICIPANT", ""))
        for element in tier.iterfind("ANNOTATION/*"):
            label = (element.findtext("ANNOTATION_VALUE") or "").strip()
            if label and (span := spans.get(element.get("ANNOTATION_ID", ""))):
                items.append(Annotation(kind, person, *span, label))
    media = root.find("HEADER/MEDIA_DESCRIPTOR")
    url = media.get("MEDIA_URL", "") if media is not None else ""
    return Annotations(tuple(items), max((i.stop_s for i in items), default=0.0), _path(url))


def _path(url: str) -> str:
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    path = unquote(parts.path) if parts.scheme == "file" else ""
    return path[1:] if re.match(r"/[A-Za-z]:", path) else path  # file:///C:/clip.mp4


def _slots(root: ET.Element) -> dict[str, float]:
    """Seconds of each time slot. The file lists them in order; a slot without a time lies between its neighbours."""
    names, times = [], []
    for slot in root.iterfind("TIME_ORDER/TIME_SLOT"):
        names.append(slot.get("TIME_SLOT_ID", ""))
        value = slot.get("TIME_VALUE")
        times.append(None if value is None else int(value) / 1000)
    known = [(i, time) for i, time in enumerate(times) if time is not None]
    if not known:
        return dict.fromkeys(names, 0.0)
    filled = np.interp(np.arange(len(times)), [i for i, _ in known], [time for _, time in known])
    return dict(zip(names, filled.tolist(), strict=True))


def _spans(root: ET.Element, slots: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Start and end in seconds by annotation id."""
    spans: dict[str, tuple[float, float]] = {}
    children: dict[tuple[int, str], list[str]] = {}
    for number, tier in enumerate(root.iterfind("TIER")):
        for element in tier.iterfind("ANNOTATION/*"):
            name = element.get("ANNOTATION_ID", "")
            if element.tag == "REF_ANNOTATION":
                children.setdefault((number, element.get("ANNOTATION_REF", "")), []).append(name)
            else:
                refs = (element.get("TIME_SLOT_REF1", ""), element.get("TIME_SLOT_REF2", ""))
                if missing := [ref for ref in refs if ref not in slots]:
                    raise ValueError(f"the annotation {name} refers to the time slot {missing[0]!r}, which is missing")
                spans[name] = slots[refs[0]], slots[refs[1]]
    for _ in range(len(children)):  # parents may refer to others themselves
        for (_, parent), names in children.items():
            if parent in spans:
                start, stop = spans[parent]
                step = (stop - start) / len(names)
                spans |= {name: (start + i * step, start + (i + 1) * step) for i, name in enumerate(names)}
    return spans
