"""The comparison and the events that the report's tests draw, for the documents that they are read from."""

from tests.unit.report.conftest import document as document
from tests.unit.report.conftest import events as events
