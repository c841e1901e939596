"""What became of the files of a run: one outcome each, and the report of them all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from miad_cli.errors import NoUsableInput, TargetNotMet, exit_code_of
from miad_cli.watermark.lesions import BoxSource

State = Literal["protected", "skipped", "planned", "copied", "passed over", "left out", "failed"]
STATES: tuple[State, ...] = get_args(State)
DIRECTORY_MADE = "a DICOMDIR, made anew"

Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True)
class Protection:
    """How one picture was protected. Rectangles are x, y, width, height in pixels.

    `lesions` are the boxes that the logo keeps off, `lesions_from` is who named them. `shared` is
    true where the whole series has the same mark. `queries` are pictures that each model was asked
    about, `gradients` how often a model was differentiated, `largest_change` the strongest step of
    δ in 1/255 of the display window.
    """

    profile: str
    task: str | None
    fooled: bool | None
    models_fooled: int
    models: int
    feature_distance: float
    queries: int
    gradients: int
    largest_change: int
    logo: Rectangle
    alpha: int
    scale_divisor: int
    lesions: tuple[Rectangle, ...]
    lesions_from: BoxSource
    shared: bool
    payload: str
    syntax: str
    names_a_patient: bool
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What became of one file; `name` and `output` are relative to input and output folder."""

    name: PurePosixPath
    state: State
    reason: str = ""
    hint: str = ""
    exit_code: int = 0
    is_picture: bool = True
    output: PurePosixPath | None = None
    protection: Protection | None = None


@dataclass(frozen=True)
class Report:
    """A whole run. `key` is the identity file that was made or reused for it; `masked` says that
    lesion masks were given."""

    output: Path
    outcomes: tuple[Outcome, ...]
    key: Path | None
    owner_key_id: str
    provider: str
    banks: dict[str, str]
    profiles: dict[str, dict[str, Any]]
    seed: int
    require_fooled: bool
    masked: bool = False

    def count(self, state: State) -> int:
        return sum(one.state == state for one in self.outcomes)

    @property
    def in_output(self) -> int:
        """Pictures that stand in the output, made now or before."""
        return sum(one.state in ("protected", "skipped") for one in self.outcomes)

    @property
    def protections(self) -> list[Protection]:
        return [one.protection for one in self.outcomes if one.protection is not None]

    @property
    def unmarked(self) -> int:
        """Pictures on which the mask that was given marks nothing."""
        if not self.masked:
            return 0
        guessed = ("grad-cam", "occlusion", "segmentation")
        return sum(one.lesions_from in guessed for one in self.protections)

    @property
    def judged(self) -> list[Protection]:
        """Pictures of a task that some model knows: only those can be called fooled."""
        return [one for one in self.protections if one.fooled is not None]

    @property
    def exit_code(self) -> int:
        codes = [one.exit_code for one in self.outcomes if one.exit_code]
        if not any(one.is_picture for one in self.outcomes):
            codes.append(NoUsableInput.exit_code)
        if self.require_fooled and not all(one.fooled for one in self.protections):
            codes.append(TargetNotMet.exit_code)
        return exit_code_of(codes)
