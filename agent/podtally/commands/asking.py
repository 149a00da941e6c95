"""Asks the running agent over its HTTP listener, and decodes what it answers."""

import argparse
import http.client
from pathlib import Path
from typing import TextIO, TypeVar
from urllib.parse import urlencode

import msgspec

from podtally.config import DEFAULT_LISTEN, Config
from podtally.errors import PodtallyError
from podtally.export.api import Refused

_TIMEOUT_SECONDS = 5.0
_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # where it listens there

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the agent's own: it says where it listens"
    )
    parser.add_argument(
        "--listen", metavar="ADDR:PORT", help=f"where the agent listens ({DEFAULT_LISTEN})"
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")


def ask(config: Config, path: str, type_: type[T], **query: str) -> T:
    """Return the agent's answer; raises PodtallyError where there is none."""
    host, port = config.listen_address()
    host = _EVERY_ADDRESS.get(host, host)
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        status, body = _get(host, port, f"{path}?{urlencode(query)}" if query else path)
        if status == http.client.OK:
            return msgspec.json.decode(body, type=type_)
        refused = msgspec.json.decode(body, type=Refused)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that none can have
        words = error.strerror if isinstance(error, OSError) else None
        raise PodtallyError(
            f"no podtally answers on {where}: {words or error}",
            "is `podtally run` running? say where it listens with --listen or --config",
        ) from None
    except (http.client.HTTPException, msgspec.DecodeError) as error:
        words = ascii(str(error) or type(error).__name__)
        raise PodtallyError(
            f"who answers on {where} has no {path}: {words}",
            "is it a podtally, and as new as this one? choose with --listen",
        ) from None
    raise PodtallyError(f"the agent on {where} refuses: {refused.error}", refused.mend)


def _get(host: str, port: int, target: str) -> tuple[int, bytes]:
    """No proxy from the environment comes between."""
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", target, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def print_json(told: msgspec.Struct, out: TextIO) -> None:
    """Write an answer as it came, for machines."""
    out.write(msgspec.json.format(msgspec.json.encode(told), indent=2).decode() + "\n")
