"""A Sigstore of the tests' own: certificate authority, certificate log and transparency log, each with its key.

What it signs is verified by the real library with the real checks; only the trusted root is another one.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import struct
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ORIGIN = "rekor.example.org - 1"
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SHA256_ECDSA = b"\x04\x03"  # as TLS numbers them


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class _Log:
    """A key and what logs are known by."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        self.public = self.key.public_key().public_bytes(encoding, form)
        self.id = hashlib.sha256(self.public).digest()

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))

    def instance(self, url: str) -> dict[str, Any]:
        key = {"rawBytes": b64(self.public), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
        valid = {"validFor": {"start": "2020-01-01T00:00:00.000Z"}}
        return {
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {**key, **valid},
            "logId": {"keyId": b64(self.id)},
        }


class Sigstore:
    """Signs what it is given, as whoever one says."""

    def __init__(self) -> None:
        self.rekor, self.ct, self._root = _Log(), _Log(), _Log()
        self.now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        self.authority = self._authority()

    def trusted_root(self) -> str:
        """The file that `sigstore_root` names."""
        certificate = self.authority.public_bytes(serialization.Encoding.DER)
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [self.rekor.instance("https://rekor.example.org")],
                "certificateAuthorities": [
                    {
                        "subject": {"organization": "example.org", "commonName": "example"},
                        "uri": "https://fulcio.example.org",
                        "certChain": {"certificates": [{"rawBytes": b64(certificate)}]},
                        "validFor": {"start": "2020-01-01T00:00:00.000Z"},
                    }
                ],
                "ctlogs": [self.ct.instance("https://ct.example.org")],
                "timestampAuthorities": [],
            }
        )

    def sign(self, artifact: bytes, identity: str, issuer: str) -> bytes:
        """A bundle with a signature of `artifact`."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(key.public_key(), identity, issuer)
        signature = key.sign(artifact, ec.ECDSA(hashes.SHA256()))
        digest = hashlib.sha256(artifact).digest()
        body = {
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": {"hash": {"algorithm": "sha256", "value": digest.hex()}},
                "signature": {"content": b64(signature), "publicKey": {"content": b64(_pem(certificate))}},
            },
        }
        message = {"messageDigest": {"algorithm": "SHA2_256", "digest": b64(digest)}, "signature": b64(signature)}
        return self._bundle(certificate, body, {"messageSignature": message})

    def attest(self, subject: str, digest: str, identity: str, issuer: str) -> bytes:
        """A bundle with an in-toto attestation of a subject."""
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": subject, "digest": {"sha256": digest.removeprefix("sha256:")}}],
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {},
        }
        payload, kind = json.dumps(statement).encode(), "application/vnd.in-toto+json"
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(key.public_key(), identity, issuer)
        signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
        signature = b64(key.sign(signed, ec.ECDSA(hashes.SHA256())))
        envelope = {"payload": b64(payload), "payloadType": kind, "signatures": [{"sig": signature}]}
        body = {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": {"algorithm": "sha256", "value": "0" * 64},
                "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
                "signatures": [{"signature": signature, "verifier": b64(_pem(certificate))}],
            },
        }
        return self._bundle(certificate, body, {"dsseEnvelope": envelope})

    def _bundle(self, certificate: x509.Certificate, body: dict[str, Any], content: dict[str, Any]) -> bytes:
        entry = self._entry(body)
        material = {
            "certificate": {"rawBytes": b64(certificate.public_bytes(serialization.Encoding.DER))},
            "tlogEntries": [entry],
        }
        value = {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": material,
            **content,
        }
        return json.dumps(value).encode()

    def _entry(self, body: dict[str, Any]) -> dict[str, Any]:
        """The only entry of a log."""
        canonical = rfc8785.dumps(body)
        root = hashlib.sha256(b"\0" + canonical).digest()
        moment = int(self.now.timestamp())
        promise = {"body": b64(canonical), "integratedTime": moment, "logID": self.rekor.id.hex(), "logIndex": 0}
        note = f"{ORIGIN}\n1\n{b64(root)}\n"
        signed = b64(self.rekor.id[:4] + self.rekor.sign(note.encode()))
        return {
            "logIndex": "0",
            "logId": {"keyId": b64(self.rekor.id)},
            "kindVersion": {"kind": body["kind"], "version": "0.0.1"},
            "integratedTime": str(moment),
            "inclusionPromise": {"signedEntryTimestamp": b64(self.rekor.sign(rfc8785.dumps(promise)))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n— rekor.example.org {signed}\n"},
            },
            "canonicalizedBody": b64(canonical),
        }

    def _authority(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example")])
        public = self._root.key.public_key()
        year = datetime.timedelta(days=365)
        return (
            x509.CertificateBuilder(name, name, public, x509.random_serial_number(), self.now - year, self.now + year)
            .add_extension(x509.BasicConstraints(True, 0), critical=True)
            .add_extension(_usage(key_cert_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._root.key, hashes.SHA256())
        )

    def _certificate(self, public: Any, identity: str, issuer: str) -> x509.Certificate:
        """One for ten minutes, with the certificate log's receipt in it."""
        minutes = datetime.timedelta(minutes=5)
        name = x509.UniformResourceIdentifier(identity) if "://" in identity else x509.RFC822Name(identity)
        root = self._root.key.public_key()
        text = issuer.encode()
        builder = (
            x509.CertificateBuilder(
                self.authority.subject,
                x509.Name([]),
                public,
                x509.random_serial_number(),
                self.now - minutes,
                self.now + minutes,
            )
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root), critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER, b"\x0c" + bytes([len(text)]) + text), critical=False)
        )
        before = builder.sign(self._root.key, hashes.SHA256()).tbs_certificate_bytes
        receipt = x509.UnrecognizedExtension(_SCT_LIST, self._receipt(before))
        return builder.add_extension(receipt, critical=False).sign(self._root.key, hashes.SHA256())

    def _receipt(self, before: bytes) -> bytes:
        """A list of one signed certificate timestamp (RFC 6962), as the value of an extension."""
        moment = int(self.now.timestamp() * 1000)
        entry = self._root.id + len(before).to_bytes(3, "big") + before
        signature = self.ct.sign(struct.pack("!BBQH", 0, 0, moment, 1) + entry + b"\0\0")
        one = b"\0" + self.ct.id + moment.to_bytes(8, "big") + b"\0\0" + _SHA256_ECDSA + _sized(signature)
        listed = _sized(_sized(one))
        return b"\x04" + _der_length(len(listed)) + listed


def _usage(**uses: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: uses.get(name, False) for name in names})


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _der_length(length: int) -> bytes:
    return bytes([length]) if length < 128 else b"\x81" + bytes([length])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
