"""What a picture is protected with: its profile, the models of that, the keys; each made once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from miad_cli.decisions import settings_of, shares_a_mark
from miad_cli.imaging.picture import Picture
from miad_cli.instance import Sealing
from miad_cli.models.bank import Bank, load_bank
from miad_cli.profiles import GENERAL, Profile, fitting_profile, shipped_profiles, with_overrides
from miad_cli.protection.preparation import Prepared
from miad_cli.seal.identities import Recipient, parse_recipient
from miad_cli.seal.owner import OwnerKey
from miad_cli.seal.places import default_owner, job_identity
from miad_cli.study import Group


@dataclass
class Used:
    """Digests of the banks, and the profiles as a report shows them, by the name of the profile
    and in the order of their first use."""

    banks: dict[str, str] = field(default_factory=dict)
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, other: Used) -> None:
        self.banks |= other.banks
        self.profiles |= other.profiles


class Choices:
    """Chooses for one run.

    Attributes:
        used: what was chosen so far; whoever wants to know since when puts a new one there.
    """

    def __init__(self, prepared: Prepared) -> None:
        self._request, self._device = prepared.request, prepared.device
        self.used = Used()
        self._shipped = shipped_profiles()
        self._profiles: dict[str, Profile] = {}
        self._banks: dict[str, Bank] = {}
        logo = prepared.logo
        self._logo_digest = hashlib.sha256(repr(logo.shape).encode() + logo.tobytes()).digest()
        _, self._mask_parts = prepared.avoid

    @cached_property
    def owner(self) -> OwnerKey:
        return self._request.owner or default_owner(self._request.owner_passphrase)

    @cached_property
    def recipients(self) -> tuple[Recipient, ...]:
        """Those named, or the identity of this output folder, made when first needed."""
        if self._request.recipients:
            return self._request.recipients
        _, recipient = job_identity(self._request.output, self._request.key_out)
        return (parse_recipient(recipient),)

    @property
    def largest(self) -> int:
        """Bytes of decoded pixels that a picture may have.

        A profile that is chosen by attributes cannot be asked before the file is read.
        """
        return (self._request.profile or self._shipped[GENERAL]).limits.decoded_mib << 20

    def possible_profiles(self) -> list[Profile]:
        """All that a picture of this run may come to have."""
        chosen = self._request.profile
        possible: Iterable[Profile] = [chosen] if chosen else self._shipped.values()
        return [with_overrides(one, self._request.overrides) for one in possible]

    def profile_for(self, picture: Picture) -> Profile:
        chosen = self._request.profile or fitting_profile(self._shipped, picture.image.facts)
        if chosen.name not in self._profiles:
            self._profiles[chosen.name] = with_overrides(chosen, self._request.overrides)
        resolved = self._profiles[chosen.name]
        if chosen.name not in self.used.profiles:
            self.used.profiles[chosen.name] = described(resolved)
        return resolved

    def bank_for(self, profile: Profile) -> Bank:
        if profile.name not in self._banks:
            wanted = profile.models
            self._banks[profile.name] = load_bank(
                wanted.task,
                wanted.names,
                wanted.attention,
                self._device,
                profile.lesions.network,
            )
        bank = self._banks[profile.name]
        self.used.banks.setdefault(profile.name, bank.digest)
        return bank

    def sealing_for(self, picture: Picture, group: Group | None = None) -> Sealing:
        """How a picture is sealed, as one of `group`."""
        profile = self.profile_for(picture)
        return self.sealing(profile, self.bank_for(profile), group)

    def sealing(self, profile: Profile, bank: Bank, group: Group | None = None) -> Sealing:
        return Sealing(
            owner=self.owner,
            recipients=self.recipients,
            series_parts=(
                profile.digest.encode(),
                self._logo_digest,
                str(self._request.seed).encode(),
                *self._mask_parts,
            ),
            bank_digest=bank.digest,
            payload=profile.seal.payload,
            carrier=profile.seal.carrier,
            job_parts=_job_parts(profile, group),
        )

    def companion_sealing(self) -> Sealing:
        """For what is no picture: no profile and no model had a part in it."""
        return Sealing(
            owner=self.owner,
            recipients=self.recipients,
            series_parts=(self._logo_digest, str(self._request.seed).encode()),
            bank_digest="",
            payload="original",
            carrier="sidecar",
        )


def _job_parts(profile: Profile, group: Group | None) -> tuple[bytes, ...]:
    """What tells finished work from work that would be done otherwise today, besides the profile,
    the logo, the seed, the masks and the models."""
    # A profile names its effort; what that means may be another number in another version.
    numbers = repr(settings_of(profile)).encode()
    # A mark that is shared is another one where the series is: it may have grown.
    shared = group is not None and shares_a_mark(group, profile)
    members = [str(file.relative) for file in group.files] if group and shared else []
    return (numbers, "\n".join(sorted(members)).encode()) if members else (numbers,)


def described(profile: Profile) -> dict[str, Any]:
    """A resolved profile for a report; models that were named by a path, by its end only."""
    facts = profile.model_dump(mode="json")
    facts["models"]["names"] = [Path(name).name for name in profile.models.names]
    for table, key in (("models", "attention"), ("lesions", "segmentation")):
        if facts[table][key] is not None:
            facts[table][key] = Path(facts[table][key]).name
    return {"sha256": profile.digest, **facts}
