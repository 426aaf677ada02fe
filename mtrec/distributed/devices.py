"""Which GPUs TensorFlow may see in a process: said by its environment, before it looks for any.

TensorFlow takes no other word once its devices are started, and reading a TFDS edition starts them
before a job makes its strategy. Imports nothing of TensorFlow.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"


def environment(gpus: int | None) -> dict[str, str]:
    """Variables with which TensorFlow sees so many GPUs, and takes memory of them as it needs it.

    Args:
        gpus: The first so many of those that are visible now, 0 for none; null for all.
    """
    chosen = {_GROWTH: os.environ.get(_GROWTH, "true")}
    if gpus is not None:
        visible = os.environ.get(_VISIBLE, ",".join(map(str, range(gpus))))
        chosen[_VISIBLE] = ",".join(visible.split(",")[:gpus])
    return chosen


@contextmanager
def visible(gpus: int | None) -> Iterator[None]:
    """`environment` in this process and those it starts, until the end.

    A process in which TensorFlow has looked for GPUs before goes on with those it found.
    """
    chosen = environment(gpus)
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
