"""`python -m gateway`."""

from __future__ import annotations

import sys

from gateway.main import main

sys.exit(main())
