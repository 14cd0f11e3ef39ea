"""The feature store: one safetensors file for each clip and encoder. See `feature_store` for the folders, `writer` for
the file format."""

from mien.store.feature_store import EncoderFeatures, FeatureStore, ProvenanceError
from mien.store.reader import Reader
from mien.store.writer import FeatureError, StoreError, Writer

__all__ = ["EncoderFeatures", "FeatureError", "FeatureStore", "ProvenanceError", "Reader", "StoreError", "Writer"]
