"""A private key under a passphrase, as PKCS#8 (RFC 5958) with PBES2 (RFC 8018).

`cryptography` writes such files too, with 2,048 rounds of PBKDF2: too few for a key that signs
releases. The form is the same, so whatever reads those files reads these.
"""

from __future__ import annotations

import base64
import hashlib
import secrets

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

ROUNDS = 600_000
"""Of PBKDF2 with HMAC-SHA256: a third of a second, and what OWASP asks for."""

_SEQUENCE, _INTEGER, _OCTETS, _NULL, _OID = 0x30, 0x02, 0x04, 0x05, 0x06
_PBES2 = bytes.fromhex("2a864886f70d01050d")
_PBKDF2 = bytes.fromhex("2a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("2a864886f70d0209")
_AES_256_CBC = bytes.fromhex("60864801650304012a")


def encrypted_pem(private_key_info: bytes, passphrase: bytes) -> bytes:
    """EncryptedPrivateKeyInfo in PEM around the DER of a PrivateKeyInfo."""
    salt, vector = secrets.token_bytes(16), secrets.token_bytes(16)
    key = hashlib.pbkdf2_hmac("sha256", passphrase, salt, ROUNDS)
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(vector)).encryptor()
    padder = PKCS7(128).padder()
    padded = padder.update(private_key_info) + padder.finalize()
    sealed = encryptor.update(padded) + encryptor.finalize()
    rounds = ROUNDS.to_bytes(ROUNDS.bit_length() // 8 + 1, "big")
    function = _sequence(_der(_OID, _HMAC_SHA256), _der(_NULL))
    derivation = _sequence(_der(_OCTETS, salt), _der(_INTEGER, rounds), function)
    scheme = _sequence(
        _sequence(_der(_OID, _PBKDF2), derivation),
        _sequence(_der(_OID, _AES_256_CBC), _der(_OCTETS, vector)),
    )
    whole = _sequence(_sequence(_der(_OID, _PBES2), scheme), _der(_OCTETS, sealed))
    lines = base64.b64encode(whole)
    wrapped = [lines[start : start + 64] for start in range(0, len(lines), 64)]
    armour = b"-----%s ENCRYPTED PRIVATE KEY-----"
    return b"\n".join([armour % b"BEGIN", *wrapped, armour % b"END", b""])


def _sequence(*items: bytes) -> bytes:
    return _der(_SEQUENCE, b"".join(items))


def _der(tag: int, content: bytes = b"") -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    return bytes([tag, 0x81, length]) + content  # nothing here is longer than 255 bytes
