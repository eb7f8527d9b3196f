"""A decoder that is loaded when somebody first asks for a picture of a code, in the background."""

from collections.abc import Callable

import numpy as np

from workbench.panels.jobs import Job
from workbench.panels.layer_cuts import Subject

__all__ = ["Decoder"]


class Decoder:
    """Draws codes of a run's autoencoder. Torch and the weights come in a thread, with the first :meth:`load`.

    ``job`` is that thread once it began; ``trouble`` says why there is no decoder, where loading failed.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject, self.job = subject, None
        self._model = None

    @property
    def ready(self) -> bool:
        """Whether codes can be drawn now."""
        return self._model is not None

    @property
    def trouble(self) -> str:
        """Why loading failed; empty where it did not."""
        error = self.job.error if self.job is not None else None
        return "" if error is None else str(error.args[0] if error.args else error)

    def load(self, then: Callable[[], None]) -> None:
        """Begins to load, unless it has begun; calls ``then`` in the session when it is there, or has failed."""
        if self.job is not None:
            return
        self.job = Job(self._load).start()
        self.job.follow(lambda: then() if self.job.done.is_set() else None)

    def _load(self, job: Job) -> None:
        model = self.subject.run().model()
        if not hasattr(model, "decode"):
            raise ValueError(f"{self.subject.name} has no decoder")
        self._model = model

    def draw(self, codes: np.ndarray) -> list[bytes]:
        """Returns a PNG for each code (N, latents)."""
        from workbench.factoring import decoded

        return decoded(self._model, np.asarray(codes, dtype=np.float32))
