"""Define what crosses the wire between a hub and its nodes, and nothing else. Imports nothing of ours.

Read it in this order, which is the order a release travels in:

1. `errors`: the two kinds of error, and the closed list of codes that reports carry.
2. `limits`: a named bound, with its reason, for everything that is not yet trusted.
3. `names` and `document`: identifiers, digests and the frozen base class of every message.
4. `codec`: canonical msgpack; bytes become documents only here.
5. `topics`: the table of topic names, and the access-control lists made from it.
6. `manifest`, `rollout`, `bundle`: messages of the hub. `block_request`, `state`, `receipt`, `window`: messages of nodes.
7. `analytics_messages`: messages for analytics consumers, in JSON.
8. `encoding`: how a payload becomes a block again.
"""
