"""Counts and times, as every document has them. Builds no model, so that a document imports only what it says."""

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[int, Field(ge=0, le=2**40)]  # since 1970, UTC
