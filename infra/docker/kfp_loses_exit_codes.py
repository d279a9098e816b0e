"""kfp.local.DockerRunner reports some failing containers as successful: a reproduction to go upstream as it is.

    pip install kfp==2.17.0 docker && python kfp_loses_exit_codes.py IMAGE [RUNS]

IMAGE is any image with a shell, tagged and present on this machine. The task always exits with 1, so every run must end
with an error. `run_docker_container` starts the container with `auto_remove=True` and asks for its exit code
afterwards: when the engine has removed it by then, it takes the 404 for exit code 0.
"""

import sys
import tempfile

from kfp import dsl, local


def count(image: str, runs: int) -> int:
    """Return how many of `runs` failing tasks were reported as successful."""

    @dsl.container_component
    def fail() -> dsl.ContainerSpec:
        return dsl.ContainerSpec(image=image, command=["sh", "-c", "exit 1"])

    local.init(local.DockerRunner(), pipeline_root=tempfile.mkdtemp())
    lost = 0
    for _ in range(runs):
        try:
            fail()
        except RuntimeError:
            continue
        lost += 1
    return lost


if __name__ == "__main__":
    image, runs = sys.argv[1], int((*sys.argv, 40)[2])
    print(f"{count(image, runs)} of {runs} failing tasks were reported as successful")
