"""The protocols by name, in the order of the report."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from miad_cli.evaluation.protocols.authorise import Authorise
from miad_cli.evaluation.protocols.lesions import LesionSources
from miad_cli.evaluation.protocols.logos import Logos
from miad_cli.evaluation.protocols.protocol import Protocol
from miad_cli.evaluation.protocols.removal import Removal
from miad_cli.evaluation.protocols.robust import Robust
from miad_cli.evaluation.protocols.seen import Seen
from miad_cli.evaluation.protocols.strength import Strength
from miad_cli.evaluation.protocols.sweep import Sweep
from miad_cli.evaluation.protocols.unseen import Unseen

_ALL: tuple[type[Protocol], ...] = (
    Seen,
    Unseen,
    Removal,
    Authorise,
    Robust,
    LesionSources,
    Strength,
    Logos,
    Sweep,
)

PROTOCOLS: Mapping[str, type[Protocol]] = MappingProxyType({one.name: one for one in _ALL})

USUAL = ("seen", "unseen", "removal", "authorise", "robust")
"""What is measured where nothing else is asked for."""
