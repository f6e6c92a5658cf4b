"""Certificates and keys: what each is refused for."""

from __future__ import annotations

import subprocess

import pytest

from runtime.errors import InvalidInput
from runtime.pem import read_authorities, read_pair

pytestmark = pytest.mark.needs_tool("openssl", "apt-get install openssl")


@pytest.fixture
def made(tmp_path):
    """A certificate of its own key, made as the arguments of ``openssl req`` say."""

    def made(*arguments):
        files = tmp_path / "made.pem", tmp_path / "made.key"
        command = ["openssl", "req", "-x509", "-subj", "/CN=made", "-out", files[0],
                   "-keyout", files[1], *arguments]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return files

    return made


def said(call, *paths):
    with pytest.raises(InvalidInput) as caught:
        call(*paths)
    return str(caught.value)


def test_a_sound_pair_comes_back_as_it_is(certificates):
    cert, key = certificates / "server.pem", certificates / "server.key"
    assert read_pair(cert, key) == (cert.read_bytes(), key.read_bytes())
    assert read_authorities(certificates / "ca.pem") == (certificates / "ca.pem").read_bytes()


def test_both_may_lie_in_one_file(certificates, tmp_path):
    both = tmp_path / "both.pem"
    parts = [(certificates / f"server.{kind}").read_bytes() for kind in ("key", "pem")]
    both.write_bytes(b"".join(parts))
    assert read_pair(both, both) == (both.read_bytes(), both.read_bytes())


@pytest.mark.parametrize(
    ("name", "when"),
    [("old", "expired on 2020-01-02 00:00 UTC"), ("young", "not valid before 2099-01-01 00:00")],
)
def test_a_certificate_that_is_not_valid_now_is_refused(name, when, certificates):
    cert, key = certificates / f"{name}.pem", certificates / f"{name}.key"
    assert when in said(read_pair, cert, key)
    assert when in said(read_authorities, cert)


def test_of_authorities_some_may_have_expired(certificates, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_bytes((certificates / "old.pem").read_bytes() + (certificates / "ca.pem").read_bytes())
    assert read_authorities(ca) == ca.read_bytes()


def test_a_damaged_certificate_is_said(certificates, tmp_path):
    lines = (certificates / "server.pem").read_bytes().splitlines(keepends=True)
    cert = tmp_path / "cert.pem"
    for damaged in (b"!" + lines[2][1:], b"A" * 8 + lines[2][8:]):
        cert.write_bytes(b"".join((*lines[:2], damaged, *lines[3:])))
        assert said(read_authorities, cert) == f"{cert} holds a damaged certificate"
    cert.write_bytes(b"".join(lines[:-1]))
    assert said(read_authorities, cert) == f"{cert} holds no certificate in PEM form"


def test_a_key_of_another_kind_is_that_of_another_certificate(certificates, made):
    _, key = made("-newkey", "rsa:2048", "-nodes")
    text = said(read_pair, certificates / "server.pem", key)
    assert text == f"the key in {key} is not that of the certificate in {certificates}/server.pem"


def test_a_key_with_a_password_asks_nobody_for_it(made):
    cert, key = made("-newkey", "rsa:2048", "-passout", "pass:secret")
    assert f"the key in {key} is locked with a password" in said(read_pair, cert, key)


def test_a_key_that_no_client_takes_is_refused(made):
    small = made("-newkey", "rsa:1024", "-nodes")
    assert "ee key too small" in said(read_pair, *small)
    strange = made("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1", "-nodes")
    assert "is on a curve that is not known" in said(read_pair, *strange)
