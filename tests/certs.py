"""Certificates for tests: an authority of one's own, and what it signs."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """Signs certificates; its own lies in `ca.pem` of the folder it is given."""

    def __init__(self, folder, name="ca"):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._builder(self.subject, self.key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(self.key, hashes.SHA256())
        self.path = write(folder / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, name="server"):
        """A certificate and key for this machine's loopback addresses."""
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return self._issue(name, [(NameOID.COMMON_NAME, name)], names, ExtendedKeyUsageOID.SERVER_AUTH)

    def client(self, name, organization="example", uri=None):
        """A certificate and key that say who the client is."""
        subject = [(NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, name)]
        names = [x509.UniformResourceIdentifier(uri)] if uri else []
        return self._issue(name, subject, names, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(self, file, subject, names, usage):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
        builder = self._builder(subject, key).add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return (write(self.folder / f"{file}.crt", certificate.public_bytes(serialization.Encoding.PEM)),
                write(self.folder / f"{file}.key", pem))

    def _builder(self, subject, key):
        day = datetime.timedelta(days=1)
        now = datetime.datetime.now(datetime.timezone.utc)
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(self.subject)
                .public_key(key.public_key()).serial_number(x509.random_serial_number())
                .not_valid_before(now - day).not_valid_after(now + day))


def write(path, content):
    path.write_bytes(content)
    return str(path)
