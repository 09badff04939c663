"""Send one request to a hub's API, and read the answer within bounds; what was lost on the way is sent again where that does no harm."""

import json
import random
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import urllib3

from fleetcast.backoff import Backoff
from hub.client.place import HubPlace
from schemas.errors import Code, FleetcastError, Refused, Unreachable
from schemas.limits import KIB, MIB

PREFIX: Final = "/api/v1"
BINARY: Final = "application/octet-stream"
YAML: Final = "application/yaml"
ANSWER_BYTES_MAX: Final = 32 * MIB  # A page of 500 nodes with everything that is known of them has a tenth of it.
CONNECT_SECONDS_MAX: Final = 10.0
READ_SECONDS_MAX: Final = 60.0  # A hub answers at the latest after 30 s what it was asked to wait for.
ATTEMPTS_MAX: Final = 4
RETRY_AFTER_SECONDS_MAX: Final = 15.0  # A hub that wants more patience is not waited for.
BACKOFF: Final = Backoff(0.25, 4.0)
DETAIL_CHARACTERS_MAX: Final = 2000
ERRORS_MAX: Final = 20  # Mistakes of one refusal that are shown.
LINE_BYTES_MAX: Final = 1 * MIB  # An event of a stream has less.
NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})  # OpenSSL's names.
BUSY: Final = frozenset({429, 502, 503, 504})
CODES: Final = frozenset(str(one) for one in Code)


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold what a hub has answered."""

    status: int
    value: Any  # Parsed JSON, or bytes; None where there was no body.
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def etag(self) -> str | None:
        """Return the ETag, which a change can name by If-Match."""
        return self.headers.get("etag")


class NoAnswerOfHub(Unreachable):
    """Report that what answers is no hub, or is one that answers with nonsense: to ask again would change nothing."""


class RefusedInPlaces(Refused):
    """Report a refusal that names several mistakes, with a line for each."""

    def __init__(self, code: Code, reason: str, lines: tuple[str, ...]) -> None:
        super().__init__(code, reason)
        self.lines = lines


class Connection:
    """Hold the connections to one hub. Redirects are not followed and proxies of the environment not used: the token goes to the hub alone.

    Any thread may use it. A command line is answered with sentences that name its options, where others name fields of the API.

    Raises:
        Refused: the file of authorities cannot be read.
    """

    def __init__(
        self,
        place: HubPlace,
        *,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
        is_command_line: bool = False,
    ) -> None:
        self.place, self._sleep, self._chance = place, sleep, chance
        self._words = {"fleetcast-words": "options"} if is_command_line else {}
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=4, retries=False, ssl_context=_context(place))

    def close(self) -> None:
        """Close what is open."""
        self._pool.clear()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        raw: bytes | None = None,
        raw_kind: str = BINARY,
        headers: Mapping[str, str] | None = None,
        is_repeatable: bool | None = None,
        is_binary: bool = False,
    ) -> Answer:
        """Send a request, and return the answer: parsed JSON, or bytes where it is binary.

        A repeatable request is sent again when it was lost, or the hub is busy.

        Raises:
            Refused: the hub has refused it.
            Unreachable: there was no answer, or the hub cannot work.
        """
        repeatable = method == "GET" if is_repeatable is None else is_repeatable
        given, more = _content(body, raw, raw_kind), dict(headers or {})
        wait, attempt = BACKOFF, 1
        while True:
            try:
                answer = self._once(method, path, query, given, more, is_binary=is_binary)
            except Unreachable as error:
                if isinstance(error, NoAnswerOfHub) or not repeatable or attempt >= ATTEMPTS_MAX:
                    raise
                pause = wait.wait_seconds(self._chance())
            else:
                after = _retry_after(answer)
                if answer.status not in BUSY or not repeatable or attempt >= ATTEMPTS_MAX or after > RETRY_AFTER_SECONDS_MAX:
                    return self._good(answer)
                pause = max(after, wait.wait_seconds(self._chance()))
            self._sleep(pause)
            wait, attempt = wait.doubled(), attempt + 1

    def stream_lines(self, path: str, *, headers: Mapping[str, str], read_seconds_max: float) -> Generator[str, None, None]:
        """Yield the lines of an answer that does not end, as they come.

        Raises:
            Refused: the hub has refused it.
            Unreachable: there is no answer, or it ended on the way.
        """
        response = self._sent("GET", path, None, None, headers, read_seconds_max=read_seconds_max)
        try:
            if response.status != 200:
                self._good(_read(response, self.place.url))
                raise Unreachable(f"{self.place.url} answered {response.status} where a stream was expected")
            yield from _lines(response)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"{self.place.url}: {reason_of(error)}") from error
        finally:
            response.close()

    def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None,
        given: tuple[bytes, str] | None,
        headers: Mapping[str, str],
        *,
        is_binary: bool,
    ) -> Answer:
        response = self._sent(method, path, query, given, headers, read_seconds_max=READ_SECONDS_MAX)
        try:
            return _read(response, self.place.url, is_binary=is_binary)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"{self.place.url}: {reason_of(error)}") from error
        finally:
            response.release_conn()

    def _sent(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None,
        given: tuple[bytes, str] | None,
        headers: Mapping[str, str],
        *,
        read_seconds_max: float,
    ) -> urllib3.BaseHTTPResponse:
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        url = f"{self.place.url}{PREFIX}{path}" + (f"?{urlencode(asked)}" if asked else "")
        own = {"authorization": f"Bearer {self.place.token}", "user-agent": "fleetcast", "accept": "*/*", "accept-encoding": "identity"}
        if given is not None:
            own["content-type"] = given[1]
        try:
            return self._pool.request(
                method,
                url,
                body=given[0] if given is not None else None,
                headers={**own, **self._words, **headers},
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS_MAX, read=read_seconds_max),
                redirect=False,
                retries=False,
                preload_content=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"{self.place.url}: {reason_of(error)}") from error

    def _good(self, answer: Answer) -> Answer:
        """Return an answer that is no refusal.

        Raises:
            Refused: the hub has refused the request.
            Unreachable: the hub cannot work, or it is no hub.
        """
        if 200 <= answer.status < 300:
            return answer
        raise error_of(answer, self.place.url)


def error_of(answer: Answer, url: str) -> FleetcastError:
    """Return a refusal of the hub as our own error, as a command on the fleet's folder raises it."""
    problem = answer.value if isinstance(answer.value, dict) else {}
    code, detail = problem.get("code"), problem.get("detail")
    text = (
        detail[:DETAIL_CHARACTERS_MAX] if isinstance(detail, str) else f"{url} answered {answer.status}, which is no answer of a hub's API"
    )
    if 300 <= answer.status < 400:
        return Refused(Code.SETTINGS_INVALID, f"{url} answered {answer.status}: redirects are not followed, give the hub's own address")
    if isinstance(code, str) and code in CODES:
        return RefusedInPlaces(Code(code), text, _mistakes(problem.get("errors"))) if problem.get("errors") else Refused(Code(code), text)
    if isinstance(code, str) and code != "hub.failed":  # A newer hub has codes that this client does not know.
        return Refused(Code.REQUEST_INVALID, f"{text} ({code[:80]})")
    return Unreachable(text)


def _mistakes(errors: object) -> tuple[str, ...]:
    """Return the mistakes that a problem names."""
    found = [one for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
    return tuple(f"{one.get('where')}: {one.get('reason')}"[:DETAIL_CHARACTERS_MAX] for one in found[:ERRORS_MAX])


def reason_of(error: urllib3.exceptions.HTTPError) -> str:
    """Return why a request failed, in words for a person."""
    cause = error.__cause__ or error.__context__
    if isinstance(error, urllib3.exceptions.SSLError):
        return _reason_of_tls(error.args[0] if error.args else error)
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return f"{str(error).rsplit('] ', 1)[-1].lower()}; is the hub running there?"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return "the connection ended before the answer was whole"


def _reason_of_tls(error: object) -> str:
    reason = getattr(error, "reason", None)
    if (why := getattr(error, "verify_message", None)) is not None:
        return f"{why}; the option --ca-file, or FLEETCAST_CA_FILE, names the authority of the hub's certificate"
    if reason in NO_TLS:
        return "what answers there does not speak TLS; is the hub's address one with http://, or its port another one?"
    return f"the TLS handshake failed ({reason or error})"


def _content(body: object, raw: bytes | None, raw_kind: str) -> tuple[bytes, str] | None:
    if raw is not None:
        return raw, raw_kind
    return (json.dumps(body, allow_nan=False).encode(), "application/json") if body is not None else None


def _read(response: urllib3.BaseHTTPResponse, url: str, *, is_binary: bool = False) -> Answer:
    """Read an answer within its bound.

    Raises:
        NoAnswerOfHub: it is larger than any that a hub gives, or no JSON.
    """
    content = bytearray()
    for part in response.stream(64 * 1024, decode_content=False):
        content += part
        if len(content) > ANSWER_BYTES_MAX:
            response.close()
            raise NoAnswerOfHub(f"{url} answered with more than {ANSWER_BYTES_MAX} bytes, which no hub does")
    headers = {name.lower(): value for name, value in response.headers.items()}
    kind = headers.get("content-type", "").partition(";")[0].strip()
    if is_binary and response.status == 200 and kind == BINARY:
        return Answer(200, bytes(content), headers)
    try:
        is_json = kind in {"application/json", "application/problem+json"}
        value = json.loads(content) if content and is_json else None
    except (ValueError, RecursionError):
        raise NoAnswerOfHub(f"{url} answered {response.status} with what is no JSON") from None
    if content and not is_json and 200 <= response.status < 300:
        raise NoAnswerOfHub(f"{url} answered {kind[:80] or 'something'} where JSON was expected: is it a hub?")
    return Answer(int(response.status), value, headers)


def _retry_after(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdigit() and len(text) < 7 else 0.0


def _context(place: HubPlace) -> ssl.SSLContext | None:
    if not place.url.startswith("https:"):
        return None
    try:
        context = ssl.create_default_context(cafile=str(place.ca_file) if place.ca_file is not None else None)
    except OSError as error:  # An SSLError is an OSError, too.
        reason = getattr(error, "strerror", None) or "it holds no certificate in PEM"
        raise Refused(Code.SETTINGS_INVALID, f"CA file {place.ca_file}: {reason}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[str]:
    kept = bytearray()
    while True:
        part = response.read1(64 * KIB)
        if not part:
            return
        kept += part
        *whole, rest = kept.split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r").decode(errors="replace")
        kept = bytearray(rest)
        if len(kept) > LINE_BYTES_MAX:
            raise Unreachable(f"an event has a line of more than {LINE_BYTES_MAX} bytes, which no hub sends")
