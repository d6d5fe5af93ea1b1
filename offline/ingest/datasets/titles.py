"""Titles as GroupLens writes them ("Matrix, The (1999)") and as people read them ("The Matrix", 1999)."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

YEAR = r"\s*\((?P<year>[0-9]{4})(?:\s*[-–]\s*[0-9]{0,4})?\)\s*(?:\((?:V|TV)\))?\s*$"
"""A year, or a span of years of which the first counts, at the end; IMDb's mark of a video or a series may follow."""

ARTICLES = "The|A|An|La|Le|Les|L'|Il|El|Los|Las|Der|Die|Das|Den|Det|Un|Une"
TRAILING_ARTICLE = rf"^([^()]+), ({ARTICLES})(\s+\(.*\))?$"
TRAILING_ARTICLE_IN_BRACKETS = rf"\(([^()]+), ({ARTICLES})\)"


def split_titles(titles: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Titles without the year and with the article in front, and the years (int64, null where a title has none)."""
    years = pc.cast(pc.struct_field(pc.extract_regex(titles, YEAR), "year"), pa.int64())
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(titles, YEAR, ""))
    plain = pc.replace_substring_regex(plain, TRAILING_ARTICLE, r"\2 \1\3")
    plain = pc.replace_substring_regex(plain, TRAILING_ARTICLE_IN_BRACKETS, r"(\2 \1)")
    return pc.replace_substring(plain, "L' ", "L'"), years
