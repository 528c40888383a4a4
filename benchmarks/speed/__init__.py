# SPDX-License-Identifier: Apache-2.0
"""Quality per second: what limits it, what the defaults are chosen by, and how it compares."""
