"""`load`: a predictor from the name of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mien import ensemble, ensemble_folder, extras, saved_state, trained_model
from mien.errors import ConfigError
from mien.inference import InputFeature, StreamModel
from mien.labels import EXPRESSIONS
from mien.onnx_model import SHIPPED
from mien.predict import face_network
from mien.predict.face_network import FaceNetworkModel
from mien.predict.face_with_voice import VOICE_WEIGHT, FaceWithVoice
from mien.predict.predictor import ModelPredictor
from mien.predict.protocol import Predictor
from mien.records import VOICE

#: The model whose voice part is joined with networks over single faces.
VOICE_MODEL = "starter"


def load(
    model: str | Path | Sequence[str | Path] = "starter",
    *,
    device: str = "auto",
    max_faces: int = 4,
    weights: Sequence[float] | None = None,
    prompts: Mapping[str, str] | str | Path | None = None,
    reidentify: bool = True,
    one_thread: bool = False,
) -> Predictor:
    """Create a predictor. Returns at once: a checkpoint's weights load in the background during the first prediction.

    Args:
        model: a shipped checkpoint (`starter`), the folder of a trained checkpoint, or a network over single faces
            (`hsemotion`, `fer`, `face-api`, or an ONNX file with a card beside it), which is joined with the voice of
            the starter. The folder of an ensemble, or several checkpoints as a sequence, predict as one by the weighted
            mean of their predictions (`mien.ensemble`).
        device: `auto` (ONNX Runtime on the CPU if the checkpoint holds an ONNX network, else CUDA if available, else
            CPU), `cpu`, `cuda`, or a certain GPU such as `cuda:1`.
        max_faces: the largest number of people tracked at once.
        weights: of the members of an ensemble, by default those of its folder, or equal ones.
        prompts: classes to predict instead of the checkpoint's, for systems with text prompts (`prompted_tcn`): class
            -> text, or a file of them (`mien.zero_shot.read_prompts`). The checkpoint is then loaded at once.
        reidentify: someone who returns, or is seen again after a cut, keeps the number, by appearance.
        one_thread: decode, listen and look one after the other, for several processes that share the cores
            (`mien.predict_many`). Otherwise side by side, which is done sooner but takes more processor time.

    Raises:
        ConfigError: no such model, an unusable device, weights for a single model, or prompts for a model that has
            none. A damaged checkpoint raises it in the first prediction.
        ArtefactError: the network over single faces has not been downloaded.
    """
    if device not in ("auto", "cpu"):
        usable_device(device)
    several = [model] if isinstance(model, str | Path) else list(model)
    if len(several) > 1 or ensemble_folder.is_ensemble(several[0]):
        _refuse_prompts(str(model), prompts)
        predictor = _load_ensemble(several, weights, device, max_faces)
        predictor.reidentify, predictor.one_thread = reidentify, one_thread
        return predictor
    if weights is not None:
        raise ConfigError(
            f"weights were given for a single model, {several[0]}",
            follows="Nothing was predicted.",
            remedy="Omit the weights, or give several checkpoints.",
        )
    predictor = _load_single(several[0], device, max_faces, prompts)
    predictor.reidentify, predictor.one_thread = reidentify, one_thread
    return predictor


def _load_single(
    model: str | Path, device: str, max_faces: int, prompts: Mapping[str, str] | str | Path | None
) -> Predictor:
    name = str(model)
    if name in face_network.NAMES or Path(model).suffix in face_network.SUFFIXES:
        _refuse_prompts(name, prompts)
        return _face_predictor(face_network.card_model(name), Path(name).stem, device, max_faces)
    if name not in SHIPPED and not Path(model).is_dir():
        return ModelPredictor(_load(model, device), name=name, max_faces=max_faces, device=device)
    label = name if name in SHIPPED else Path(model).resolve().name
    if trained_model.is_image_model(model):
        _refuse_prompts(name, prompts)
        return _face_predictor(_image_model(Path(model), device), label, device, max_faces)
    if prompts is not None:
        return ModelPredictor(_load_prompted(model, device, prompts), name=label, max_faces=max_faces, device=device)
    return ModelPredictor(
        lambda: _load(model, device), name=label, max_faces=max_faces, device=device,
        features=trained_model.read_features(model),
    )  # fmt: skip


def _load_ensemble(runs: list[str | Path], weights: Sequence[float] | None, device: str, max_faces: int) -> Predictor:
    """The predictor of an ensemble folder or of several checkpoints. Names, folders and weights are checked here; the
    members load in the background."""
    if len(runs) == 1:
        stored = ensemble_folder.read(runs[0])
        name, names = Path(runs[0]).resolve().name, stored.names
        runs, weights = list(stored.members), stored.weights if weights is None else weights
    else:
        names = [str(run) for run in runs]
        name = " + ".join(run if run in SHIPPED else Path(run).resolve().name for run in names)
    shares = ensemble.check_weights(weights, len(runs))
    for run in runs:
        _check_member(run)
    features = [trained_model.read_features(run) for run in runs]
    known = [f for f in features if f is not None]
    return ModelPredictor(
        lambda: ensemble.combine([_load(run, device) for run in runs], names, shares),
        name=name,
        max_faces=max_faces,
        device=device,
        features=ensemble.prefixed_features(known) if len(known) == len(runs) else None,
    )


def _check_member(run: str | Path) -> None:
    """Raise ConfigError for a model that cannot be a member of an ensemble."""
    is_run = str(run) in SHIPPED or (Path(run).is_dir() and not ensemble_folder.is_ensemble(run))
    if is_run and not trained_model.is_image_model(run):
        return
    if is_run or str(run) in face_network.NAMES or Path(run).suffix in face_network.SUFFIXES:
        what = "it predicts single faces, frame by frame"
    else:
        what = "it is an ensemble itself" if ensemble_folder.is_ensemble(run) else "there is no such folder"
    raise ConfigError(
        f"model {str(run)!r} cannot be a member of an ensemble: {what}",
        follows="Nothing was predicted.",
        remedy=f"Give folders of trained checkpoints, or {', '.join(SHIPPED)}; or use it alone.",
    )


def _refuse_prompts(name: str, prompts: object) -> None:
    if prompts is not None:
        raise ConfigError(
            f"the model {name!r} has no text prompts",
            follows="Nothing was predicted.",
            remedy="Omit --prompts, or use a checkpoint of prompted_tcn.",
        )


def _load(model: str | Path, device: str) -> StreamModel:
    """The ONNX network if the checkpoint holds it and the CPU is acceptable, else the weights in torch."""
    folder = trained_model.locate(model)
    if device in ("auto", "cpu") and trained_model.has_onnx(folder):
        loaded = trained_model.load(model)
    else:
        loaded = trained_model.load(model, usable_device(device), onnx=False)
    return loaded


def _load_prompted(model: str | Path, device: str, prompts: Mapping[str, str] | str | Path) -> StreamModel:
    """The checkpoint with other classes, described by text."""
    extras.require("torch", "prompts", follows="Nothing was predicted.")
    from mien import checkpoint
    from mien.zero_shot import read_prompts, with_prompts

    device = usable_device(device)
    trained = checkpoint.load(model, device)
    if not isinstance(prompts, Mapping):
        prompts = read_prompts(Path(prompts), trained.recipe.objective.get("prompt", "{label}"))
    return trained_model.attach(with_prompts(trained, prompts, device=device), Path(model), device)


def usable_device(device: str) -> str:
    """The torch device of a name; `auto` is CUDA where it is available. Raises ConfigError for an unusable one."""
    if device == "auto":
        purpose, instead = "a model that has no ONNX network of its weights", "Or run `mien export` where torch is."
    else:
        purpose, instead = f"--device {device}", "Or omit --device."
    extras.require("torch", purpose, follows="Nothing was predicted.", instead=instead)
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the device {device!r} cannot be used: {str(error).splitlines()[0]}",
            follows="Nothing was predicted.",
            remedy="Use --device cpu, or omit --device.",
        ) from None
    return device


def _image_model(folder: Path, device: str) -> FaceNetworkModel:
    """The model of a trained image system: its exported network with its card on the CPU, else its weights."""
    if device in ("auto", "cpu") and trained_model.has_face_card(folder):
        return face_network.card_model(str(folder / trained_model.FACE_CARD))
    facts = saved_state.read(folder, trained_model.ABOUT).facts
    has_affect = bool(facts.get("valence_arousal", False))
    return face_network.checkpoint_model(folder, facts["labels"], valence_arousal=has_affect)


def _face_predictor(model: FaceNetworkModel, name: str, device: str, max_faces: int) -> Predictor:
    """Predictor of a network over single faces, with the voice of the starter where that knows its classes."""
    if not set(model.labels) <= set(EXPRESSIONS):
        return ModelPredictor(model, name=name, max_faces=max_faces, device=device)
    voice = trained_model.load(VOICE_MODEL).stages[VOICE]
    features: dict[str, InputFeature] = {**model.features, VOICE: voice.features[VOICE]}
    note = (
        f"{name} reads faces only; the voice is that of the {VOICE_MODEL}, with weight {VOICE_WEIGHT:g} where there "
        "is a face (--no-voice leaves it out)"
    )
    return ModelPredictor(
        lambda: FaceWithVoice(model, voice), name=name, max_faces=max_faces, device=device, features=features,
        voice_note=note,
    )  # fmt: skip
