"""A certificate for one run, and the address in the local network that it is for."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from recon.core.errors import SettingsError

VALID = timedelta(days=30)  # longer than any capture
CLOCKS_APART = timedelta(days=1)  # of computer and phone
ELSEWHERE = ("192.0.2.1", 9)  # reserved for documentation; nothing is sent there


def local_address() -> str:
    """The address of this machine in the network that its traffic takes.

    Raises SettingsError if it is not on a network.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(ELSEWHERE)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise SettingsError(
            "This machine is not on a network. Connect it to the phone's network, or give its address with --host."
        ) from error


def tls_context(host: str) -> tuple[ssl.SSLContext, str]:
    """A server context with a new self-signed certificate for the IP address ``host``, and the certificate's SHA-256
    fingerprint in hexadecimal. The private key is not kept on the disk.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "recon")]), datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address(host))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_APART)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, pem)
    return context, certificate.fingerprint(hashes.SHA256()).hex()


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Python reads certificates from files only: one that others cannot read, for as long as that takes."""
    descriptor, name = tempfile.mkstemp(suffix=".pem")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        context.load_cert_chain(name)
    finally:
        Path(name).unlink()
