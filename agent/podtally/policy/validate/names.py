# SPDX-License-Identifier: Apache-2.0
"""Name validation, apimachinery ``util/validation``: each check returns "" or what is wrong.

Every check looks at the length first, so a megabyte costs nothing.
"""

import re

_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_DNS_SUBDOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_WILDCARD = re.compile(rf"\*\.{_LABEL}(?:\.{_LABEL})*")
_NAME_PART = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"[-a-z0-9]+")

MAX_LABEL = 63  # RFC 1035 2.3.4
MAX_SUBDOMAIN = 253
MAX_PORT_NAME = 15  # RFC 6335 5.1


def dns_label(text: str) -> str:
    """Check an RFC 1123 label."""
    if len(text) > MAX_LABEL:
        return f"must be at most {MAX_LABEL} characters long"
    if not _DNS_LABEL.fullmatch(text):
        return "must consist of a-z, 0-9 and '-', and start and end with a letter or digit"
    return ""


def dns_subdomain(text: str) -> str:
    """Check an RFC 1123 subdomain, the format of most object names."""
    if len(text) > MAX_SUBDOMAIN:
        return f"must be at most {MAX_SUBDOMAIN} characters long"
    if not _DNS_SUBDOMAIN.fullmatch(text):
        return (
            "must consist of a-z, 0-9, '-' and '.', each part starting and ending with a-z or 0-9"
        )
    return ""


def generated_name(prefix: str) -> str:
    """Check a ``generateName``, which may end with a hyphen (``maskTrailingDash``)."""
    masked = f"{prefix[:-2]}a" if len(prefix) > 1 and prefix.endswith("-") else prefix
    return dns_subdomain(masked)


def wildcard_subdomain(text: str) -> str:
    if len(text) > MAX_SUBDOMAIN:
        return f"must be at most {MAX_SUBDOMAIN} characters long"
    return (
        ""
        if _WILDCARD.fullmatch(text)
        else "a wildcard must be the whole first part: *.example.com"
    )


def host_name(text: str) -> str:
    return wildcard_subdomain(text) if "*" in text else dns_subdomain(text)


def qualified_name(text: str) -> str:
    """Check a label key: a name, or a domain, a slash and a name."""
    prefix, slash, name = text.partition("/")
    if not slash:
        return _name_part(text)
    wrong = dns_subdomain(prefix)
    return f"the part before the '/' {wrong}" if wrong else _name_part(name)


def label_value(text: str) -> str:
    return _name_part(text) if text else ""


def _name_part(text: str) -> str:
    if len(text) > MAX_LABEL:
        return f"must be 1 to {MAX_LABEL} characters long"
    if not _NAME_PART.fullmatch(text):
        return "must be letters, digits, '-', '_' and '.', with letters or digits at both ends"
    return ""


def port_name(text: str) -> str:
    """Check an IANA service name (RFC 6335) in lower case."""
    if len(text) > MAX_PORT_NAME:
        return f"must be at most {MAX_PORT_NAME} characters long"
    if not _PORT_NAME.fullmatch(text):
        return "must consist of a-z, 0-9 and '-'"
    if not re.search("[a-z]", text):
        return "must contain a letter; write a port number without quotes"
    if "--" in text:
        return "must not contain two hyphens in a row"
    if text[0] == "-" or text[-1] == "-":
        return "must not start or end with a hyphen"
    return ""


def port_number(number: int) -> str:
    return "" if 1 <= number <= 65535 else "must be between 1 and 65535"
