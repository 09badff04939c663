"""Parse the receivers of alerts in `fleet.toml`: webhooks, and hooks that run when drift is found. Opens nothing."""

from typing import Annotated, Self, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.analytics_messages import Alert
from schemas.names import Label, ModelName

RECEIVERS_MAX = 16  # Number of each kind: each receiver has a thread and connections of its own.
KINDS: tuple[str, ...] = get_args(Alert.model_fields["kind"].annotation)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Webhook(_Table):
    """Send alerts to a receiver by HTTP POST, signed as Standard Webhooks specifies."""

    url: Annotated[str, Field(min_length=1, max_length=2048)]  # URL that receives each alert as an HTTP POST.
    # File whose first line signs the POSTs: `whsec_` and base64, or text of at least 24 characters.
    secret_file: Annotated[str, Field(min_length=1)]
    name: Label | None = None  # Name under which the hub remembers what it has delivered. The default is the URL's host.
    kinds: Annotated[tuple[str, ...], Field(max_length=32)] = ()  # Kinds of alerts to send. Empty sends all.
    # Models whose alerts are sent. Empty sends all, and alerts that concern no model.
    models: Annotated[tuple[ModelName, ...], Field(max_length=1000)] = ()
    ca_file: str = ""  # Certificate authority of the URL's host, where the system does not know it: a PEM file.
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0  # A POST that is not answered in this time has failed, and is tried again.

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        return check_url(url)

    @field_validator("kinds")
    @classmethod
    def _are_kinds(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise ValueError(f"unknown kind of alert: {', '.join(unknown)}; known kinds: {', '.join(KINDS)}")
        return kinds

    @property
    def receiver(self) -> str:
        """Return its name in the outbox."""
        return f"webhook {self.name or urlsplit(self.url).hostname}"

    def wants(self, alert: Alert) -> bool:
        """Return whether it receives this alert."""
        return (not self.kinds or alert.kind in self.kinds) and (not self.models or alert.model in self.models)


class OnDrift(_Table):
    """Call a hook once for each drift: a command that reads the evidence from stdin, or a URL that receives it."""

    name: Label  # Name of the hook, in events and in the folder `on_drift/`.
    models: Annotated[tuple[ModelName, ...], Field(max_length=1000)] = ()  # Models whose drift calls the hook. Empty means all.
    # Program and its arguments; no shell is involved. It reads the evidence as JSON from stdin.
    command: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    # Variables for the program's environment, besides the few that it always gets.
    environment: Annotated[dict[str, str], Field(max_length=64)] = Field(default_factory=dict)
    url: str = ""  # URL that receives the evidence as an HTTP POST, instead of a command.
    secret_file: str = ""  # File whose first line signs the POSTs. A `url` needs one.
    ca_file: str = ""  # Certificate authority of the URL's host, where the system does not know it: a PEM file.
    # A command that runs longer is ended. A POST gets at most 10 seconds.
    timeout_seconds: Annotated[float, Field(gt=0, le=7 * 86_400)] = 3600.0
    # Drifts of one model within this time, in any number of cohorts, cause one call.
    gather_seconds: Annotated[float, Field(ge=0, le=86_400)] = 60.0

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if bool(self.command) == bool(self.url):
            raise ValueError("give either a command or a url")
        if self.command and not self.command[0]:
            raise ValueError("the command names no program")
        if self.url:
            check_url(self.url)
            if not self.secret_file:
                raise ValueError("a url needs a secret_file")
        return self

    @property
    def receiver(self) -> str:
        """Return its name in the outbox."""
        return f"on_drift {self.name}"

    def wants(self, alert: Alert) -> bool:
        """Return whether the alert is a drift that has just been found."""
        return alert.kind == "drift" and alert.model is not None and (not self.models or alert.model in self.models)


def check_url(url: str) -> str:
    """Return the URL unchanged.

    Raises:
        ValueError: it is not an http or https URL, or carries a password.
    """
    found = urlsplit(url)
    if found.scheme not in {"http", "https"} or not found.hostname:
        raise ValueError(f"{url!r} must look like https://alerts.example/hook")
    if found.username is not None or found.password is not None:
        raise ValueError("remove the password from the url: the receiver recognises the hub by its signature")
    return url
