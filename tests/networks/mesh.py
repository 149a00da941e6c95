# SPDX-License-Identifier: Apache-2.0
"""A service mesh's sidecar in a pod's namespace: traffic in both directions passes a proxy."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from tests.networks.lab import Member, nft
from tests.networks.traffic import STREAM, socket_in

OUTBOUND, INBOUND = 15001, 15006
PASSTHROUGH = "127.0.0.6"  # the source of what the sidecar hands to the application
_MARK = 1337
_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h
RULES = f"""
table ip mesh {{
  chain output {{
    type nat hook output priority -100;
    oifname lo return
    meta mark {_MARK} return
    meta l4proto tcp redirect to :{OUTBOUND}
  }}
  chain prerouting {{
    type nat hook prerouting priority -100;
    meta l4proto tcp redirect to :{INBOUND}
  }}
}}
"""


@contextmanager
def sidecar(pod: Member) -> Iterator[None]:
    """Redirect all TCP of a pod through a proxy in it, as Istio's and Linkerd's init containers do."""
    nft(RULES, pod.netns)
    with ExitStack() as open_:
        for port in (OUTBOUND, INBOUND):
            listener = open_.enter_context(socket_in(pod.netns, 4, STREAM))
            listener.settimeout(None)
            listener.bind(("", port))
            listener.listen()
            thread = threading.Thread(target=_serve, args=(pod, listener, port), daemon=True)
            thread.start()
            open_.callback(_end, listener, thread)
        yield


def _end(listener: socket.socket, thread: threading.Thread) -> None:
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def _serve(pod: Member, listener: socket.socket, port: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_proxy, args=(pod, client, port), daemon=True).start()


def _proxy(pod: Member, client: socket.socket, port: int) -> None:
    original = client.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
    number, packed = struct.unpack_from("!2xH4s", original)
    with client, socket_in(pod.netns, 4, STREAM) as server, suppress(OSError):
        if port == OUTBOUND:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK)
        else:
            server.bind((PASSTHROUGH, 0))
        server.connect((socket.inet_ntoa(packed), number))
        server.settimeout(None)
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
