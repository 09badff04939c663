"""Explain each code to an operator: what is wrong, and how to mend it. `docs/protocol.md` is drawn from it."""

from typing import Final

from schemas.errors import Code

MEANINGS: Final[dict[Code, tuple[str, str]]] = {
    Code.SCHEMA_MALFORMED: (
        "a message or file does not match its schema",
        "find the program that wrote it; hub and nodes may run different versions",
    ),
    Code.SCHEMA_TOO_LARGE: ("a message, request or answer is larger than its bound", "send less, or send it as binary data"),
    Code.SCHEMA_UNSUPPORTED: ("a document has a version that this software does not know", "update the older side"),
    Code.TRUST_SIGNATURE: (
        "metadata has too few valid signatures by the keys that may sign it",
        "find out who put it on the broker",
    ),
    Code.TRUST_ROLLBACK: (
        "metadata or a rollout is older than the trusted one",
        "find out who replays it; if the hub was restored from a backup, restore a newer one",
    ),
    Code.TRUST_EXPIRED: ("metadata has expired", "start the hub, which renews its own roles, or renew the offline roles"),
    Code.TRUST_MISMATCH: ("two pieces of metadata contradict each other", "wait for the next bundle; if the error remains, check the hub"),
    Code.TRUST_INCOMPLETE: ("a piece of metadata is missing", "wait for the next bundle; if the error remains, check the hub"),
    Code.TRUST_NOT_LISTED: (
        "the broker has a release that the trusted metadata does not list",
        "publish the release, or find out who put it there",
    ),
    Code.CLOCK_UNKNOWN: (
        "the device's clock is behind a time that has certainly passed",
        "set the clock; models keep serving meanwhile",
    ),
    Code.BLOCK_DIGEST: (
        "a payload does not have the digest that its topic names",
        "nothing: the node requests it again; if the error remains, check the broker",
    ),
    Code.BLOCK_DECODE: ("a payload cannot be decoded to its block", "publish the release again"),
    Code.BLOCK_TOO_LARGE: ("a payload is larger than declared, or than the broker accepts", "publish with smaller blocks"),
    Code.BLOCK_TIMEOUT: (
        "blocks were requested several times and did not arrive",
        "check that the hub runs and its block store is undamaged",
    ),
    Code.BLOCK_PARENT: (
        "the parent of a delta is not the block that the delta names",
        "nothing: the node fetches the whole block if the budget allows it",
    ),
    Code.BLOCKS_SLOW: (
        "the object store of blocks takes long for a block, or a request to it waits for long",
        "check the object store and the way to it; what the hub's folder has is served as before, and the rest as fast as it comes",
    ),
    Code.BLOCKS_UNREACHABLE: (
        "the object store of blocks does not answer the hub, or lets it in no more",
        "check the object store, the way to it and the hub's credentials; blocks are served again by themselves",
    ),
    Code.ARTIFACT_DIGEST: (
        "a file on disk does not have the digest in the manifest",
        "check the disk; the node fetches missing blocks again",
    ),
    Code.ARTIFACT_PATH: ("a file's name leads outside its folder, or occurs twice", "rename the file and publish again"),
    Code.DISK_DAMAGED: (
        "a file of a release changed, vanished or cannot be read on the device's disk",
        "nothing: the node fetches it again; replace the disk if it happens again. No gate counts it against the release",
    ),
    Code.DISK_FULL: ("the disk has no room, or cannot be written", "free some room; waiting work continues by itself"),
    Code.DISK_QUOTA: ("releases would take more of the disk than the settings allow", "raise disk_bytes_max, or publish a smaller variant"),
    Code.STORE_DAMAGED: (
        "a device's database is damaged",
        "nothing: the node sets it aside and continues with its other files; check the disk",
    ),
    Code.DATABASE_DAMAGED: (
        "the hub's database is damaged",
        "check the disk, and restore the file that the reason names from a backup; nodes serve on meanwhile",
    ),
    Code.METADATA_DAMAGED: (
        "a file of the hub's signed metadata is damaged, and so is its copy",
        "check the disk, and restore the file that the reason names from a backup",
    ),
    Code.BUDGET_DAY: ("the day's byte budget for this class of link is spent", "wait for tomorrow, or raise the budget"),
    Code.BUDGET_ROLLOUT: ("the rollout's byte budget for one node is spent", "start another rollout with a larger budget"),
    Code.BUDGET_HOURS: ("the settings allow no transfer at this hour", "wait for the allowed hours, or change them"),
    Code.BUDGET_FULL: (
        "the node lacks a delta's parent, and may not fetch the whole block instead",
        "allow full downloads, or import the release from a file",
    ),
    Code.PACKET_TOO_SMALL: ("the broker's limit for packets is too small", "raise the broker's limit, or publish with smaller blocks"),
    Code.RELEASE_NO_VARIANT: (
        "no variant of the release fits this device",
        "publish a variant that fits; the reason names what is missing",
    ),
    Code.RELEASE_CONFLICT: ("another release already has this name and version", "publish it under another version"),
    Code.RELEASE_UNKNOWN: ("this model or release does not exist here", "check the name; the reason lists the existing ones"),
    Code.RELEASE_UNCHECKED: (
        "the release has not passed the check that this fleet requires before a rollout",
        "run `fleetcast check` for the profiles that the reason names",
    ),
    Code.RELEASE_BREAKING: (
        "programs that use the release before would not work with this one",
        "publish a model that takes and gives the same, or add --breaking if this is intended",
    ),
    Code.RELEASE_NEEDED: (
        "a rollout names this release, or this model has one",
        "first roll another release out; --force removes it all the same",
    ),
    Code.RELEASE_TOO_OLD: (
        "the release is older than the oldest version that the targets key lets nodes activate",
        "roll a newer release out, or lower it: `fleetcast keys minimum`",
    ),
    Code.MODEL_LOAD: (
        "the runtime cannot load the model",
        "read the runtime's own reason: an opset, operator or provider that it lacks, or damage",
    ),
    Code.MODEL_RUN: ("the model fails on inputs that it should accept", "test it with the device's runtime: `fleetcast check`"),
    Code.MODEL_SIGNATURE: ("inputs, outputs or shapes differ from the manifest's", "publish a new release from this model"),
    Code.MODEL_GOLDEN: (
        "the model's outputs on the golden inputs differ from the publisher's",
        "publish a variant for this device, or wider tolerances",
    ),
    Code.MODEL_TOO_SLOW: (
        "the median request takes longer than the release allows",
        "use a smaller variant or more threads, or publish a wider limit",
    ),
    Code.MODEL_TOO_LARGE: ("the model needs more memory than the release allows", "use a smaller variant, or publish a wider limit"),
    Code.MODEL_EXTERNAL_DATA: ("the model's weights are outside its own folder", "put the weights beside the model and publish again"),
    Code.MODEL_NOT_FINITE: ("the model answers with NaN or infinity", "check the model; fp16 overflows where fp32 does not"),
    Code.RUNTIME_ABSENT: (
        "the variant's runtime is not installed, or lacks a shared library of the system",
        "install the extra (llm, litert), the third party's package, or the Debian package that the reason names",
    ),
    Code.VARIANT_FAILED: ("a variant could not be built", "read the build tool's own reason; change the build, or omit it"),
    Code.VARIANT_LOSS: ("a variant loses more accuracy than allowed", "calibrate it with more data, or omit it"),
    Code.PARAMETER_BOUNDS: (
        "the release does not allow this value of a parameter",
        "choose a value within the bounds that the reason names",
    ),
    Code.PARAMETER_UNKNOWN: ("the release has no parameter of this name", "check the name; the reason lists the existing ones"),
    Code.WORKER_CRASHED: (
        "the process that runs the model ended unexpectedly",
        "the reason names the signal; SIGKILL usually means out of memory",
    ),
    Code.WORKER_HUNG: ("the process that runs the model did not answer in time", "use a smaller model, or publish a wider latency limit"),
    Code.SHADOW_DISAGREES: (
        "the new release disagrees with the old one more often than allowed",
        "if the change is intended, publish it with a lower agreement",
    ),
    Code.PROBATION_ERRORS: ("too many requests failed while the release was on probation", "read the node's log"),
    Code.PROBATION_LATENCY: (
        "requests took too long while the release was on probation",
        "use a smaller variant, or publish a wider limit",
    ),
    Code.PROBATION_CUT: (
        "the device ended abruptly several times while the release was on probation",
        "look whether the release takes too much memory or power there; roll it out again where it was the site's power",
    ),
    Code.REQUEST_INVALID: (
        "a local program's request does not fit the model",
        "correct the request; the reason names what was expected and found",
    ),
    Code.REQUEST_FOREIGN: (
        "a local request may come from a web page of another site, by its Host or Origin",
        "if it is legitimate, add the name to `allowed_hosts`, or the page's origin to `allowed_origins`",
    ),
    Code.REQUEST_CONTENT_TYPE: (
        "a local request's body has a type that a form of any web page can send",
        "send it as application/json, or as application/octet-stream if it is binary",
    ),
    Code.REQUEST_TOKEN: (
        "a request to the hub's API has no token, or one that is unknown, expired or revoked",
        "send Authorization: Bearer TOKEN; `fleetcast tokens make` makes a token, `fleetcast tokens list` shows which are good",
    ),
    Code.REQUEST_ROLE: (
        "the role of a token does not allow what was asked of the hub's API",
        "ask somebody whose token has the role that the message names, or have `fleetcast tokens make` make one",
    ),
    Code.REQUEST_UNKNOWN: (
        "there is nothing of this name, such as a deployment or a token, or the hub's API does not take this method here",
        "compare the name with the list from which it came; docs/api.md describes the addresses of the API",
    ),
    Code.REQUEST_STALE: (
        "what was to be changed has changed since it was looked at",
        "read it again, and repeat the request with its new ETag if it still holds",
    ),
    Code.REQUEST_REPEATED: (
        "an Idempotency-Key was used again for another request",
        "use a new key for a new request, and the same one only to repeat a request",
    ),
    Code.REQUEST_CROWDED: (
        "too many requests with bad tokens came from this address, or too many event streams are open",
        "wait as long as Retry-After says",
    ),
    Code.REFERENCE_INVALID: (
        "the publisher's reference data does not fit the model",
        "correct the data; the reason names the column and row",
    ),
    Code.GOLDEN_INVALID: ("the golden inputs do not fit the model", "correct them; the reason names what was expected and found"),
    Code.KEY_UNREADABLE: ("a key file cannot be read", "check its path and mode"),
    Code.KEY_PASSPHRASE: ("the passphrase does not open the key", "give the right passphrase"),
    Code.KEY_NOT_AUTHORISED: (
        "this key may not sign this",
        "use the key of the team or role; copy a key that the hub signs with to each machine with a hub (docs/scaling.md)",
    ),
    Code.NAME_INVALID: (
        "a name is reserved, or has a length or characters that are not allowed",
        "use letters a-z, digits and hyphens",
    ),
    Code.NAME_TAKEN: ("something else has this name", "choose another name, or remove what has it; the reason says how"),
    Code.BLUEPRINT_INVALID: (
        "a blueprint is wrong, or names what the fleet does not have",
        "correct the line that the message names; docs/blueprint.md describes every key",
    ),
    Code.BLUEPRINT_BUSY: (
        "another blueprint is being applied to this fleet",
        "wait until it is done, look at the difference again, and apply yours then",
    ),
    Code.BLUEPRINT_HELD: (
        "something speaks against a change that a blueprint asks for, and nothing was changed",
        "the message names the change and what would let it through; `fleetcast diff` shows all of them",
    ),
    Code.ROLLOUT_TAKEN_BACK: (
        "an operator took a release back, and the node had none before it",
        "nothing; roll out a release to serve again",
    ),
    Code.ROLLOUT_INVALID: ("a rollout asks for something impossible", "correct the rollout; the reason says what is impossible"),
    Code.WINDOW_RELEASE: (
        "a window is about a release that is unknown or has no signals",
        "find the node that sends it",
    ),
    Code.WINDOW_SHAPE: (
        "a window has other bins or another interval than its release",
        "check the versions of node and hub, which may differ",
    ),
    Code.WINDOW_ABSURD: ("a window has counts that neither rows nor noise can explain", "look for a broken or hostile node"),
    Code.WINDOW_FUTURE: ("a window is dated in the future", "check the nodes' clocks"),
    Code.WINDOW_PAST: (
        "a window is older than any honest node can hold it",
        "check the node's clock and `event_time`; raise `window_age_days_max` in fleet.toml to replay old data",
    ),
    Code.WINDOW_COHORT: (
        "windows came of a cohort that no enrolment, setting or node's state names",
        "find out who sends them; to let the cohort in, set it for a node: `fleetcast nodes set NODE cohort=NAME`",
    ),
    Code.WINDOW_OVERWEIGHT: (
        "a window has more rows than one node may contribute, or than its own baseline supports",
        "raise `window_rows_max` if your nodes are this busy; `fleetcast-node telemetry recalibrate` if the baseline is too small",
    ),
    Code.WINDOW_OUTLIER: ("a random sub-group of a cohort's windows differs from the rest", "look for a broken or hostile node"),
    Code.WINDOW_ACCURACY: (
        "a window has right and wrong answers, but its release has no reference for them",
        "find the node that sends it; `fleetcast publish --accuracy-truth` adds a reference",
    ),
    Code.LABELS_RELEASE: (
        "labels name a release that this node did not serve, or that has no reference for right and wrong answers",
        "name the version that answered; the publisher adds the reference",
    ),
    Code.LABELS_FUTURE: ("labels are dated in the future", "check the program's clock and time zone"),
    Code.LABELS_OLD: ("labels are older than the node's records", "send labels within 400 days"),
    Code.LABELS_CLOSED: (
        "labels belong to an interval whose counts have already left the node, which happens once",
        "send the labels of an interval together, or raise `labels_wait_seconds`",
    ),
    Code.LABELS_EXCESS: (
        "there are more labels than the release gave answers here in that interval",
        "check the time, the time zone and the version; each answer counts once",
    ),
    Code.ROWS_NOT_FINITE: ("a row had NaN or infinity and was counted as other", "check the sensor or the program that sends requests"),
    Code.ROWS_UNSEEN: ("a row had a category that the reference lacks and was counted as other", "publish a newer reference"),
    Code.ROWS_DATATYPE: (
        "a row had texts instead of numbers, or the reverse, and was counted as other",
        "check the runtime",
    ),
    Code.ROWS_SHAPE: ("a row had another width than the signals; missing values were counted as other", "check the runtime"),
    Code.ROWS_LATE: ("rows arrived after their interval was closed and are not counted", "raise `grace_seconds`"),
    Code.ROWS_FUTURE: ("rows are dated in the future and are not counted", "check the program's clock"),
    Code.LEDGER_SPENT: (
        "the day's privacy budget is spent, so no more windows leave the node",
        "wait a day; or publish longer windows or fewer signals",
    ),
    Code.LEDGER_TAMPERED: ("the privacy ledger was changed, so no window leaves for a day", "find out who changed it"),
    Code.LEDGER_ROLLED_BACK: (
        "the privacy ledger is older than its witness, so no window leaves for a day",
        "do not restore old copies of the ledger",
    ),
    Code.RECEIPT_SIGNATURE: ("a receipt was not signed by its node's key", "find out who forges it"),
    Code.RECEIPT_UNKNOWN_NODE: (
        "a receipt comes from a node that has not reported its key",
        "the hub keeps it for a minute; if the error remains, check the node",
    ),
    Code.RECEIPT_KEY_CHANGED: ("a node uses another key than before", "enrol it again if the device was replaced"),
    Code.INBOX_FLOODED: (
        "one sender sent more than the hub could process, and its oldest messages were dropped",
        "check what the named node or cohort sends; `fleetcast enroll revoke` excludes a node",
    ),
    Code.ENROLMENT_TOKEN: ("an enrolment token is unknown, used or expired", "make a new token on the hub"),
    Code.ENROLMENT_PIN: (
        "the hub that answered is not the one that the token names",
        "check the address; another machine may intercept the connection",
    ),
    Code.ENROLMENT_REQUEST: (
        "a certificate request is invalid, or not this device's",
        "try again; the reason says what is wrong",
    ),
    Code.ENROLMENT_REVOKED: ("the node was revoked", "if that was a mistake, enrol it again"),
    Code.ENROLMENT_CROWDED: (
        "the enrolment port has more connections than the hub accepts, so the oldest were closed",
        "find the clients that connect without a request; block them with a firewall",
    ),
    Code.CERTIFICATE_INVALID: (
        "a certificate is expired, not yet valid, or of another key or authority",
        "renew it; `fleetcast-node doctor` names the cause",
    ),
    Code.SETTINGS_INVALID: ("a setting is missing, unknown or out of bounds", "correct the field and file that the reason names"),
    Code.SELECTOR_INVALID: (
        "a selector is not in its syntax, or too long",
        "write it such as site=jfk,tier!=lab; docs/operations.md has all forms",
    ),
    Code.WINDOW_INVALID: ("a time of the week is not in its syntax, or never opens", "write it such as Mon-Fri 22:00-05:00"),
    Code.WINDOW_CLOSED: (
        "the release waits for the time of the week in which the rollout lets it be activated",
        "nothing; it goes on when the window opens",
    ),
    Code.PORT_IN_USE: ("another program listens on this port", "stop that program, or choose another port"),
    Code.NODE_RUNNING: ("another agent runs on this data folder", "stop it, or give each node its own folder"),
    Code.NODE_DUPLICATE: (
        "two devices use one node's name and key, and end each other's connections",
        "find the copy of the node's folder; give that device a folder, a name and a key of its own",
    ),
    Code.HUB_RUNNING: ("another hub runs in this folder", "use that one, or end it first; the message names its process"),
    Code.HUB_DUPLICATE: (
        "two hubs of one fleet seem to run, and end each other's connections",
        "stop the hub on the host that the fleet has left; docs/operations.md, Move a fleet to another host",
    ),
    Code.BROKER_SHARED: (
        "two fleets use one broker without certificates, and their hubs the same client id",
        "nothing where the alert names a new client id, else a broker for each fleet; docs/brokers.md, Two fleets on one broker",
    ),
    Code.SHARD_GAP: (
        "no process of the hub takes in what some nodes report",
        "start the process that is missing; `fleetcast hubs` lists those that run; docs/scaling.md",
    ),
    Code.SHARD_OVERLAP: (
        "two processes of the hub take in what the same nodes report",
        "give each process its own shard, and all the same number of parts; docs/scaling.md",
    ),
    Code.ROLE_MISSING: (
        "no process of the hub has a role whose work is to be done",
        "start a process with the role that the reason names; `fleetcast hubs` lists those that run; docs/scaling.md",
    ),
    Code.LEADER_CLOCK: (
        "the clock of a hub's machine differs from its database's, so that it may not lead",
        "set both clocks, by NTP or the like",
    ),
    Code.CLOCK_STEPPED: (
        "the clock of the hub's machine was set by more than a day, or makes no sense at the start; the hub goes on by its own count for a"
        " while",
        "set the clock right, by NTP or the like; docs/security.md, Clock",
    ),
    Code.NODE_ENROLLED: (
        "a device is enrolled under this name already",
        "choose another name, or have the new device replace that one: `fleetcast enroll token --node NODE --replace`",
    ),
    Code.NODE_FORGOTTEN: (
        "a node that was forgotten still speaks",
        "stop that device; or admit it again with `fleetcast nodes replace`",
    ),
    Code.NODE_UNKNOWN: (
        "no node of this name has reported to the hub, or was enrolled",
        "compare the name with `fleetcast nodes`; a new device is listed when it has reported",
    ),
}
