"""What a C-STORE status means (PS3.4 Table B.2-1, PS3.7 Annex C), and what follows from it."""

from __future__ import annotations

from typing import Literal

Kind = Literal["stored", "stored with warning", "busy", "failed"]

DUPLICATE = 0x0111

_SENTENCES = {
    0x0107: "stored, with something amiss in its attributes",
    0x0110: "the PACS could not process it",
    0x0111: "the PACS has another instance of this UID already",
    0x0112: "the PACS does not know such an instance",
    0x0116: "stored, with a value out of range",
    0x0117: "the PACS takes its UID for invalid",
    0x0118: "the PACS does not know such a SOP class",
    0x0119: "the PACS sees a conflict of class and instance",
    0x0122: "the PACS does not take objects of this kind",
    0x0124: "the PACS does not allow us to store",
    0x0210: "the PACS saw the message twice",
    0x0211: "the PACS does not know how to store",
    0x0212: "the PACS could not read the request",
    0x0213: "the PACS has no resources",
    0xB000: "stored, and the PACS changed attributes",
    0xB006: "stored, and the PACS dropped attributes",
    0xB007: "stored, though it does not look like its SOP class to the PACS",
}
_FAMILIES = {
    0xA700: "the PACS has no room for it now",
    0xA900: "the PACS finds that the data do not fit their SOP class",
    0xB000: "stored, with a warning",
}
_WARNINGS = (0x0001, 0x0107, 0x0116)
_HINTS = {
    0x0124: "Ask whoever runs the PACS to let us store.",
    0x0122: "Ask whoever runs the PACS whether it is meant to take this kind of object.",
}


def kind_of(status: int) -> Kind:
    """What follows: done, done with a warning, to be tried again, or failed."""
    if status == 0:
        return "stored"
    if status in _WARNINGS or status & 0xF000 == 0xB000:
        return "stored with warning"
    if status & 0xFF00 == 0xA700:
        return "busy"
    return "failed"


def sentence_of(status: int) -> str:
    """For people, with the number for whoever runs the PACS."""
    if status == 0:
        return ""
    if status in _SENTENCES:
        said = _SENTENCES[status]
    elif status & 0xF000 == 0xC000:
        said = "the PACS does not understand it"
    else:
        said = _FAMILIES.get(status & 0xFF00) or _FAMILIES.get(
            status & 0xF000, "the PACS refused it"
        )
    return f"{said} (0x{status:04X})"


def hint_of(status: int) -> str:
    return _HINTS.get(status, "")
