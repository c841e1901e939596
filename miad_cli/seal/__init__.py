"""Keys, the sealed container, and what is inside it: `keys`, `container`, `payload`.

Bytes in, bytes out: nothing here knows what an image is. The formats are in `docs/format.md`.
"""
