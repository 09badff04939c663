"""Tell a request that the release before would have taken from one that was always wrong. Looks at a request's form, and runs nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from node.core.inference.oip import parse_request
from node.core.inference.tensors import Raw, Spec
from schemas.errors import Refused


@dataclass(frozen=True, slots=True)
class FormerRelease:
    """Describe what the release that served before took and gave; `fed` are the inputs that a request could leave out."""

    digest: bytes
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    fed: Mapping[str, Raw]

    def takes(self, body: bytes, header_bytes: int | None) -> bool:
        """Return whether this request was right in form for that release."""
        try:
            parse_request(body, header_bytes=header_bytes, inputs=self.inputs, outputs=self.outputs, fed=self.fed)
        except Refused:
            return False
        return True
