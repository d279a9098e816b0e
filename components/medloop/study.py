"""What was found of the images that a model makes while train images were at hand, and what it says of real ones.

`train` leaves it in the folder of a model of task generation: `study/judge.onnx` and `judge_synthetic.onnx`, the same
classifier trained on train images and on made ones, each of which gives its logits and the FEATURES numbers before
them; and `study.npz`. With these, real images can be compared with the made ones where there is neither keras nor a
train image.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medloop import kernel_distance, memorisation
from medloop.inference import Network
from medloop.tasks.generation import FEATURES

MOST = 500  # images that are made to judge a model; as many as there are train images, if these are fewer
EPOCHS = 20  # of the judge
SHOWN, PAIRS = 8, 12  # images of each class in the report; nearest pairs
FILE, JUDGE, SYNTHETIC = "study.npz", "judge.onnx", "judge_synthetic.onnx"
SHARED = "study"  # folder of what is logged with a version: the first two, without images


def asked(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return classes and seeds (M,) of the images by which a model is judged: the classes as train has them."""
    rows = np.linspace(0, len(labels), min(len(labels), MOST), endpoint=False).astype(np.int64)
    return np.sort(labels)[rows], np.arange(len(rows))


@dataclass(frozen=True)
class Study:
    """The images that a model made, and what they are held against."""

    images: np.ndarray  # (M, H, W, C) uint8
    labels: np.ndarray  # (M,) class indices
    seeds: np.ndarray  # (M,)
    features: np.ndarray  # (M, FEATURES) float32
    train_features: np.ndarray  # (N, FEATURES) float32, of all train images
    distance: np.ndarray  # (M,) to the nearest train image, in gray levels
    copied: np.ndarray  # (M,) bool, whether it is one picture with a train image
    train_distance: np.ndarray  # (N,) from each train image to the nearest other picture of train
    train_copies: np.ndarray  # (), how many train images have a copy among them
    val_distance: np.ndarray  # (V,) from each validation image to the nearest train image: what real images keep
    pairs: np.ndarray  # (P,) places of the images that are nearest to train, the nearest first
    paired: np.ndarray  # (P, H, W, C) uint8, the train image of each
    shown: np.ndarray  # (classes, SHOWN, H, W, C) uint8, train images of each class
    test: memorisation.Nearest | None = field(default=None)  # of each image the nearest test image

    def write(self, folder: Path) -> None:
        """Write all but what is known of test images; what is logged with a version to a folder of its own."""
        arrays = {name: value for name, value in self.__dict__.items() if name != "test"}
        shared = {name: arrays[name] for name in ("labels", "seeds", "train_features")}
        for path, content in ((folder / FILE, arrays), (folder / SHARED / FILE, {**shared, "near": self.near.mean()})):
            with path.open("wb") as file:
                np.savez(file, **content)

    @property
    def limit(self) -> float:
        """The distance in gray levels below which an image is too near to another."""
        return float(memorisation.limit(self.train_distance))

    @property
    def near(self) -> np.ndarray:
        """Whether (M,) each image is too near to a train image, or one picture with it."""
        return (self.distance < self.limit) | self.copied

    def beside(self, test: np.ndarray) -> "Study":
        """Return the same with what test images (N, H, W, C) are nearest."""
        return replace(self, test=memorisation.nearest(self.images, np.asarray(test)))

    def told(self) -> dict[str, Any]:
        """Return what metrics.json says of memorisation."""
        found = {
            "images": len(self.images),
            "limit": self.limit,
            "near_train": int(self.near.sum()),
            "copies_of_train": int(self.copied.sum()),
            "nearest_train": float(self.distance.min()),
            "near_of_validation": float((self.val_distance < self.limit).mean()),
            "train_copies": int(self.train_copies),
        }
        if self.test is not None:
            below = self.test.distance < self.limit
            found |= {"near_test": int(below.sum()), "nearest_test": float(self.test.distance.min())}
        return found


def read(folder: Path) -> Study:
    """Return the study in a model's folder."""
    with np.load(folder / FILE) as arrays:
        return Study(**{name: arrays[name] for name in arrays.files})


def outputs(study: Study, folder: Path, inputs: np.ndarray) -> np.ndarray:
    """Return what is said of real images (N, H, W, C) uint8, and both classifiers' logits: (N, SEEN + 2 classes)."""
    real, synthetic = (Network(path).outputs(inputs) for path in (folder / SHARED / JUDGE, folder / SYNTHETIC))
    about = said(real[:, -FEATURES:], study.features, study.train_features, float(study.near.mean()))
    return np.concatenate([about, real[:, :-FEATURES], synthetic[:, :-FEATURES]], axis=1)


class Shared:
    """What of a study is logged with a version: enough to compare images with its train images, but none of these.

    Args:
        folder: SHARED of a model.
    """

    def __init__(self, folder: Path) -> None:
        self._judge = Network(folder / JUDGE)
        with np.load(folder / FILE) as arrays:
            self.labels, self.seeds, self._train = (arrays[name] for name in ("labels", "seeds", "train_features"))
            self.near = float(arrays["near"])

    def said(self, real: np.ndarray, made: np.ndarray, near: float) -> np.ndarray:
        """Return (N, SEEN) of real images (N, H, W, C) and made ones (M, H, W, C), uint8."""
        of_real, of_made = (self._judge.outputs(each)[:, -FEATURES:] for each in (real, made))
        return said(of_real, of_made, self._train, near)


def said(features: np.ndarray, made: np.ndarray, train: np.ndarray, near: float) -> np.ndarray:
    """Return (N, SEEN) of the features of real images (N, F), of made ones (M, F) and of train images."""
    constant = np.ones(len(features))
    columns = [
        constant * kernel_distance.own(made),
        kernel_distance.cross(features, made),
        constant * kernel_distance.own(train),
        kernel_distance.cross(features, train),
        constant * near,
    ]
    return np.concatenate([np.stack(columns, axis=1), features], axis=1, dtype=np.float64)
