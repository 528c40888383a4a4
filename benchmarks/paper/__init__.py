# SPDX-License-Identifier: Apache-2.0
"""The comparisons of Krull et al., CVPR 2019, Sec. 4, run anew: ``python -m benchmarks.paper --list``."""
