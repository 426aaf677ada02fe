"""Reports: what people read afterwards, as figures, tables and pages, out of plain numbers."""
