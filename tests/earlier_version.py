"""Folders as earlier versions of mien wrote them: manifests without digests."""

from __future__ import annotations

import json
from pathlib import Path


def without_digests(folder: Path, manifest: str = "checkpoint.json", **changes: object) -> Path:
    """Remove `files` and `digest` from a manifest, and change keys of it."""
    facts = json.loads((folder / manifest).read_text(encoding="utf-8"))
    for key in ("files", "digest"):
        facts.pop(key, None)
    (folder / manifest).write_text(json.dumps(facts | changes), encoding="utf-8")
    return folder
