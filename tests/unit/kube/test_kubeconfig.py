# SPDX-License-Identifier: Apache-2.0
"""Errors in a kubeconfig name the field, and show no secrets."""

from pathlib import Path
from typing import Any

import pytest

from podtally.errors import PodtallyError
from podtally.kube import kubeconfig
from podtally.kube.credentials import Credential
from tests.unit.kubeconfig_files import SECRET, write_config

HTTPS = {"server": "https://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("user", "fields", "said"),
    [
        ({"token": SECRET}, {"server": "127.0.0.1:6443"}, "cluster lab: server is not the URL"),
        ({"token": SECRET}, {"server": "https://h:99999"}, "cluster lab: server is not the URL"),
        ({}, HTTPS | {"proxy-url": "http://p:1"}, "cluster lab: proxy-url is not supported"),
        ({}, HTTPS | {"certificate-authority": "none.pem"}, "certificate-authority: cannot read"),
        ({}, HTTPS | {"certificate-authority-data": "%%"}, "authority-data: not base64"),
        ({}, HTTPS | {"certificate-authority-data": "eHg="}, "authority-data: no PEM"),
        ({"token": f"{SECRET}\nx"}, HTTPS, "user agent: token: not a bearer token"),
        ({"tokenFile": "none"}, HTTPS, "user agent: tokenFile: cannot read"),
        ({"client-key-data": "eHg="}, HTTPS, "certificate or a client key, not both"),
        (
            {"client-key-data": "eHg=", "client-certificate-data": "eHg="},
            HTTPS,
            "the client certificate and key cannot be loaded",
        ),
        ({"auth-provider": {"name": "gcp"}}, HTTPS, "auth-provider is not supported"),
        ({"as": "admin", "token": SECRET}, HTTPS, r"impersonation \(as\) is not supported"),
        ({"token": SECRET, "username": "ann"}, HTTPS, "both token and username"),
        ({"exec": {"command": "x", "apiVersion": "v9"}}, HTTPS, "apiVersion 'v9' is not supported"),
        ({"exec": {"apiVersion": "client.authentication.k8s.io/v1"}}, HTTPS, "exec: no command"),
        ({"token": 23}, HTTPS, r"users\[0\].user.token: must be text .*, not a whole number"),
    ],
)
def test_errors_name_file_and_field(
    tmp_path: Path, user: dict[str, Any], fields: dict[str, Any], said: str
) -> None:
    path = write_config(tmp_path, user, fields)
    with pytest.raises(PodtallyError, match=said) as caught:
        kubeconfig.load(path)
    assert str(path) in str(caught.value) or "cannot be loaded" in said
    assert caught.value.fix
    assert SECRET not in str(caught.value)


def test_missing_parts(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"token": SECRET}, HTTPS)
    with pytest.raises(PodtallyError, match="contexts: no 'there'; there is: broken, here"):
        kubeconfig.load(path, "there")
    with pytest.raises(PodtallyError, match="users: no 'nobody'; there is: agent"):
        kubeconfig.load(path, "broken")
    with pytest.raises(PodtallyError, match=r"cannot read the kubeconfig .*/none: No such file"):
        kubeconfig.load(tmp_path / "none")
    path.write_text(f"users:\n- token: {SECRET}\n  {SECRET}: [")
    with pytest.raises(PodtallyError, match=r"kubeconfig:[34]: not YAML") as caught:
        kubeconfig.load(path)
    assert SECRET not in str(caught.value)
    path.write_text("clusters: null\nusers: null\ncontexts: null\n")
    with pytest.raises(PodtallyError, match="no current-context"):
        kubeconfig.load(path)


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    access = kubeconfig.load(write_config(tmp_path, {"token": SECRET}, HTTPS))
    assert access.credential() == Credential(f"Bearer {SECRET}")
    shown = repr(access.credential()) + repr(access) + repr(vars(access))
    assert SECRET not in shown
