"""Send one signed POST: Standard Webhooks 1.0 headers over urllib3. Knows no alert, no retry and no clock.

The receiver checks HMAC-SHA256 over `webhook-id.webhook-timestamp.body` with the shared secret. The id is the same at every
attempt, so the receiver recognises a repetition; the timestamp is new at each, so it can refuse an old message.
"""

import base64
import binascii
import hashlib
import hmac
import ssl
from pathlib import Path

import urllib3

from schemas.errors import Code, Refused, Unreachable

SECRET_BYTES_MIN = 24  # Bound of Standard Webhooks.
SECRET_FILE_BYTES_MAX = 4096
PREFIX = "whsec_"


class Poster:
    """Post to one URL. Redirects are not followed: they would send a signed message elsewhere.

    Raises:
        Refused: the authority's certificate cannot be read.
    """

    def __init__(self, url: str, secret: bytes, *, ca_file: str = "", timeout_seconds: float = 10.0) -> None:
        self._url, self._secret = url, secret
        self._timeout = urllib3.Timeout(connect=timeout_seconds, read=timeout_seconds)
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=1, retries=False, ssl_context=_context(ca_file))

    def post(self, message_id: str, body: bytes, *, timestamp: int) -> None:
        """Deliver one message.

        Raises:
            Unreachable: there was no answer in time, or it was not 2xx.
        """
        headers = {"content-type": "application/json", "user-agent": "fleetcast", **signed(self._secret, message_id, timestamp, body)}
        try:
            answer = self._pool.request(
                "POST", self._url, body=body, headers=headers, timeout=self._timeout, redirect=False, retries=False, preload_content=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"{self._url}: {_reason(error)}") from error
        status = int(answer.status)
        answer.close()  # The body is ignored, whatever its length.
        if not 200 <= status < 300:
            hint = ", and redirects are not followed" if 300 <= status < 400 else ""
            raise Unreachable(f"{self._url} answered {status}{hint}")


def _context(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:  # An SSLError is an OSError, too.
        raise Refused(Code.SETTINGS_INVALID, f"ca_file {ca_file}: {error.strerror or error}") from None


def signed(secret: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers of Standard Webhooks 1.0."""
    content = f"{message_id}.{timestamp}.".encode() + body
    mac = base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{mac}"}


def read_secret(path: Path) -> bytes:
    """Return a secret from the first line of a file: base64 after `whsec_`, or the text itself.

    Raises:
        Refused: the file cannot be read, or the secret is too short.
    """
    try:
        with path.open("rb") as file:
            line = file.read(SECRET_FILE_BYTES_MAX).splitlines()[:1]
        text = line[0].strip().decode() if line else ""
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True) if text.startswith(PREFIX) else text.encode()
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"secret file {path}: {error.strerror}") from None
    except (UnicodeDecodeError, binascii.Error) as error:
        raise Refused(Code.SETTINGS_INVALID, f"secret file {path}: {error}") from None
    if len(secret) < SECRET_BYTES_MIN:
        raise Refused(
            Code.SETTINGS_INVALID, f"secret file {path}: expected {SECRET_BYTES_MIN} bytes of secret or more, found {len(secret)}"
        )
    return secret


def _reason(error: urllib3.exceptions.HTTPError) -> str:
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return str(error).rsplit("] ", 1)[-1].lower()  # "connection refused", without addresses in memory.
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return str(error).removeprefix("(").split(" object at ")[0]
