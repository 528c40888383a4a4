# SPDX-License-Identifier: Apache-2.0
"""Scripts that measure what README and docs claim."""
