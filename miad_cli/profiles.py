"""Profiles: what fits which study, from TOML, read strictly and frozen."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from miad_cli.errors import UsageError
from miad_cli.imaging.image import StudyFacts
from miad_cli.shipped import profiles_directory

GENERAL = "general"
"""The profile for everything that no other fits."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Match(_Table):
    """Attributes of the studies a profile fits: every list that is not empty must hold the
    study's value."""

    modality: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    sop_class_uid: tuple[str, ...] = ()
    photometric_interpretation: tuple[str, ...] = ()

    def fits(self, facts: StudyFacts) -> bool:
        wanted = [
            (self.modality, facts.modality),
            (self.body_part, facts.body_part),
            (self.sop_class_uid, facts.sop_class_uid),
            (self.photometric_interpretation, facts.photometric_interpretation),
        ]
        named = [(allowed, value) for allowed, value in wanted if allowed]
        return bool(named) and all(value.upper() in allowed for allowed, value in named)


class Models(_Table):
    """`task` the classifiers answer; `names` restricts them; `attention` is Grad-CAM's."""

    task: str | None = None
    names: tuple[str, ...] = ()
    attention: str | None = None


class Lesions(_Table):
    """Who says where the lesions are, where no mask does.

    `grad-cam`: boxes of what a classifier attends to (MIAD-MARK Alg. 2), `threshold` t of 255,
    `top_share` of channels that count. `segmentation`: boxes around what the network of this name
    finds (MedLocker), with a `probability` of at least this, and a `margin` on every side, a share
    of the picture's longer side.
    """

    source: Literal["grad-cam", "segmentation"] = "grad-cam"
    threshold: Annotated[float, Field(gt=0, le=255)] = 190
    top_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    segmentation: Annotated[str, Field(min_length=1)] | None = None
    probability: Annotated[float, Field(gt=0, lt=1)] = 0.5
    margin: Annotated[float, Field(ge=0, le=0.2)] = 0

    @model_validator(mode="after")
    def _source_is_named(self) -> Lesions:
        if self.source == "segmentation" and self.segmentation is None:
            raise ValueError('source = "segmentation" needs its model: segmentation = "NAME"')
        return self

    @property
    def network(self) -> str | None:
        """The segmentation network to ask, or None where the source is another."""
        return self.segmentation if self.source == "segmentation" else None


class Logo(_Table):
    """Scale divisor sl of Eq. 5, and the largest to shrink to where the boxes leave no room."""

    scale: Annotated[int, Field(ge=1, le=64)] = 2
    smallest: Annotated[int, Field(ge=1, le=64)] = 8

    @property
    def divisors(self) -> range:
        return range(self.scale, max(self.scale, self.smallest) + 1)


class Search(_Table):
    """`guided` is miad's own search, the others are the paper's. `effort` says how long the guided
    one and the perturbation may take. The rest are Alg. 3's defaults: `density` is r_p, `keep`
    r_c, `alpha_step` s_alpha of 255."""

    method: Literal["random", "he", "he-sit", "guided"] = "guided"
    effort: Literal["fast", "standard", "max"] = "standard"
    parents: Annotated[int, Field(ge=1, le=1000)] = 15
    generations: Annotated[int, Field(ge=1, le=100)] = 2
    alpha_step: Annotated[int, Field(ge=1, le=254)] = 15
    keep: Annotated[float, Field(gt=0, le=1)] = 0.3
    density: Annotated[float, Field(gt=0, le=1)] = 0.005


class Perturbation(_Table):
    """δ, the small change under the logo: at most `epsilon` of 255 of the display window, 0 for
    none; `shaped`: less on flat ground, where the eye sees it.

    Weights of what it is to do: `classifiers` to mislead, removal networks to `disrupt` (Eq. 3),
    to be `inerasable` for (Eq. 4).
    """

    epsilon: Annotated[float, Field(ge=0, le=12)] = 8
    shaped: bool = True
    classifiers: Annotated[float, Field(ge=0, le=100)] = 1
    disrupt: Annotated[float, Field(ge=0, le=100)] = 1
    inerasable: Annotated[float, Field(ge=0, le=100)] = 0


class Series(_Table):
    """Which series get one mark for all their slices: `volumes` are parallel slices of one body."""

    coherent: Literal["volumes", "always", "never"] = "volumes"


class Limits(_Table):
    """`decoded_mib`: a file whose pixels would take more is refused before they are decoded."""

    decoded_mib: Annotated[int, Field(ge=1, le=1 << 20)] = 2048


class Seal(_Table):
    """Payload and carrier of the sealed original; `recipients` is a file of the organisation's
    recipients, one a line, by its path from the profile's own folder."""

    payload: Literal["auto", "compact", "original"] = "auto"
    carrier: Literal["both", "embed", "sidecar"] = "both"
    recipients: str | None = None


class Profile(_Table):
    """One preset, valid once constructed."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    title: str
    match: Match = Match()
    models: Models = Models()
    lesions: Lesions = Lesions()
    logo: Logo = Logo()
    search: Search = Search()
    perturbation: Perturbation = Perturbation()
    series: Series = Series()
    seal: Seal = Seal()
    limits: Limits = Limits()
    _folder: Path = PrivateAttr(default=Path())

    @property
    def recipients_file(self) -> Path | None:
        """Where the file of recipients lies, or None where the profile names none."""
        named = self.seal.recipients
        return None if named is None else self._folder / named

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the resolved profile in canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def load_profile(path: Path) -> Profile:
    """Read one TOML file.

    Raises:
        UsageError: every fault of the file, each with its path, in one message.
    """
    try:
        profile = Profile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        profile._folder = path.parent
        return profile
    except OSError as error:
        raise UsageError(f"{path}: the profile cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        faults = [
            f"  {'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise UsageError(f"{path}: the profile is not valid:\n" + "\n".join(faults)) from None


def shipped_profiles() -> dict[str, Profile]:
    """The profiles that come with miad, by name."""
    loaded = [load_profile(path) for path in sorted(profiles_directory().glob("*.toml"))]
    return {profile.name: profile for profile in loaded}


def named_profile(name: str) -> Profile:
    """A shipped profile by name, or a TOML file by path.

    Raises:
        UsageError: there is none.
    """
    if name.endswith(".toml"):
        return load_profile(Path(name))
    profiles = shipped_profiles()
    if name not in profiles:
        raise UsageError(
            f"there is no profile {name}",
            hint=f"There are: {', '.join(profiles)}; or give the path of a .toml file.",
        )
    return profiles[name]


def fitting_profile(profiles: dict[str, Profile], facts: StudyFacts) -> Profile:
    """The first profile, by name, whose attributes fit; else the general one."""
    fitting = (profile for profile in profiles.values() if profile.match.fits(facts))
    return next(fitting, profiles[GENERAL])


def with_overrides(profile: Profile, overrides: dict[str, dict[str, Any]]) -> Profile:
    """A profile with settings of the command line in place of its own, checked again."""
    merged = profile.model_dump()
    for table, settings in overrides.items():
        merged[table] = {**merged[table], **settings}
    changed = Profile.model_validate(merged)
    changed._folder = profile._folder
    return changed
