"""The running hub: one loop over one inbox. The only place that knows all of the hub's shells.

`loop` owns the inbox and the connection, `embedded` the broker that comes with the hub. `announce` says what was signed and `guard` tells
what is wrong with what others say in its place; `releases` knows which releases there are and `blocks` serves wants for them; `ingest`
takes in what nodes say and `settle` tests their intervals; `controller` moves rollouts; `notes` is where all of them put what happened.
"""

from hub.service.announce import Signers
from hub.service.loop import Service, database_url

__all__ = ["Service", "Signers", "database_url"]
