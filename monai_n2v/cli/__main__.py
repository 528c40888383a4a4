# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_n2v.cli``."""

import sys

from monai_n2v.cli.main import main

sys.exit(main())
