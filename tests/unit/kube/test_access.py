# SPDX-License-Identifier: Apache-2.0
"""Access to an API server: service account, kubeconfig, certificates, plugins."""

import base64
import json
import os
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from podtally.errors import PodtallyError
from podtally.kube import kubeconfig
from podtally.kube.access import Access
from podtally.kube.api_access import in_cluster
from podtally.kube.http import ApiError, Client, ConnectError, ContactError
from tests.apiserver.certificates import Authority, Pair
from tests.apiserver.server import ApiServer
from tests.unit.kube_support import QUICK, Watching, pod, wait_for
from tests.unit.kubeconfig_files import SECRET, write_config


@dataclass(frozen=True)
class Cluster:
    """A server with TLS, and the credentials for it."""

    api: ApiServer
    ca: Path
    client: Pair
    folder: Path

    def write(self, user: dict[str, Any], **cluster: Any) -> Path:
        named = {"server": self.api.url, "certificate-authority": "ca.pem"} | cluster
        return write_config(self.folder, user, named)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pairs(authority: Authority) -> tuple[Pair, Pair]:
    return authority.issue("server", "IP:127.0.0.1,DNS:api.lab"), authority.issue("agent")


@pytest.fixture
def cluster(authority: Authority, pairs: tuple[Pair, Pair], tmp_path: Path) -> Iterator[Cluster]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, pairs[0]))
    context.load_verify_locations(str(authority.own.certificate))
    context.verify_mode = ssl.CERT_OPTIONAL
    (tmp_path / "ca.pem").write_bytes(authority.own.certificate.read_bytes())
    with ApiServer(tls=context, authorizations={f"Bearer {SECRET}"}) as api:
        api.put("pods", pod("one"))
        yield Cluster(api, authority.own.certificate, pairs[1], tmp_path)


def names(access: Access) -> list[str]:
    client = Client(access, QUICK)
    try:
        body = json.loads(client.get("/api/v1/pods", "application/json"))
    finally:
        client.drop()
    return [item["metadata"]["name"] for item in body["items"]]


def data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_a_token_and_a_ca_file_beside_the_kubeconfig(cluster: Cluster) -> None:
    assert names(kubeconfig.load(cluster.write({"token": SECRET}))) == ["one"]


def test_a_token_file_is_read_again(cluster: Cluster) -> None:
    (cluster.folder / "token").write_text("old")
    access = kubeconfig.load(cluster.write({"tokenFile": "token", "token": "another"}))
    with pytest.raises(ApiError, match="401"):
        names(access)
    (cluster.folder / "token").write_text(f"{SECRET}\n")
    assert names(access) == ["one"]


def test_a_user_and_password(cluster: Cluster) -> None:
    cluster.api.authorizations = {"Basic " + base64.b64encode(b"ann:pass").decode()}
    path = cluster.write({"username": "ann", "password": "pass"})
    assert names(kubeconfig.load(path)) == ["one"]


@pytest.mark.parametrize("as_data", [True, False])
def test_a_client_certificate(cluster: Cluster, as_data: bool) -> None:
    assert cluster.api.tls is not None
    cluster.api.tls.verify_mode = ssl.CERT_REQUIRED
    cluster.api.authorizations = None
    user = {
        "client-certificate-data": data(cluster.client.certificate),
        "client-key-data": data(cluster.client.key),
    }
    if not as_data:
        user = {
            "client-certificate": str(cluster.client.certificate),
            "client-key": os.path.relpath(cluster.client.key, cluster.folder),
        }
    before = sorted(os.listdir("/proc/self/fd"))
    access = kubeconfig.load(cluster.write(user))
    assert sorted(os.listdir("/proc/self/fd")) == before  # the key lies nowhere
    assert names(access) == ["one"]
    with pytest.raises(ContactError):  # the server does not want one without
        names(kubeconfig.load(cluster.write({"token": SECRET})))


def test_a_ca_given_as_data_and_a_server_behind_a_path(cluster: Cluster) -> None:
    fields = {"certificate-authority": "", "certificate-authority-data": data(cluster.ca)}
    path = cluster.write({"token": SECRET}, server=cluster.api.url + "/k8s/c1/", **fields)
    with pytest.raises(ApiError, match="404"):  # the test server has no such prefix
        names(kubeconfig.load(path))
    assert kubeconfig.load(path).server.url == cluster.api.url + "/k8s/c1"


def test_a_certificate_of_another_name_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other-ca")
    wrong = cluster.write({"token": SECRET}, **{"certificate-authority": str(other.own[0])})
    with pytest.raises(ConnectError, match="certificate"):
        names(kubeconfig.load(wrong))
    named = cluster.write({"token": SECRET}, **{"tls-server-name": "other.lab"})
    with pytest.raises(ConnectError, match=r"other\.lab"):
        names(kubeconfig.load(named))
    system = cluster.write({"token": SECRET}, **{"certificate-authority": ""})
    with pytest.raises(ConnectError, match="certificate"):
        names(kubeconfig.load(system))


def test_tls_server_name_and_insecure(cluster: Cluster) -> None:
    port = cluster.api.port
    server = f"https://localhost:{port}"
    with pytest.raises(ConnectError, match="localhost"):
        names(kubeconfig.load(cluster.write({"token": SECRET}, server=server)))
    named = cluster.write({"token": SECRET}, server=server, **{"tls-server-name": "api.lab"})
    assert names(kubeconfig.load(named)) == ["one"]
    fields = {"certificate-authority": "", "insecure-skip-tls-verify": True}
    assert names(kubeconfig.load(cluster.write({"token": SECRET}, **fields))) == ["one"]


def test_stop_ends_a_watch_over_tls_at_once(cluster: Cluster) -> None:
    access = kubeconfig.load(cluster.write({"token": SECRET}))
    with Watching(cluster.api, access=access) as watching:
        watching.agrees()
        cluster.api.put("pods", pod("two"))
        watching.agrees()
        cluster.api.restart()
        cluster.api.put("pods", pod("three"))
        watching.agrees()
        watching.source.stop()
        assert not watching.source.alive("pods")


def test_a_service_account(cluster: Cluster) -> None:
    folder = cluster.folder / "serviceaccount"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(cluster.ca.read_bytes())
    (folder / "token").write_text(SECRET)
    environment = {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(cluster.api.port),
    }
    assert names(in_cluster(environment, folder)) == ["one"]
    v6 = in_cluster(environment | {"KUBERNETES_SERVICE_HOST": "2001:db8::1"}, folder)
    assert v6.server.url == f"https://[2001:db8::1]:{cluster.api.port}"
    (folder / "token").unlink()
    with pytest.raises(PodtallyError, match=r"the service account's token: cannot read .*/token"):
        in_cluster(environment, folder)
    with pytest.raises(PodtallyError, match=r"not in a Kubernetes pod.*; give a kubeconfig"):
        in_cluster({}, folder)


PLUGIN = """\
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
runs = folder / "runs"
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
(folder / "info").write_text(os.environ["KUBERNETES_EXEC_INFO"])
(folder / "given").write_text(os.environ["GIVEN"])
exec((folder / "then").read_text())
"""


@dataclass(frozen=True)
class PluginFolder:
    cluster: Cluster
    version: str = "client.authentication.k8s.io/v1"

    def load(self, then: str, **fields: Any) -> Access:
        folder = self.cluster.folder
        (folder / "plugin.py").write_text(PLUGIN)
        self.then(then)
        plugin = {
            "apiVersion": self.version,
            "command": sys.executable,
            "args": [str(folder / "plugin.py"), str(folder)],
            "env": [{"name": "GIVEN", "value": "23"}],
            "interactiveMode": "IfAvailable",
            "installHint": "apt-get install the-plugin",
        }
        return kubeconfig.load(self.cluster.write({"exec": plugin | fields}))

    def then(self, code: str) -> None:
        (self.cluster.folder / "then").write_text(code)

    def prints(self, **status: Any) -> str:
        answer = {"apiVersion": self.version, "kind": "ExecCredential", "status": status}
        return f"print(json.dumps({answer!r}))"

    @property
    def runs(self) -> int:
        path = self.cluster.folder / "runs"
        return len(path.read_text()) if path.exists() else 0


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_plugin_gives_a_token(cluster: Cluster, version: str) -> None:
    plugin = PluginFolder(cluster, f"client.authentication.k8s.io/{version}")
    access = plugin.load(plugin.prints(token=SECRET), provideClusterInfo=True)
    assert plugin.runs == 0  # not before it is needed
    assert names(access) == names(access) == ["one"]
    assert plugin.runs == 1
    assert (cluster.folder / "given").read_text() == "23"
    info = json.loads((cluster.folder / "info").read_text())
    assert info == {
        "apiVersion": plugin.version,
        "kind": "ExecCredential",
        "spec": {
            "interactive": False,
            "cluster": {"server": cluster.api.url, "certificate-authority-data": data(cluster.ca)},
        },
    }


def test_a_plugin_gives_a_certificate(cluster: Cluster) -> None:
    cluster.api.authorizations = None
    assert cluster.api.tls is not None
    cluster.api.tls.verify_mode = ssl.CERT_REQUIRED
    plugin = PluginFolder(cluster)
    certificate, key = (path.read_text() for path in cluster.client)
    code = plugin.prints(clientCertificateData=certificate, clientKeyData=key)
    assert names(plugin.load(code)) == ["one"]
    assert "cluster" not in json.loads((cluster.folder / "info").read_text())["spec"]


def test_a_plugin_is_run_again_when_its_credential_expires(cluster: Cluster) -> None:
    plugin = PluginFolder(cluster)
    soon, later = "2020-01-01T00:00:00Z", "2120-01-01T00:00:00Z"
    access = plugin.load(plugin.prints(token=SECRET, expirationTimestamp=soon))
    assert names(access) == names(access) == ["one"]
    assert plugin.runs == 2
    plugin.then(plugin.prints(token=SECRET, expirationTimestamp=later))
    assert names(access) == names(access) == ["one"]
    assert plugin.runs == 3


def test_a_plugin_is_run_again_once_for_all_when_its_token_is_refused(cluster: Cluster) -> None:
    plugin = PluginFolder(cluster)
    access = plugin.load(plugin.prints(token="old"))
    with pytest.raises(ApiError, match="401"):
        names(access)
    plugin.then(plugin.prints(token=SECRET))
    refused = access.credential()
    access.renew(refused)
    assert names(access) == ["one"]
    access.renew(refused)  # another thread, with the old one
    assert names(access) == ["one"]
    assert plugin.runs == 2


def test_a_watch_gets_a_new_token_from_a_plugin(cluster: Cluster) -> None:
    plugin = PluginFolder(cluster)
    with Watching(cluster.api, access=plugin.load(plugin.prints(token=SECRET))) as watching:
        watching.agrees()
        cluster.api.authorizations = {"Bearer next"}
        plugin.then(plugin.prints(token="next"))
        cluster.api.restart()
        cluster.api.put("pods", pod("two"))
        watching.agrees()
        assert plugin.runs == 2
        assert watching.source.lists("pods") == 1


def test_stop_ends_a_plugin_that_never_does(cluster: Cluster) -> None:
    plugin = PluginFolder(cluster)
    code = "(folder / 'pid').write_text(str(os.getpid())); time.sleep(600)"
    with Watching(cluster.api, access=plugin.load(code)) as watching:
        pid = cluster.folder / "pid"
        wait_for(lambda: pid.exists() and bool(pid.read_text()))
        watching.source.stop()
        assert not watching.source.alive("pods")
        assert not Path("/proc", pid.read_text()).exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("sys.exit('please log in')", r"failed with 1: please log in; apt-get install"),
        (f"print('{SECRET}')", r"did not print an ExecCredential"),
        ("print('{}')", r"printed no apiVersion"),
        ("print(json.dumps({'kind': 'ExecCredential', 'apiVersion': 'x/v1'}))", "printed x/v1"),
    ],
)
def test_errors_of_plugins(cluster: Cluster, code: str, said: str) -> None:
    with pytest.raises(PodtallyError, match=said) as caught:
        names(PluginFolder(cluster).load(code))
    assert f"{cluster.folder}/kubeconfig: user agent: exec" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_missing_plugin(cluster: Cluster) -> None:
    with pytest.raises(PodtallyError, match=r"cannot run .*/bin/none: .*; apt-get install the-pl"):
        names(PluginFolder(cluster).load("", command="./bin/none"))


def test_an_encrypted_key_does_not_prompt(
    authority: Authority, pairs: tuple[Pair, Pair], tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    authority._openssl(
        "pkey", "-in", str(pairs[1].key), "-aes256", "-passout", "pass:x", "-out", str(locked)
    )
    user = {"client-certificate": str(pairs[1].certificate), "client-key": str(locked)}
    with pytest.raises(PodtallyError, match=r"the client key is encrypted"):
        kubeconfig.load(write_config(tmp_path, user, {"server": "https://127.0.0.1:1"}))
