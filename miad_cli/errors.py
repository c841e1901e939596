"""Every error a user can meet, and the exit code it ends the program with.

MiadError                     1   something of ours broke
├── UsageError                2   the command line or a profile cannot be meant so
├── PictureFailed             3   one picture could not be processed; the others can
│   ├── NoRoomForLogo         3   lesion boxes leave no place for the logo
│   └── InvisibleLogo         3   hardly a pixel would change under the logo
├── NoUsableInput             4   nothing to work on
├── TargetNotMet              5   protected, but not as well as was asked for
├── VerificationFailed        6   a file is not what its seal says
│   ├── NotProtected          6   no container, in the file or beside it
│   ├── ContainerDamaged      6   a container that cannot be read
│   ├── SignatureInvalid      6   a container that its owner did not sign
│   ├── OwnerUnknown          6   signed by nobody whom this machine trusts
│   └── RestorationMismatch   6   the original cannot be rebuilt from these pixels
├── KeyUnusable               7   no key opens it, or the key cannot be read
├── OutputExists              8   something is in the way
├── DeviceUnavailable         9   the GPU that was asked for is not there
├── PacsFailed               10   the PACS cannot be reached, or refuses what is sent
├── ModelUnusable            11   a model is missing or not the one that was shipped
├── MaskUnusable             12   a lesion mask is missing or does not fit
└── Interrupted             130   stopped from the keyboard

`docs/exit-codes.md` says what a script should do about each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class MiadError(Exception):
    """What happened, to which file, and what to do about it.

    `message` is one sentence for a person; `hint` says what to do next, or is empty.
    Neither may hold a key, a passphrase or an attribute of the patient.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MiadError):
    exit_code = 2


class PictureFailed(MiadError):
    exit_code = 3


class NoRoomForLogo(PictureFailed):
    pass


class InvisibleLogo(PictureFailed):
    pass


class NoUsableInput(MiadError):
    exit_code = 4


class TargetNotMet(MiadError):
    exit_code = 5


class VerificationFailed(MiadError):
    exit_code = 6


class NotProtected(VerificationFailed):
    pass


class ContainerDamaged(VerificationFailed):
    pass


class SignatureInvalid(VerificationFailed):
    pass


class OwnerUnknown(VerificationFailed):
    pass


class RestorationMismatch(VerificationFailed):
    pass


class KeyUnusable(MiadError):
    exit_code = 7


class OutputExists(MiadError):
    exit_code = 8


class DeviceUnavailable(MiadError):
    exit_code = 9


class PacsFailed(MiadError):
    exit_code = 10


class ModelUnusable(MiadError):
    exit_code = 11


class MaskUnusable(MiadError):
    exit_code = 12


class Interrupted(MiadError):
    exit_code = 130


PRECEDENCE = (130, 1, 2, 9, 11, 8, 12, 7, 6, 10, 4, 3, 5, 0)
"""Which exit code wins when several things went wrong in one run."""


def exit_code_of(codes: Iterable[int]) -> int:
    """The one exit code for a run in which all of `codes` occurred (none: 0).

    A code that the table does not know counts as an internal error.
    """
    ranked = [code if code in PRECEDENCE else 1 for code in codes]
    return min(ranked, key=PRECEDENCE.index, default=0)
