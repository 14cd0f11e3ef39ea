"""Several crop scales averaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mien.encoders import registry
from mien.encoders.export_encoder import export_encoder
from mien.errors import ConfigError
from mien.faces.align import align
from tests.encoders import test_images


@pytest.fixture(scope="module")
def beit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return test_images.tiny("beit", tmp_path_factory.mktemp("networks") / "beit")


def encoder(spec: str) -> registry.Encoder:
    return registry.create(spec, precision="float32")


def test_vector_is_the_mean_over_crops_of_the_scales(beit: Path) -> None:
    rng = np.random.default_rng(2)
    frame = np.kron(rng.integers(0, 255, (40, 40, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    mesh = np.concatenate([rng.uniform(110, 210, (468, 2)), np.zeros((468, 1))], axis=1)

    def cut(made: registry.Encoder) -> np.ndarray:
        return align(frame, mesh, made.crop.size, made.crop.margin)[None]  # type: ignore[attr-defined]

    several = encoder(f"beit-large={beit},margin=0.2,scales=[1.0,1.5]")
    single = [encoder(f"beit-large={beit},margin={margin}") for margin in (0.2, 0.8)]  # 1.2 * 1.5 = 1.8
    assert several.crop.margin == pytest.approx(0.8)  # type: ignore[attr-defined]
    assert several.crop.size == 48  # type: ignore[attr-defined]
    found = several.encode_crops(cut(several))  # type: ignore[attr-defined]
    vectors = [one.encode_crops(cut(one)) for one in single]  # type: ignore[attr-defined]
    expected = np.mean(vectors, axis=0)
    distance = np.linalg.norm(vectors[0] - vectors[1])
    assert np.linalg.norm(found - expected) < 0.1 * distance  # the inner crop is cut from the outer one, not the frame
    assert np.linalg.norm(found - vectors[0]) > 0.3 * distance


def test_scales_are_in_provenance_and_one_of_1_changes_nothing(beit: Path) -> None:
    plain, one, three = (encoder(f"beit-large={beit}{s}") for s in ("", ",scales=[1]", ",scales=[1.0,1.15,1.3]"))
    assert plain.provenance == one.provenance
    assert three.provenance["crop"] == f"{plain.provenance['crop']}, mean of scales 1 1.15 1.3"
    spec = registry.format_spec("beit-large", {"scales": [1.0, 1.15, 1.3], "margin": 0.1})
    assert registry.parse_spec(spec) == ("beit-large", None, {"scales": [1.0, 1.15, 1.3], "margin": 0.1})


def test_scales_that_cannot_work_are_refused(beit: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scales=\[1.0, 0.0\] cannot be cut.*\nNo encoder was created"):
        encoder(f"beit-large={beit},scales=[1,0]")
    with pytest.raises(ConfigError, match="it averages several crops of each face"):
        export_encoder(encoder(f"beit-large={beit},scales=[1,2]"), tmp_path / "out")
