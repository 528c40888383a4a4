# SPDX-License-Identifier: Apache-2.0
from .write import ReportPaths as ReportPaths, report_paths as report_paths, write_report as write_report
