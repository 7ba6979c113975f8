"""The comparison that the report's tests draw, for the programs that publish one."""

from tests.unit.report.conftest import document as document
