"""The API of a hub: `/api/v1` over HTTP."""
