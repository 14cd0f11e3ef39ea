"""The feature store: one safetensors file for each clip and encoder. See `files` for the format, `shelves`
for folders."""

from mien.store.files import FeatureError, StoreError, Writer
from mien.store.reading import Reader
from mien.store.shelves import ProvenanceError, Shelf, Store

__all__ = ["FeatureError", "ProvenanceError", "Reader", "Shelf", "Store", "StoreError", "Writer"]
