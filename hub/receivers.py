"""Whom a hub tells of alerts, as `fleet.toml` says it: webhooks, and what is to be done when drift is found. Parsed, and nothing opened."""

from typing import Annotated, Self, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.insight import Alert
from schemas.names import Label, ModelName

RECEIVERS_MAX = 16  # of each kind: every one has a thread and connections of its own
KINDS: tuple[str, ...] = get_args(Alert.model_fields["kind"].annotation)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Webhook(_Table):
    """`[[webhooks]]`: alerts as HTTP POSTs, signed as Standard Webhooks has it."""

    url: Annotated[str, Field(min_length=1, max_length=2048)]
    secret_file: Annotated[str, Field(min_length=1)]  # its first line: `whsec_` and base64, or plain text of 24 characters and more
    name: Label | None = None  # under which its place in the log is kept; the URL's host where it is not given
    kinds: Annotated[tuple[str, ...], Field(max_length=32)] = ()  # of alerts; empty: all
    models: Annotated[tuple[ModelName, ...], Field(max_length=1000)] = ()  # empty: all, and what concerns no model
    ca_file: str = ""  # the authority of its certificate, where it is none that the system knows
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        return check_url(url)

    @field_validator("kinds")
    @classmethod
    def _are_kinds(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise ValueError(f"there is no kind of alert {', '.join(unknown)}; there are {', '.join(KINDS)}")
        return kinds

    @property
    def receiver(self) -> str:
        """Its name in the outbox."""
        return f"webhook {self.name or urlsplit(self.url).hostname}"

    def wants(self, alert: Alert) -> bool:
        """Whether it is told of this."""
        return (not self.kinds or alert.kind in self.kinds) and (not self.models or alert.model in self.models)


class OnDrift(_Table):
    """`[[on_drift]]`: what is done once for every drift that is found: a command with the evidence on stdin, or a webhook with it."""

    name: Label
    models: Annotated[tuple[ModelName, ...], Field(max_length=1000)] = ()  # empty: all
    command: Annotated[tuple[str, ...], Field(max_length=64)] = ()  # program and arguments; no shell
    environment: Annotated[dict[str, str], Field(max_length=64)] = Field(default_factory=dict)  # besides the little that it always gets
    url: str = ""
    secret_file: str = ""
    ca_file: str = ""
    timeout_seconds: Annotated[float, Field(gt=0, le=7 * 86_400)] = 3600.0  # of the command; of a webhook 10 s at the most
    gather_seconds: Annotated[float, Field(ge=0, le=86_400)] = (
        60.0  # drift of one model in many cohorts is one run, where it comes within this
    )

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
        """Its name in the outbox."""
        return f"on_drift {self.name}"

    def wants(self, alert: Alert) -> bool:
        """Whether it is drift that has just been found."""
        return alert.kind == "drift" and alert.model is not None and (not self.models or alert.model in self.models)


def check_url(url: str) -> str:
    """The URL again.

    Raises:
        ValueError: it is no http or https URL, or carries a password.
    """
    found = urlsplit(url)
    if found.scheme not in {"http", "https"} or not found.hostname:
        raise ValueError(f"{url!r} must look like https://alerts.example/hook")
    if found.username is not None or found.password is not None:
        raise ValueError("a password does not belong into a url: the receiver tells us by the signature")
    return url
