"""Makes the study of a model that makes images, while train images are at hand: see `medloop.study`.

The classifier is the project's own, trained twice by the project's own training: on train images, and on made
ones of the same classes. It sees no test image, and validation images only to show how it fares.
"""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
from keras import ops

from medloop import memorisation, params, study
from medloop.answers import generation as answers
from medloop.inference import Network
from medloop.study import Study
from medloop.tasks import classification, generation
from medloop.tasks.generation import FEATURES, JUDGE
from medloop.training import backend, data, export, fitting, network
from medloop.training.checkpoint import Checkpoint

RECIPE = params.Train(
    architectures=(JUDGE,),
    keep="last",
    schedule="cosine",
    weight_decay=0.01,
    normalisation="image",
)
HYPER = {"filters": [16, 32], "units": FEATURES, "dropout": 0.3}


class _Silent:
    """Takes the metrics of the judges, which are no result."""

    def log(self, metrics: dict[str, float], step: int) -> None: ...


def make(
    folder: Path,
    architecture: ModuleType,
    arrays: data.Arrays,
    section: params.Train,
    *,
    seed: int,
    name: str,
    course: str,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Write the study of `folder`/model.onnx; return what is said of validation images (N, K), and how images are made.

    Args:
        folder: of the model; the study goes there.
        architecture: of the model.
        arrays: train and validation images.
        section: of the training; its augmentation is that of the judge too.
        seed: of the judge.
        name: of the Keras backend.
        course: names the training, for checkpoints.
    """
    train, val = arrays.train, np.asarray(arrays.val.inputs)
    images = np.asarray(train.inputs)
    labels, seeds = study.asked(train.labels)
    asked = RECIPE.model_copy(
        update={
            "epochs": study.EPOCHS,
            "patience": study.EPOCHS,
            "augment": section.augment,
            "batch_size": min(32, len(labels)),
        }
    )
    (folder / study.SHARED).mkdir()
    judges = folder / study.SHARED / study.JUDGE, folder / study.SYNTHETIC
    _judge(judges[0], arrays, asked, seed, name, f"{judges[0].stem}-{course}")
    judge, run = Network(judges[0]), Network(folder / "model.onnx").outputs
    train_features, val_features = (judge.outputs(each)[:, -FEATURES:] for each in (images, val))

    def tried(noise: float) -> tuple[float, dict[str, Any], np.ndarray, np.ndarray]:
        """Return how near images that begin with so much noise are to validation images, and what they are."""
        making = generation.making(architecture) | {"noise": noise}
        made = answers.pictures(run, labels.tolist(), seeds.tolist(), making | {"input_shape": list(arrays.shape)})
        features = judge.outputs(made)[:, -FEATURES:]
        said = study.said(val_features, features, train_features, near=0)
        return generation.score(arrays.val.labels, said), making, made, features

    _, making, made, features = min(map(tried, architecture.NOISE), key=lambda each: each[0])
    of_made = replace(arrays, train=replace(train, inputs=made, labels=labels))
    _judge(judges[1], of_made, asked, seed, name, f"{judges[1].stem}-{course}")
    shown = [images[train.labels == i] for i in range(len(arrays.classes))]
    of_model = Study(
        made,
        labels,
        seeds,
        features,
        train_features,
        shown=np.stack([np.resize(each, (study.SHOWN, *images.shape[1:])) for each in shown]),
        **_neighbours(made, images, val),
    )
    of_model.write(folder)
    return study.outputs(of_model, folder, val), making


def _neighbours(made: np.ndarray, images: np.ndarray, val: np.ndarray) -> dict[str, Any]:
    """Return what a study holds of made images' and validation images' nearest train `images`, all (N, H, W, C)."""
    nearest, (known, twice) = memorisation.nearest(made, images), memorisation.among(images)
    copied = np.isin(np.arange(len(made)), memorisation.copies(made, images)[:, 0])
    pairs = np.argsort(np.where(copied, -1.0, nearest.distance), kind="stable")[: study.PAIRS]
    return {
        "distance": nearest.distance,
        "copied": copied,
        "train_distance": known.distance,
        "train_copies": np.array(twice),
        "val_distance": memorisation.nearest(val, images).distance,
        "pairs": pairs,
        "paired": images[nearest.place[pairs]],
    }


def _judge(path: Path, arrays: data.Arrays, section: params.Train, seed: int, name: str, course: str) -> None:
    """Train a classifier and write it as ONNX: images (B, H, W, C) uint8 to logits and features (B, classes + F)."""
    backend.start(name, seed)
    normalisation = data.normalisation(section.normalisation, arrays.train)
    spec = network.Spec(JUDGE, arrays.shape, len(arrays.classes), HYPER, normalisation)
    kept = Checkpoint(course)
    trained, _ = fitting.fit(spec, arrays, classification, section, seed=seed, checkpoint=kept, log=_Silent())
    core: Any = trained.get_layer(JUDGE)
    both = keras.Model(core.inputs[0], ops.concatenate([core.output, core.layers[-2].output], axis=-1))
    [given] = trained.inputs
    image = keras.Input(given.shape[1:], dtype=given.dtype, name=given.name)
    judge = keras.Model(image, both(network.normalised(image, normalisation)), name="judge")
    saved = path.with_suffix(".keras")
    export.save_keras(judge, saved)
    with backend.onnx_exporter(name) as export_onnx:
        export_onnx(saved, path)
    saved.unlink()
    kept.remove()
