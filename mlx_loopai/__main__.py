"""`python -m mlx_loopai` is the command `mlx-loopai`."""

from __future__ import annotations

import sys

from mlx_loopai.cli.main import main

sys.exit(main())
