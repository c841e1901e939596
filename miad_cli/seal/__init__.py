"""Keys (`owner`, `identities`, `places`, `trust`), the sealed `container` and its `payload`.

Bytes in, bytes out: nothing here knows what an image is. The formats are in `docs/format.md`.
"""
