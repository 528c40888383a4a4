# SPDX-License-Identifier: Apache-2.0
"""The command ``monai-n2v``."""
