# SPDX-License-Identifier: Apache-2.0
"""Turns names that the kernel gives as bytes into text that can be printed."""


def printable(text: str) -> str:
    r"""Escape what cannot be shown, such as bytes that are not UTF-8 (surrogates): ``\xff``."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def decoded(raw: bytes) -> str:
    r"""Return the name that bytes are; those that are not UTF-8 stand in it as ``\xff``."""
    return printable(raw.decode(errors="surrogateescape"))


def _escaped(character: str) -> str:
    raw = character.encode(errors="surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in raw)
