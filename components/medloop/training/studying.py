"""Makes the study of a model that makes images, while train images are at hand: see `medloop.study`.

The classifier is the project's own, trained twice by the project's own training: on train images, and on made
ones of the same classes. It sees no test image, and validation images only to show how it fares.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from medloop import memorisation, params, study
from medloop.answers import generation as answers
from medloop.inference import Network
from medloop.study import Study
from medloop.tasks import classification
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
    folder: Path, card: dict[str, Any], arrays: data.Arrays, section: params.Train, *, seed: int, name: str, course: str
) -> np.ndarray:
    """Write the study of `folder`/model.onnx to `folder`, and return what is said of the validation images (N, K).

    Args:
        folder: of the model.
        card: says how an image is made.
        arrays: train and validation images.
        section: of the training; its augmentation is that of the judge too.
        seed: of the judge.
        name: of the Keras backend.
        course: names the training, for checkpoints.
    """
    train = arrays.train
    images = np.asarray(train.inputs)
    labels, seeds = study.asked(train.labels)
    made = answers.pictures(Network(folder / "model.onnx").outputs, labels.tolist(), seeds.tolist(), card)
    asked = RECIPE.model_copy(
        update={
            "epochs": study.EPOCHS,
            "patience": study.EPOCHS,
            "augment": section.augment,
            "batch_size": min(32, len(labels)),
        }
    )
    of_made = replace(arrays, train=replace(train, inputs=made, labels=labels))
    (folder / study.SHARED).mkdir()
    judges = folder / study.SHARED / study.JUDGE, folder / study.SYNTHETIC
    for path, found in zip(judges, (arrays, of_made), strict=True):
        _judge(path, found, asked, seed, name, f"{path.stem}-{course}")
    judge = Network(judges[0])
    features, train_features = (judge.outputs(each)[:, -FEATURES:] for each in (made, images))
    nearest, (known, twice) = memorisation.nearest(made, images), memorisation.among(images)
    copied = np.isin(np.arange(len(made)), memorisation.copies(made, images)[:, 0])
    pairs = np.argsort(np.where(copied, -1.0, nearest.distance), kind="stable")[: study.PAIRS]
    shown = [images[train.labels == i] for i in range(len(arrays.classes))]
    of_model = Study(
        made,
        labels,
        seeds,
        features,
        train_features,
        distance=nearest.distance,
        copied=copied,
        train_distance=known.distance,
        train_copies=np.array(twice),
        val_distance=memorisation.nearest(np.asarray(arrays.val.inputs), images).distance,
        pairs=pairs,
        paired=images[nearest.place[pairs]],
        shown=np.stack([np.resize(each, (study.SHOWN, *images.shape[1:])) for each in shown]),
    )
    of_model.write(folder)
    return study.outputs(of_model, folder, np.asarray(arrays.val.inputs))


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
