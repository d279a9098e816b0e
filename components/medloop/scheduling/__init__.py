"""The schedules of params.yaml on one machine, without a Kubeflow: what `medloop schedule serve` does."""
