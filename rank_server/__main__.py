from __future__ import annotations

import sys

from rank_server.main import main

sys.exit(main())
