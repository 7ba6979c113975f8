"""How many rows and tokens a pass over a model takes at once: numbers that its code and the memory plan share."""

from __future__ import annotations

# Rows of logits alive at once in a loss, unless the plan chooses fewer.
DEFAULT_CHUNK_ROWS = 256
# A lazy graph is dispatched ahead of what has run, so that this many chunks are alive at once. Each gets its share of
# the rows above, but no fewer than a matrix product needs to be fast.
CHUNKS_AHEAD, FEWEST_CHUNK_ROWS = 4, 16
# Supervised positions of a micro-batch are padded to a multiple of this.
PAD_TARGETS_TO = 32
# The most entries of one vector of the optimizer's update: from here on starting an operation costs little beside
# running it, and a longer vector would only raise the peak.
VECTOR_ENTRIES = 1 << 20
# Numbers of a weight that share a scale when it is quantised while it is read.
QUANTIZATION_GROUP = 64
# Prompts that are answered together, how many and how many tokens of them are read at once, and the step in which
# caches grow (mlx-lm's KVCache). While other answers are being written, fewer tokens are read at once: a reader waits
# for each pass.
ANSWERED_ROWS = 32
PREFILL_ROWS = 8
PREFILL_TOKENS = 8192
PREFILL_BESIDE_TOKENS = 512
CACHE_STEP_TOKENS = 256
# Rehearsal rows share micro-batches of this many padded tokens even beside shorter training rows: products of fewer are
# slow.
FEWEST_MICRO_TOKENS = 256
# Padded tokens that are scored at once where no gradient is needed.
SCORED_TOKENS = 2048
# Tokens with which all rows of a batch begin are computed once, in multiples of the first number, where that leaves out
# at least this share of the batch: an opening is read by matrix products of its own, which are small.
OPENING_STEP, LEAST_SHARED = 8, 1 / 16
# Rows of a batch on which a guard measures.
MEASURED_ROWS = 8
# Softmax attention on CPUs (models/causal_attention.py): longer rows keep no probabilities for the backward pass, which
# computes those of one span of queries after the other. Its memory then grows with the length, not with its square.
LONGEST_KEPT, ATTENTION_SPAN = 512, 256
# Linear attention (models/gated_delta.py): tokens in one set of matrix products. Measured on CPU: with 64 a step takes
# a fifth longer, with 16 as long as with 32.
CHUNK_TOKENS = 32
# Linear attention: tokens worked on at once; one memory in as many tokens is kept for the backward pass.
SPAN_TOKENS = 256
