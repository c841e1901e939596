"""All of the key rooms under one name."""

from miad_cli.seal.identities import *  # noqa: F403
from miad_cli.seal.identities import AgeRecipient, Identity, Recipient  # noqa: F401
from miad_cli.seal.key_files import *  # noqa: F403
from miad_cli.seal.owner import *  # noqa: F403
from miad_cli.seal.places import *  # noqa: F403
