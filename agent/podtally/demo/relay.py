# SPDX-License-Identifier: Apache-2.0
"""Relays connections from the host's namespace to the agent's.

A socket stays in the namespace that created it: the listening one is inherited from the demo,
those to the agent are created here.
"""

import asyncio
import socket
import sys

_CHUNK = 65536


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()  # one side closed: the other pump sees the end too


async def serve(listener: socket.socket, port: int) -> None:
    """Relay each connection of ``listener`` to 127.0.0.1:``port`` here, until cancelled."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            agent_reader, agent_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()  # the agent does not listen yet, or no longer
            return
        await asyncio.gather(_pump(reader, agent_writer), _pump(agent_reader, writer))
        agent_writer.close()
        writer.close()

    server = await asyncio.start_server(relay, sock=listener)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])))
