"""Asks the running agent over its HTTP listener, and decodes what it answers."""

import argparse
import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar
from urllib.parse import urlencode

import msgspec

from podtally.config import DEFAULT_LISTEN, Config
from podtally.errors import PodtallyError
from podtally.export import web_client
from podtally.export.api import Refused

T = TypeVar("T")

_METRICS = "/metrics"


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
    with _answering(config, path):
        status, body = web_client.get(config, f"{path}?{urlencode(query)}" if query else path)
        if status == http.client.OK:
            return msgspec.json.decode(body, type=type_)
        refused = msgspec.json.decode(body, type=Refused)
    raise PodtallyError(f"the agent on {where(config)} refuses: {refused.error}", refused.mend)


def metrics(config: Config) -> str:
    """Return the agent's /metrics; raises PodtallyError where there are none."""
    with _answering(config, _METRICS):
        status, body = web_client.get(config, _METRICS)
        if status != http.client.OK:
            raise http.client.HTTPException(f"it answers {status}")
        return body.decode(errors="replace")


def where(config: Config) -> str:
    """Return who is asked, as ``ADDR:PORT``."""
    host, port = web_client.where(config)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def _answering(config: Config, path: str) -> Iterator[None]:
    """Say in the operator's words why nobody answers, or nobody who is a podtally."""
    try:
        yield
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that none can have
        told = error.strerror if isinstance(error, OSError) else None
        raise PodtallyError(
            f"no podtally answers on {where(config)}: {told or error}",
            "is `podtally run` running? say where it listens with --listen or --config",
        ) from None
    except (http.client.HTTPException, msgspec.DecodeError) as error:
        words = ascii(str(error) or type(error).__name__)
        raise PodtallyError(
            f"who answers on {where(config)} has no {path}: {words}",
            "is it a podtally, and as new as this one? choose with --listen",
        ) from None


def print_json(told: msgspec.Struct, out: TextIO) -> None:
    """Write an answer as it came, for machines."""
    out.write(msgspec.json.format(msgspec.json.encode(told), indent=2).decode() + "\n")
