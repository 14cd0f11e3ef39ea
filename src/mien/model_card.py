"""Model card of a checkpoint: README.md with front matter for the Hugging Face Hub."""

from __future__ import annotations

from typing import Any

import yaml

from mien.model_listing import ModelInfo, is_non_commercial

_LIMITS = """\
The estimates say what a face and a voice **show**, not what a person **feels**. They are no measurement of emotion and
no evidence about honesty, intent, competence, health or character.

In the European Union, the AI Act (Regulation 2024/1689), Article 5(1)(f), prohibits systems that infer emotions in the
workplace and in education institutions, except for medical or safety reasons.
"""


def write_card(model: ModelInfo, repository: str, licence: str) -> str:
    """The text of README.md for a checkpoint.

    Args:
        model: the checkpoint, from `mien.model_listing.describe`. Only its figures are published.
        repository: ORGANISATION/NAME, for title and commands.
        licence: of the checkpoint, such as `MIT` or `CC-BY-NC-4.0`; "" writes none into the front matter.
    """
    front = yaml.safe_dump(_front_matter(model, repository, licence), sort_keys=False, allow_unicode=True)
    predicts = [f"one of {len(model.classes)} expressions" if model.classes else ""]
    predicts += ["valence and arousal in [−1, 1]" if model.valence_arousal else ""]
    parts = [
        f"---\n{front}---\n\n# {repository}\n",
        f"Predicts {' and '.join(p for p in predicts if p)} for each person over time, "
        f"from {' and '.join(i.modality for i in model.inputs)}, with [mien](https://pypi.org/project/mien/).\n",
        *([f"Classes: {', '.join(model.classes)}.\n"] if model.classes else []),
        "## Use\n",
        f"```bash\npip install mien\nmien hub pull {repository}\n"
        f"mien predict clip.mp4 --model runs/{repository.split('/')[1]}\n```\n",
        "## Inputs\n",
        _inputs(model),
        "## Training\n",
        _training(model),
        "## Measured figures\n",
        _figures(model),
        "## What the estimates are not\n",
        _LIMITS,
    ]
    return "\n".join(parts)


def _front_matter(model: ModelInfo, repository: str, licence: str) -> dict[str, Any]:
    modalities = [i.modality for i in model.inputs]
    tags = ["emotion-recognition", *(["valence-arousal"] if model.valence_arousal else []), *modalities]
    front: dict[str, Any] = {"license": licence.lower()} if licence else {}
    is_video = any(m != "voice" for m in modalities)
    front |= {"library_name": "mien", "pipeline_tag": "video-classification" if is_video else "audio-classification"}
    front["tags"] = [*tags, model.system]
    validation = {k.removeprefix("val_"): v for k, v in model.figures.items() if k.startswith("val_")}
    if validation:
        front["model-index"] = [
            {
                "name": repository.split("/")[1],
                "results": [
                    {
                        "task": {"type": front["pipeline_tag"]},
                        "dataset": {"name": model.corpus, "type": model.corpus, "split": "validation"},
                        "metrics": [
                            {"type": key, "name": key.replace("_", " "), "value": round(value, 4)}
                            for key, value in validation.items()
                        ],
                    }
                ],
            }
        ]
    return front


def _inputs(model: ModelInfo) -> str:
    rows = [f"| {i.modality} | {i.encoder} | {i.source or 'part of mien'} | {i.licence} |" for i in model.inputs]
    text = "\n".join(["| input | encoder | weights | licence |", "|---|---|---|---|", *rows]) + "\n"
    limited = [i.encoder for i in model.inputs if is_non_commercial(i.licence)]
    if limited:
        text += f"\nThe licence of {', '.join(limited)} excludes commercial use, and so does prediction with it.\n"
    return text


def _training(model: ModelInfo) -> str:
    paper = f'"{model.paper}"' + (f" (arXiv {model.arxiv})" if model.arxiv else "")
    return (
        f"System `{model.system}`, after {paper}, trained on the corpus `{model.corpus}` with mien {model.mien}. "
        "`recipe.yaml` holds every setting:\n\n"
        "```bash\nmien train recipe.yaml --index index.jsonl --store features\n```\n"
    )


def _figures(model: ModelInfo) -> str:
    if not model.figures:
        return "None: `metrics.json` holds no validation figure.\n"
    rows = []
    for key, value in model.figures.items():
        name = key.removeprefix("val_").replace("_", " ")
        split = (
            f"`{model.corpus}`, validation split, which also selected the epoch" if key.startswith("val_") else "test"
        )
        rows.append(f"| {name} | {value:.4f} | {split} |")
    return "\n".join(["| figure | value | data |", "|---|---|---|", *rows]) + "\n"
