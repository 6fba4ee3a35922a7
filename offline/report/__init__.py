"""The page of a comparison: one self-contained HTML file, the same as Markdown, and as JSON."""
