"""Writers: a checkpoint streamed, block by block, into the files that another program opens.

`mlx` and `huggingface` fill a folder, `gguf` writes one file.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int], None]
"""Called with the number of bytes that were handled since the last call."""
