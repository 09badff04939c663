"""What crosses the wire between a hub and its nodes, and nothing else. Imports nothing of ours.

Read it in this order, which is the order a release travels in:

1. `errors`: whose fault an error is, and the closed list of codes that reports carry.
2. `limits`: a named bound, with its reason, for everything that is not yet trusted.
3. `names` and `document`: identifiers, digests and the frozen base of every message.
4. `codec`: canonical msgpack; the only door through which bytes become documents.
5. `topics`: the only source of topic names, and of the access-control list made from them.
6. `manifest`, `rollout`, `bundle`: what the hub says. `want`, `state`, `receipt`, `window`: what nodes say.
7. `insight`: what analytics consumers read, in JSON.
8. `encoding`: how a payload becomes a block again. `mqtt`: one MQTT 5 connection, as this fleet speaks it.
"""
