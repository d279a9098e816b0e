"""Training on several hosts through Kubeflow Trainer: what the step `train` does where `train.nodes` is above 1."""

SHARED = "/workspace"  # where the step and the nodes of a TrainJob mount the volume that they share
