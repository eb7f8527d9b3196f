"""Long work in a thread: a session starts it, looks at it several times a second, and can stop it; no callback ever waits."""

import contextlib
import threading
from collections.abc import Callable

import panel as pn

__all__ = ["Job"]


class Job:
    """Work that runs in its own thread until it is done, fails, or sees that it was told to stop.

    Arguments:
        work: Called with the job; looks at ``job.stopping`` now and then, and returns early where it is set.

    ``running`` says whether it still works, ``error`` holds what it raised. What it makes it hands over in plain lists and
    attributes, which the session reads in :meth:`follow`; widgets are touched by the session alone.
    """

    def __init__(self, work: Callable[["Job"], None]) -> None:
        self.stopping = threading.Event()
        self.error: BaseException | None = None
        self.done = threading.Event()
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._work(self)
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()

    def start(self) -> "Job":
        """Starts the thread."""
        self._thread.start()
        return self

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._thread.is_alive() and not self.done.is_set()

    def stop(self) -> None:
        """Asks it to end soon; returns at once."""
        self.stopping.set()

    def wait(self, seconds: float | None = None) -> None:
        """Returns when it has ended; for tests and scripts."""
        self._thread.join(seconds)

    def follow(self, look: Callable[[], None], *, every: float = 0.2) -> None:
        """Calls ``look`` in the session's own loop, every so many seconds and once after the end; stops with the session."""
        if pn.state.curdoc is not None and pn.state.curdoc.session_context is not None:
            pn.state.on_session_destroyed(lambda context: self.stop())

        def tick() -> None:
            ended = self.done.is_set()  # read before looking, so that nothing told last is missed
            look()
            if ended:
                beat.stop()

        beat = pn.state.add_periodic_callback(tick, period=round(1000 * every), start=False)
        with contextlib.suppress(RuntimeError):  # no event loop: a script or a test, which looks for itself
            beat.start()
