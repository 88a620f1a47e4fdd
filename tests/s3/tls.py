"""A TLS end in front of a plain server, with a certificate authority of its own."""

import datetime
import ipaddress
import pathlib
import socket
import ssl
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def start(upstream, folder):
    """Listens on a free port of 127.0.0.1 and passes on to `upstream`, a (host, port) pair.

    Returns the port and the path of the authority's certificate.
    """
    folder = pathlib.Path(folder)
    authority_key, authority = _certificate("test authority", None, None)
    key, certificate = _certificate("localhost", authority_key, authority)
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(authority.public_bytes(pem))
    (folder / "server.pem").write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, context, upstream), daemon=True).start()
    return listener.getsockname()[1], folder / "authority.pem"


def _certificate(name, issuer_key, issuer):
    """Makes a key and its certificate; one without an issuer is an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return key, builder.sign(issuer_key or key, hashes.SHA256())


def _accept(listener, context, upstream):
    while True:
        plain, _ = listener.accept()
        threading.Thread(target=_serve, args=(plain, context, upstream), daemon=True).start()


def _serve(plain, context, upstream):
    try:
        client = context.wrap_socket(plain, server_side=True)
    except (OSError, ssl.SSLError):
        # A client that does not trust us.
        plain.close()
        return
    server = socket.create_connection(upstream)
    threading.Thread(target=_copy, args=(client, server), daemon=True).start()
    _copy(server, client)


def _copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
