# SPDX-License-Identifier: Apache-2.0
"""Other programs on our tasks, each run in a virtual environment of its own."""
