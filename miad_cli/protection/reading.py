"""What is in an input file: a picture, another object, something that cannot be read."""

from __future__ import annotations

from miad_cli.errors import PictureFailed
from miad_cli.files import InputFile, read_file
from miad_cli.imaging.dicom import NoPicture
from miad_cli.imaging.picture import Picture, read_picture

Found = Picture | NoPicture | None


class Unreadable(PictureFailed):
    """There may be a picture in the file, but nothing of it could be read."""


def read_input(file: InputFile, largest: int) -> Found:
    """What is in a file, None where it is no image; `largest` is the most bytes of decoded
    pixels that it may have.

    Raises:
        Unreadable: that cannot be told.
    """
    try:
        if file.obstacle:
            raise PictureFailed(file.obstacle)
        return read_picture(read_file(file.path), file.path, largest)
    except PictureFailed as error:
        raise Unreadable(error.message, error.hint) from error


def found_in(file: InputFile, largest: int) -> Found:
    """The same ahead of the file's turn; None for what cannot be read, too."""
    try:
        return read_input(file, largest)
    except PictureFailed:
        return None


def picture_in(file: InputFile, largest: int) -> Picture | None:
    """The picture in a file, ahead of its turn, where there is one that can be read."""
    found = found_in(file, largest)
    return None if isinstance(found, NoPicture) else found
