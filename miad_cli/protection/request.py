"""What is asked of `protect`, and what cannot be meant by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from miad_cli.errors import UsageError
from miad_cli.profiles import Profile
from miad_cli.seal.identities import Recipient
from miad_cli.seal.owner import OwnerKey

OnExists = Literal["fail", "skip", "replace", "resume"]


@dataclass(frozen=True)
class Request:
    """What to protect, with what, and for whom.

    `profile` None chooses one for each picture by its attributes. `overrides` replace settings
    of whatever profile is chosen, table by table. `mask` is a file or a folder of lesion masks;
    without it the models' attention says what the logo keeps off, with `anywhere` nothing does.
    `copy_others` takes objects without a picture along, under new UIDs.
    Without `recipients` an identity is made for this output folder, in the user's data directory
    or at `key_out`. Without `owner` this user's own key signs; `owner_passphrase` is called if
    that one lies under a passphrase. `jobs` is how many processes share the work and the
    cores. What comes out is the same, to the bit.
    """

    inputs: tuple[Path, ...]
    logo: Path
    output: Path
    profile: Profile | None = None
    mask: Path | None = None
    anywhere: bool = False
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    recipients: tuple[Recipient, ...] = ()
    key_out: Path | None = None
    owner: OwnerKey | None = None
    owner_passphrase: Callable[[], bytes] | None = None
    device: str = "auto"
    seed: int = 2023
    on_exists: OnExists = "fail"
    require_fooled: bool = False
    copy_others: bool = False
    dry_run: bool = False
    jobs: int = 1


def check(request: Request) -> None:
    """Refuse what cannot be meant.

    Raises:
        UsageError: the key would lie in the output or be of no use, or the target could not be
            judged.
    """
    if request.key_out is not None:
        if request.recipients:
            raise UsageError(
                "--key-out makes a key, --to names the keys there are", hint="Use one of them."
            )
        if request.output.resolve() in request.key_out.resolve().parents:
            raise UsageError(
                f"{request.key_out}: the key would lie in the output, which is what is passed on",
                hint="Name a file elsewhere.",
            )
    if request.require_fooled and request.on_exists in ("skip", "resume"):
        raise UsageError(
            "nothing is known of how well files that are kept were protected",
            hint="Use --require-fooled without --resume and --on-exists skip.",
        )
