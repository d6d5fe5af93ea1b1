from __future__ import annotations

import sys

from recall_server.main import main

sys.exit(main())
