#!/usr/bin/env python3
"""The cipher aes-256-gcm-hex (iv:tag:ciphertext in hexadecimal), written apart from ours, on libcrypto alone.

usage: ENCRYPTION_KEY=64-HEX-DIGITS hex_cipher.py encrypt|decrypt

Converts every line of the standard input.
"""

import ctypes
import ctypes.util
import os
import sys

SET_IV_LENGTH, GET_TAG, SET_TAG = 0x9, 0x10, 0x11  # of EVP_CIPHER_CTX_ctrl

libcrypto = ctypes.CDLL(ctypes.util.find_library("crypto"))
libcrypto.EVP_CIPHER_CTX_new.restype = ctypes.c_void_p
libcrypto.EVP_aes_256_gcm.restype = ctypes.c_void_p


def check(result):
    if result != 1:
        raise ValueError("the text does not open with this key")


def run(encrypts, key, iv, data, tag=None):
    """Returns (the converted data, the tag)."""
    context = ctypes.c_void_p(libcrypto.EVP_CIPHER_CTX_new())
    out, tail, length = ctypes.create_string_buffer(len(data) + 16), ctypes.create_string_buffer(16), ctypes.c_int()
    tag_buffer = ctypes.create_string_buffer(tag or b"", 16)
    try:
        check(libcrypto.EVP_CipherInit_ex(context, ctypes.c_void_p(libcrypto.EVP_aes_256_gcm()), None, None, None, encrypts))
        check(libcrypto.EVP_CIPHER_CTX_ctrl(context, SET_IV_LENGTH, len(iv), None))
        check(libcrypto.EVP_CipherInit_ex(context, None, None, key, iv, encrypts))
        check(libcrypto.EVP_CipherUpdate(context, out, ctypes.byref(length), data, len(data)))
        if not encrypts:
            check(libcrypto.EVP_CIPHER_CTX_ctrl(context, SET_TAG, 16, tag_buffer))
        check(libcrypto.EVP_CipherFinal_ex(context, tail, ctypes.byref(ctypes.c_int())))
        if encrypts:
            check(libcrypto.EVP_CIPHER_CTX_ctrl(context, GET_TAG, 16, tag_buffer))
        return out.raw[: length.value], tag_buffer.raw
    finally:
        libcrypto.EVP_CIPHER_CTX_free(context)


def encrypt(key, token):
    iv = os.urandom(16)
    ciphertext, tag = run(1, key, iv, token.encode())
    return ":".join(part.hex() for part in (iv, tag, ciphertext))


def decrypt(key, stored):
    iv, tag, ciphertext = (bytes.fromhex(part) for part in stored.split(":"))
    return run(0, key, iv, ciphertext, tag)[0].decode()


def main():
    convert = {"encrypt": encrypt, "decrypt": decrypt}[sys.argv[1]]
    key = bytes.fromhex(os.environ["ENCRYPTION_KEY"])
    for line in sys.stdin:
        print(convert(key, line.rstrip("\n")))


if __name__ == "__main__":
    main()
