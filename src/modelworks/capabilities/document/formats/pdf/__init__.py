"""PDF: the text layer by geometry (characters, rows, columns, tables), page by page, then paragraphs over all pages."""
