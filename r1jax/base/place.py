"""Where a stage stands on the disk: `<root>/<stage>/`, beside the other stages of its recipe."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from etils import epath

from r1jax.base.files import absolute, write_atomically
from r1jax.base.mesh import from_main, is_main


@dataclass(frozen=True)
class Place:
    """One stage's folder. `profile` is the number of steps to trace, None for no trace. `record` writes the stage's
    config beside what it makes; a stage calls it when it has found all that it reads in order, and a mistake before
    that leaves the config of a run that goes on as it was."""

    root: epath.Path
    name: str
    profile: int | None = None
    record: Callable[[], None] = lambda: None

    @property
    def folder(self) -> epath.Path:
        return self.root / self.name

    def other(self, name: str) -> epath.Path:
        """The folder of a sibling stage; a name with a slash is a path of its own, say of another recipe's stage."""
        return absolute(name) if "/" in name else self.root / name

    @property
    def done(self) -> bool:
        """Whether the stage is complete."""
        return (self.folder / "done.json").exists()

    def finish(self, summary: dict) -> None:
        """Marks the stage as complete, last of all. All processes call it; the summary goes into the final table."""
        if is_main():
            write_atomically(self.folder / "done.json", json.dumps(summary, indent=1) + "\n")
        from_main(0)  # nobody goes on to the next stage before the mark is there
