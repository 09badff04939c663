"""Bounds on everything that is not yet trusted, each with its reason. Sizes are bytes on the wire unless said otherwise."""

KIB = 1024
MIB = 1024 * KIB

BLOCK_BYTES_MAX = 120 * KIB  # a payload, its topic and properties fit the 128 KiB that the poorest brokers allow
PAYLOAD_BYTES_MAX = BLOCK_BYTES_MAX  # a publisher keeps no encoding that is larger than the block itself
PACKET_BYTES_MAX = 2 * MIB  # the largest document (a trust bundle) and its header; paho reads whatever a broker sends
MANIFEST_BYTES_MAX = 64 * KIB  # 500 blocks fit inline; beyond that the block list is an index of its own
INDEX_PART_BLOCKS_MAX = 1000  # entries of about 75 bytes: one part is one block
FILE_BYTES_MAX = 8 * 1024 * MIB  # hundreds of millions of parameters in float32, with room
FILES_PER_VARIANT_MAX = 64  # graph, external data, tokenizer, labels
VARIANTS_MAX = 16
SIGNALS_MAX = 64  # sigma grows with the square root of their number; beyond this nothing is seen through the noise
BINS_MAX = 32  # the noise term scales with the bins; 8 is the default
CATEGORIES_MAX = 31  # bins without the "other" bin
TENSORS_MAX = 64
TENSOR_RANK_MAX = 8
ROLLOUT_BYTES_MAX = 16 * KIB
STAGES_MAX = 32
LABELS_MAX = 32
TRUST_BUNDLE_BYTES_MAX = 1 * MIB  # compressed; 1,000 delegated models with a key each are 81 KB
TRUST_BUNDLE_DECODED_BYTES_MAX = 8 * MIB  # 256 root versions of 5 KB and 1,000 delegations
TRUST_ROLE_BYTES_MAX = 1 * MIB  # one metadata file; 1,000 delegations are 400 KB
ROOTS_MAX = 1024  # python-tuf walks at most 256 in one refresh; a chain never forgets one
MODEL_BUNDLE_BYTES_MAX = 512 * KIB
MODEL_BUNDLE_DECODED_BYTES_MAX = 2 * MIB
MANIFESTS_PER_MODEL_MAX = 16  # the current ones: those that a rollout names and the newest
WANT_BYTES_MAX = 4 * KIB
WANT_RANGES_MAX = 256  # a window of 2 MiB is 18 blocks; fragmented ones stay far below this
STATE_BYTES_MAX = 16 * KIB
SLOTS_MAX = 32
RECEIPT_BYTES_MAX = 4 * KIB
WINDOW_BYTES_MAX = 12 * KIB  # 64 signals of 32 bins, every count escaped to 32 bits
WINDOW_ROWS_MAX = 100_000_000  # a node that saw more in one window is not believed
WINDOW_SECONDS_MAX = 31 * 24 * 3600
TEXT_MAX = 512  # a sentence in an error or a description
