"""Keys for a run: the real channels and the real simulated platforms, with a fast keyed hash in the place of RSA.

An RSA signature costs 0.65 ms, and a run has hundreds. `SigningKey` and `VerifyingKey` stand where RSA keys stand in
the credentials of both sides and have the two methods that `channels/signing.py` calls; everything above (what is
signed, in which form, with whose key, what a wrong signature leads to) is the real code. UnionPay's certificate is a
text that its channel is made to trust from the start, as if it had been validated before. AES-GCM stays what it is.
"""

import hashlib
import hmac
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from channels import alipay, alipay_keys, signing, unionpay, unionpay_keys, wechatpay, wechatpay_keys
from channels.contract import Channel
from channels.simulator import alipay as alipay_side
from channels.simulator import alipay_keys as alipay_side_keys
from channels.simulator import unionpay as unionpay_side
from channels.simulator import unionpay_keys as unionpay_side_keys
from channels.simulator import wechat as wechat_side
from channels.simulator import wechat_keys as wechat_side_keys
from channels.simulator.platform import Platform

URL: Final = "https://platforms.test"
FAR_S: Final = 2**33  # when everything here expires


class VerifyingKey:
    """The public half: knows whether a signature is the other half's."""

    def __init__(self, name: str) -> None:
        self._secret = hashlib.sha256(name.encode()).digest()

    def digest(self, message: bytes) -> bytes:
        """The only signature that verifies."""
        return hashlib.blake2b(message, key=self._secret, digest_size=64).digest() * 4  # as long as one of RSA 2048

    def verify(self, signature: bytes, message: bytes, _padding: Any, _algorithm: Any) -> None:
        """Raises InvalidSignature as an RSA key does."""
        if not hmac.compare_digest(signature, self.digest(message)):
            raise InvalidSignature


class SigningKey:
    """The private half."""

    def __init__(self, name: str) -> None:
        self._public = VerifyingKey(name)

    def sign(self, message: bytes, _padding: Any, _algorithm: Any) -> bytes:
        """As an RSA key's: the same message gives the same signature."""
        return self._public.digest(message)


def _signing(name: str) -> Any:
    return SigningKey(name)


def _verifying(name: str) -> Any:
    return VerifyingKey(name)


MCHID, APPID, API_V3_KEY, SERIAL = "1900000001", "wx0000000000000001", b"simulated-api-v3-key-of-32-bytes", "5157F09E"
PUBLIC_KEY_ID: Final = "PUB_KEY_ID_0119000000010000000000000001"
APP_ID, SELLER_ID = "2021000000000001", "2088000000000001"
MERCHANT_ID, CERT_ID = "777290000000001", "69026276696"
CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----\r\nsimulated\r\n-----END CERTIFICATE-----"


def make_channels() -> dict[str, Channel]:
    """Our side: the adapters, fresh, with one account at each platform."""
    ours = unionpay.UnionPay(
        unionpay_keys.Credentials(
            mer_id=MERCHANT_ID,
            private_key=_signing("unionpay merchant"),
            cert_id=CERT_ID,
            authorities=(),
            base_url=URL,
            file_url=URL,
        )
    )
    certificate = signing.Certificate("1", 0, FAR_S, _verifying("unionpay platform"))
    ours._trusted = ((CERTIFICATE, certificate),)
    return {
        "wechatpay": wechatpay.WeChatPay(
            wechatpay_keys.Credentials(
                mchid=MCHID,
                appid=APPID,
                merchant_serial=SERIAL,
                private_key=_signing("wechatpay merchant"),
                api_v3_key=API_V3_KEY,
                verification_keys={PUBLIC_KEY_ID: _verifying("wechatpay platform")},
                public_key_id=PUBLIC_KEY_ID,
            )
        ),
        "alipay": alipay.Alipay(
            alipay_keys.Credentials(
                app_id=APP_ID,
                seller_id=SELLER_ID,
                base_url=URL,
                private_key=_signing("alipay merchant"),
                verification_keys={"": _verifying("alipay platform")},
            )
        ),
        "unionpay": ours,
    }


def make_platforms(seed: int, owner: str = "platform") -> dict[str, Platform]:
    """The other side. Of another `owner` than the platform itself it is an impostor, whose signatures nobody knows."""
    return {
        "wechatpay": wechat_side.WechatPlatform(_wechatpay_keys(owner), seed),
        "alipay": alipay_side.AlipayPlatform(_alipay_keys(owner), seed),
        "unionpay": unionpay_side.UnionpayPlatform(_unionpay_keys(owner), seed),
    }


def _wechatpay_keys(owner: str) -> wechat_side_keys.PlatformKeys:
    key = _signing(f"wechatpay {owner}")
    unused = wechat_side_keys.PlatformCertificate("AA", _signing(f"wechatpay certificate {owner}"), b"", 0, FAR_S)
    merchant = wechat_side_keys.Merchant(
        "shop", MCHID, APPID, SERIAL, _verifying("wechatpay merchant"), AESGCM(API_V3_KEY)
    )
    return wechat_side_keys.PlatformKeys(PUBLIC_KEY_ID, key, (unused, unused), {MCHID: merchant})


def _alipay_keys(owner: str) -> alipay_side_keys.PlatformKeys:
    merchant = alipay_side_keys.Merchant("shop", APP_ID, SELLER_ID, _verifying("alipay merchant"), "")
    key, certified = _signing(f"alipay {owner}"), _signing(f"alipay certified {owner}")
    strangers = _signing("alipay stranger")
    return alipay_side_keys.PlatformKeys(key, certified, "", "", strangers, {APP_ID: merchant})


def _unionpay_keys(owner: str) -> unionpay_side_keys.PlatformKeys:
    signer = unionpay_side_keys.Signer(_signing(f"unionpay {owner}"), CERTIFICATE)
    impostor = unionpay_side_keys.Signer(_signing("unionpay nobody"), CERTIFICATE)
    impostors = dict.fromkeys(unionpay_side_keys.IMPOSTORS, impostor)
    merchant = unionpay_side_keys.Merchant(MERCHANT_ID, CERT_ID, _verifying("unionpay merchant"))
    return unionpay_side_keys.PlatformKeys((signer, signer), impostors, {MERCHANT_ID: merchant})
