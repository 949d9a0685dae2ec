"""Names and numbers of store format 2. `docs/store-format.md` is the same in prose.

A store is a folder:

    manifest.json            what the store is and which files it consists of; written last, always whole
    manifest.next.json       the same of a generation that is being made beside it, to take its place at once
    segments/*.h5            sealed segments: token vectors and what belongs to them, never written to again
    segments/*.ids.h5        the id index of a generation: which document lies where; derived, can be made again
    segments/*.codebook.h5   what a residual codec has learnt
    bm25/                    the embedded first stage, where there is one
    index/                   what finds documents by their vectors; derived, and no part of the format
    lock, commit.lock        held by the processes that write
"""

from __future__ import annotations

FORMAT = 2  # what is written; all earlier ones are read

# The last sentence of an error about a damaged file.
RESTORE = "Restore the store from a copy, or see what `colbert-rerank store repair` can save"
# The same where that can save nothing.
BEGIN_AGAIN = "No repair is possible: restore the store from a copy, or ingest again into a new folder"

MANIFEST = "manifest.json"
NEXT = "manifest.next.json"
SEGMENTS = "segments"
LOCK = "lock"  # shared by all who write, or held by one alone, for as long as they do
COMMIT_LOCK = "commit.lock"  # held while the manifest is replaced
BM25 = "bm25"
BM25_STATE = "state.json"  # in that folder, where an index is
TOKEN_INDEX = "index"
VERSIONS = "versions.npz"  # what `sync` has noted about the index; derived, and no part of the format

# Datasets of a segment of n documents and r token vectors, a row each.
VALUES = "values"  # [r, width of the codec], contiguous, aligned to ALIGNMENT unless all are smaller than a page
SKETCHES = "sketches"  # [r, width of the sketches' codec] uint8; missing where the store has none
ROW_COUNTS = "row_counts"  # [n] uint32
ID_LENGTHS = "id_lengths"  # [n] uint16, bytes
ID_BYTES = "id_bytes"  # [sum of lengths] uint8, UTF-8
CONTENT_HASHES = "content_hashes"  # [n, 16] uint8, BLAKE2b of the encoded text, zeros where unknown
FIELD_HASHES = "field_hashes"  # [n, 16] uint8, BLAKE2b of all fields as JSON, zeros where unknown
SEQ_NOS = "seq_nos"  # [n] int64, -1 where unknown
PRIMARY_TERMS = "primary_terms"  # [n] int64, -1 where unknown
BLOCK_CHECKSUMS = "block_checksums"  # [ceil(bytes of values / BLOCK)] uint64, XXH3-64
SKETCH_CHECKSUMS = "sketch_checksums"  # the same of the sketches
# Infinity where unknown:
MAX_ERRORS = "max_errors"  # [n] float32, the greatest |vector - decoded vector| in a document; missing for floats
SKETCH_ERRORS = "sketch_errors"  # [n] float32, the greatest |decoded value - decoded sketch| in a document
DELETED = "deleted"  # [n] uint8, 1 for a tombstone, which has no rows; missing where there is none

# Datasets of an id index over m live documents, sorted by ID_HASHES.
ID_HASHES = "id_hashes"  # [m] uint64, XXH3-64 of the id's bytes
SEGMENT_NUMBERS = "segment_numbers"  # [m] uint32, position in the manifest's list
ORDINALS = "ordinals"  # [m] uint32, position in the segment
ROW_STARTS = "row_starts"  # [m] uint64
# and ROW_COUNTS, ID_LENGTHS, ID_BYTES as above, in the order of the hashes

# Datasets of a codebook of K centroids and b bits a dimension.
CENTROIDS = "centroids"  # [K, d] float32
CUTOFFS = "cutoffs"  # [2^b - 1] float32, between the buckets of differences
WEIGHTS = "weights"  # [2^b] float32, the difference that a bucket stands for
UNIT_LENGTH = "unit_length"  # [1] uint8, 1 where decoded vectors are divided by their lengths

# On every dataset but VALUES and SKETCHES: XXH3-64 of its bytes, as an ASCII string of 16 hexadecimal digits.
CHECKSUM = "xxh3_64"

ALIGNMENT = 4096
BLOCK = 64 * 1024  # bytes of values under one checksum
UNIT_BYTES = 256 * 1024 * 1024  # values of one segment, unless one document alone is larger
ID_LIMIT = 512  # bytes; OpenSearch's own limit
