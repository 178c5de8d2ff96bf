"""Numerical differentiation against backpropagation: of any function, and of any module with its loss."""

from framework.gradients.check import check_function, check_module, check_named
from framework.gradients.report import Context, Report, Row, print_report, print_reports

__all__ = ["Context", "Report", "Row", "check_function", "check_module", "check_named", "print_report", "print_reports"]
