# SPDX-License-Identifier: Apache-2.0
"""What a reflector of the tests has."""

from tests.apiserver.server import ApiServer
from tests.unit.kube_support import (
    pod,
)


def filled(api: ApiServer, count: int = 7) -> ApiServer:
    for number in range(count):
        api.put("pods", pod(f"pod-{number}"))
    return api
