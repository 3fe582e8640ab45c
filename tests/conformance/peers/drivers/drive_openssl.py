"""openssl, for UnionPay, of which there is no client on PyPI or npm. Every hash, signature and certificate is its work.

Only the standard library besides, and nothing of ours: what is signed is written down here from UnionPay's own words.
"""

import subprocess
import tempfile
import urllib.request
from base64 import b64decode, b64encode
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from dialogue import account, obey

OPENSSL_WITHIN_S = 10
ANSWER_WITHIN_S = 10
NAME = "中国银联股份有限公司"
FOLDER = Path(tempfile.mkdtemp(prefix="holdfast-openssl-"))


def openssl(*words, given=b""):
    """What it wrote; raises what it complained of."""
    done = subprocess.run(
        ["openssl", *map(str, words)], input=given, capture_output=True, timeout=OPENSSL_WITHIN_S, check=False
    )
    if done.returncode != 0:
        raise ValueError(f"openssl {' '.join(map(str, words))}: {done.stdout.decode()}{done.stderr.decode()}")
    return done.stdout


def written(name, content):
    (FOLDER / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return FOLDER / name


def to_be_signed(fields):
    """Sorted, joined, without empties and `signature`; its SHA-256 in hex is what is signed, by SHA-256 again."""
    text = "&".join(f"{k}={v}" for k, v in sorted(fields.items()) if k != "signature" and v)
    return openssl("dgst", "-sha256", "-r", given=text.encode()).split()[0]


def sign(fields, private_key):
    key = written("signing.key.pem", private_key)
    return b64encode(openssl("dgst", "-sha256", "-sign", key, given=to_be_signed(fields))).decode()


def verify(fields):
    """The certificate must come from UnionPay's root and name UnionPay; then the signature must be its."""
    certificate = written("theirs.pem", fields["signPubKeyCert"])
    openssl("verify", "-CAfile", ROOT, "-untrusted", MIDDLE, certificate)
    named = openssl("x509", "-in", certificate, "-noout", "-subject", "-nameopt", "multiline,utf8,-esc_msb").decode()
    common_name = named.partition("commonName")[2].partition("=")[2].strip()
    if common_name.split("@")[2:3] != [NAME]:
        raise ValueError(f"signed in the name of {common_name}")
    public = written("theirs.pub.pem", openssl("x509", "-in", certificate, "-noout", "-pubkey"))
    signature = written("signature", b64decode(fields["signature"], validate=True))
    openssl("dgst", "-sha256", "-verify", public, "-signature", signature, given=to_be_signed(fields))


def signed(fields, private_key=account["private_key"]):
    """A request of the merchant."""
    fields = {**fields, "certId": CERT_ID}
    return {**fields, "signature": sign(fields, private_key)}


def post(url, fields, private_key=account["private_key"]):
    """The answer's fields, which were verified. It is not form-encoded: it is split as it came."""
    body = urlencode(signed(fields, private_key)).encode()
    request = urllib.request.Request(url, body)  # noqa: S310 - the simulator's
    with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as answer:  # noqa: S310
        text = answer.read().decode(fields["encoding"]).rstrip("\r\n")
    said = dict(pair.split("=", 1) for pair in text.split("&"))
    verify(said)
    return said


def read(body):
    """A notification, verified."""
    fields = dict(parse_qsl(body, keep_blank_values=True, strict_parsing=True))
    verify(fields)
    return fields


def notice(fields, private_key, certificate):
    """A notification as a form. Its certificate goes with it: CRLF line ends, none after the last line."""
    pem = openssl("x509", given=certificate.encode()).decode().strip().replace("\n", "\r\n")
    fields = {**fields, "signPubKeyCert": pem}
    return urlencode({**fields, "signature": sign(fields, private_key)})


def impostor():
    """A key with a certificate of its own making, in the name of UnionPay."""
    key, certificate = FOLDER / "impostor.key.pem", FOLDER / "impostor.pem"
    subject = f"/C=CN/O=CFCA TEST OCA1/CN=041@8310000000083040@{NAME}@00016495"
    made = ("-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", 365)
    openssl("req", "-x509", "-utf8", "-batch", "-subj", subject, *made)
    return {"private_key": key.read_text(), "certificate": certificate.read_text()}


ROOT = written("root.pem", account["root_certificate"])
MIDDLE = written("middle.pem", account["middle_certificate"])
CERT_ID = str(int(openssl("x509", "-noout", "-serial", given=account["certificate"].encode()).split(b"=")[1], 16))
obey(post=post, sign=sign, signed=signed, read=read, notice=notice, impostor=impostor)
