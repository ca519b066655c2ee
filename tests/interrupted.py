"""r1jax, with a signal to itself at a set instant: python interrupted.py KILL:zero:6 run FILE...

The signal comes when stage `zero` has written the metrics of step 6, which is while step 7 is under way; `no` instead
sends none. Processes other than the first fail where they write a file.
"""

import os
import signal
import sys

from r1jax.base import files
from r1jax.base.metrics import Journal


def on_main(write):
    def guarded(path, *args):
        import jax

        assert jax.process_index() == 0, f"process {jax.process_index()} writes {path}"
        return write(path, *args)

    return guarded


files.append, files.write_atomically = on_main(files.append), on_main(files.write_atomically)

name, _, instant = sys.argv[1].partition(":")
journal_write = Journal.write


def write(self: Journal, step: int, scalars: dict) -> None:
    journal_write(self, step, scalars)
    if instant == f"{self.folder.name}:{step}":
        os.kill(os.getpid(), signal.Signals[f"SIG{name}"])


Journal.write = write

from r1jax.main import main  # noqa: E402  after the guards

sys.exit(main(sys.argv[2:]))
