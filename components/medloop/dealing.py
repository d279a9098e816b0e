"""Deals patients to folds: a patient's samples share one, and each fold has its share of every class."""

from collections.abc import Sequence

import numpy as np


def dealt(patients: Sequence[str], classes: np.ndarray, folds: int, seed: int) -> tuple[np.ndarray, int]:
    """Return the fold (N,) of each sample, and how many patients the rarest class has.

    Args:
        patients: the name of each sample's patient.
        classes: (N,) class indices; a patient counts for that of its first sample.
        folds: how many.
        seed: of the order in which patients are dealt.
    """
    _, first, patient_of = np.unique(np.asarray(patients), return_index=True, return_inverse=True)
    label = classes[first]
    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(label[order], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % folds
    return fold[patient_of], int(np.bincount(label, minlength=classes.max() + 1).min())
