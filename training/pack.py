"""Write data sets into one small file: ``python -m training.pack --out FILE``.

For a machine that cannot see the data folder. The pack is a ZIP archive with the names of the
data folder in it, and ``--data`` takes it in its place. The pictures are those the networks see:
padded to a square, ``--side`` pixels, compressed again. Measure on the originals, not on these.
"""

from __future__ import annotations

import argparse
import csv
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from training.data import SOURCES, data_root, fit_pad, is_grey, read_files, read_manifest

FIELDS = ("path", "label", "split", "group", "grey")


def shrink(content: bytes, side: int, kind: str, quality: int) -> tuple[bytes, bool]:
    """Fit a picture to ``side`` x ``side`` pixels and encode it as ``kind``; True where grey."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(content)) as picture:
        grey = is_grey(picture)
        fit_pad(picture.convert("L" if grey else "RGB"), side).save(stream, kind, quality=quality)
    return stream.getvalue(), grey


def write_pack(
    root: Path,
    out: Path,
    tasks: Sequence[str],
    splits: Sequence[str],
    side: int = 224,
    kind: str = "WEBP",
    quality: int = 85,
) -> int:
    """Pack the ``splits`` of ``tasks``; returns how many pictures there are in it."""
    count = 0
    # The pictures are compressed already.
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as pack:
        for task in tasks:
            rows = [row for row in read_manifest(root, task) if row["split"] in splits]
            kept = []
            contents = read_files(root, [f"{task}/{row['path']}" for row in rows])
            for row, content in zip(rows, contents, strict=True):
                path = Path(row["path"]).with_suffix(f".{kind.lower()}").as_posix()
                small, grey = shrink(content, side, kind, quality)
                pack.writestr(f"{task}/{path}", small)
                facts = {field: row[field] for field in FIELDS if field in row}
                kept.append(facts | {"path": path, "grey": str(int(grey))})
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, FIELDS)
            writer.writeheader()
            writer.writerows(kept)
            pack.writestr(f"{task}/manifest.csv", text.getvalue())
            count += len(kept)
    return count


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.pack", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the data sets (or MIAD_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--tasks", default=",".join(SOURCES), help="comma-separated")
    parser.add_argument("--splits", default="train,test")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--kind", default="WEBP", choices=("WEBP", "JPEG"))
    parser.add_argument("--quality", type=int, default=85)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write the pack."""
    given = arguments().parse_args(argv)
    count = write_pack(
        data_root(given.data),
        given.out,
        given.tasks.split(","),
        given.splits.split(","),
        given.side,
        given.kind,
        given.quality,
    )
    print(f"{given.out}: {count} pictures, {given.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
