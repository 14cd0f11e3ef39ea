"""transfer_ensemble after the authors' public code: support vector machine, CNN-LSTM, and the FER network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from mien import config, models
from mien.errors import ConfigError
from mien.models.transfer_ensemble import StepMean, TransferEnsemble
from mien.records import Batch
from tests.models.systems import CLASSES, FACE_DIM, batch, recipe


def build(features: dict[str, Any] | None = None, **model: Any) -> TransferEnsemble:
    raw = recipe("transfer_ensemble", **model).model_dump()
    raw["features"] |= features or {}
    torch.manual_seed(0)
    system = models.build(config.read(raw, origin="t", check=models.problems))
    assert isinstance(system, TransferEnsemble)
    return system.eval()


def test_functionals_are_the_published_machine_on_unscaled_features() -> None:
    """SVC(poly, degree 1, gamma .001, C 2) on means and deviations, whatever the normalisation of the inputs is."""
    system, given = build(), batch(size=40)
    for name in given.values:
        given.values[name] = given.values[name] * 6
    system.prepare(
        {"face": torch.full((FACE_DIM,), 5.0), "voice": torch.zeros(16)},
        {"face": torch.full((FACE_DIM,), 9.0), "voice": torch.ones(16)},
        torch.ones(CLASSES),
    )
    system.fit_classical([given])
    rows = []
    for values, valid in zip(given.values["face"], given.valid["face"], strict=True):
        known = values[valid].numpy()
        rows.append(np.concatenate((known.mean(axis=0), known.std(axis=0))))
    assert given.expression is not None
    x, labels = np.stack(rows), given.expression[:, 0].numpy()
    published = SVC(kernel="poly", degree=1, gamma=0.001, C=2.0, decision_function_shape="ovo").fit(x, labels)
    margins = torch.from_numpy(published.decision_function(x)).float()
    machine = system.members["functionals"].machine
    logits = torch.from_numpy(x) @ machine.weight.T + machine.bias
    for pair in range(margins.shape[1]):
        slope = np.polyfit(margins[:, pair].numpy(), logits[:, pair].numpy(), 1)
        assert slope[0] > 0
        np.testing.assert_allclose(np.polyval(slope, margins[:, pair].numpy()), logits[:, pair].numpy(), atol=2e-2)
    output = system.member_outputs(given.values, given.valid)["functionals"]
    assert output.probabilities is not None
    assert output.valence_arousal is None
    assert (output.probabilities[:, 0].argmax(dim=1).numpy() == published.predict(x)).mean() > 0.95


def test_cnn_lstm_has_no_batch_norm_and_answers_from_its_last_state() -> None:
    system = build({"waveform": {"encoder": "w", "dim": 40}}, pools=[10, 4])
    member = system.members["cnn_lstm"]
    assert not [m for m in member.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    values = torch.randn(2, 10, 40)
    states = member.lstm(member.blocks(values.flatten(1)[:, None]).transpose(1, 2))[0]  # type: ignore[operator, union-attr]
    assert states.shape[1] == 10, "400 samples, shortened by 10 and 4"
    found = member(values, torch.ones(2, 10, dtype=torch.bool)).logits
    torch.testing.assert_close(found[:, 0], member.expression(states[:, -1]))  # type: ignore[operator]
    torch.testing.assert_close(found[:, 0], found[:, 9])


def test_it_reads_samples_as_they_are() -> None:
    system = build({"waveform": {"encoder": "w", "dim": 40}}, pools=[10, 4])
    given = batch(size=2, missing=0.0)
    samples = torch.randn(2, 10, 40)
    values, valid = given.values | {"waveform": samples}, given.valid | {"waveform": given.valid["voice"]}
    before = system.member_outputs(values, valid)["cnn_lstm"].logits
    system.norm_of("waveform").deviation.fill_(7.0)
    assert torch.equal(system.member_outputs(values, valid)["cnn_lstm"].logits, before)


def test_fer_network_takes_part_and_may_be_missing() -> None:
    system, given = build({"fer": {"encoder": "fer", "dim": 7}}), batch(size=4)
    assert list(system.members) == ["frames", "functionals", "fer", "cnn14", "cnn_lstm"]
    valid = torch.ones(4, 10, dtype=torch.bool)
    valid[:, ::2] = False
    values = given.values | {"fer": torch.rand(4, 10, 7)}
    output = system(values, given.valid | {"fer": valid})
    assert output.modalities == list(system.members)
    assert torch.equal(output.weights[..., 2] > 0, valid), "frame by frame"
    alone = system({"fer": values["fer"]}, {"fer": valid})
    assert torch.isfinite(alone.logits).all()
    loss, logs = system.objective(Batch(values, given.valid | {"fer": valid}, given.expression, given.valence_arousal))
    assert set(logs) == {"loss", "frames", "fer", "cnn14", "cnn_lstm"}, "the support vector machine is in no loss"
    loss.backward()
    assert system.members["fer"].expression.weight.grad.abs().sum() > 0


def test_members_and_inputs_that_leave_nothing_to_train_are_refused() -> None:
    with pytest.raises(ConfigError, match="leave nothing to train; add frames, fer, cnn14 or cnn_lstm and its input"):
        recipe("transfer_ensemble", members=["functionals", "fer"])
    with pytest.raises(ConfigError, match=r"channels \[8, 8\], kernels \[5, 3\] and pools \[2\] differ in length"):
        recipe("transfer_ensemble", pools=[2])
    raw = recipe("transfer_ensemble").model_dump()
    raw["features"]["smell"] = {"encoder": "nose", "dim": 3}
    with pytest.raises(ConfigError, match="inputs are face, fer, voice and waveform"):
        config.read(raw, origin="t", check=models.problems)


@pytest.mark.parametrize("time", [8, 9, 11, 3])
def test_mean_of_steps(time: int) -> None:
    values = torch.randn(2, 3, time)
    expected = torch.stack([part.mean(dim=2) for part in values.split(4, dim=2)], dim=2)
    torch.testing.assert_close(StepMean(4)(values), expected)


def test_shipped_recipe_has_the_published_machine_and_says_what_replaces_the_fer_network() -> None:
    shipped = config.load("transfer_ensemble", check=models.problems)
    options = shipped.model.options
    assert (options["svm_c"], options["svm_gamma"], options["svm_class_weights"]) == (2.0, 0.001, "none")
    assert shipped.features["fer"].encoder == "fer"
    assert [line for line in shipped.paper.differs if "FER" in line and "Mini-Xception" in line]
