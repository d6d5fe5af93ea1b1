"""The page of `--help`, on settings in sections inside sections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from recsys.help import MIN_WIDTH, help_page, sections_of


class Deep(BaseModel):
    """Third level."""

    rate: float = Field(default=0.1, description="a number")


class Inner(BaseModel):
    """Second level, with a long text so that its title is wrapped where the page is narrow: it goes on and on."""

    epochs: int = Field(default=3, description="passes")
    deep: Deep = Deep()


class Absent(BaseModel):
    """Not shown: the field says more."""

    hours: float = Field(default=1.0, description="hours")


class Program(BaseModel):
    """Does one thing.

    And this is not for the first lines.
    """

    config: Path | None = Field(default=None, description="a file")
    inner: Inner = Inner(epochs=9, deep=Deep(rate=0.00002))
    absent: Absent | None = Field(default=None, description="a section that may be absent")
    name: Annotated[str, Field(min_length=1)] = Field(default="x", description="a name")
    kind: Literal["a", "b"] | None = Field(default=None, description="a choice")
    kinds: tuple[Literal["a", "b"], ...] = Field(default=("a", "b"), description="choices")
    quick: bool = Field(default=True, description="a switch")
    sizes: tuple[int, ...] = Field(default=(1, 2), description="numbers")
    places: dict[str, int] = Field(default={"a": 1, "b": 2}, description="a map")
    servers: dict[str, Annotated[str, Field(title="HOST:PORT")]] = Field(
        default={"first": "127.0.0.1:50051", "second": "127.0.0.1:50052"}, description="a map of titled entries"
    )
    parts: tuple[Deep, ...] = Field(default=(Deep(rate=0.5),), description="objects")
    needed: int = Field(description="no default")


def page(*first: str, width: int = 80) -> str:
    return help_page(Program, "python -m it", first=first, prefix="IT_", width=width)


def test_a_page_as_it_is_printed() -> None:
    shown = page("needed", "inner.deep.rate")
    assert (
        shown
        == """\
usage: python -m it [--setting VALUE …]

Does one thing.

Main settings:
  --needed INT              no default (required)
  --inner.deep.rate NUMBER  a number (default: 2e-05)

Other settings:
  --config PATH             a file
  --name TEXT               a name (default: x)
  --kind CHOICE             a choice (a | b)
  --kinds CHOICE,…          choices (a | b; default: a,b)
  --quick, --no-quick       a switch (default: on)
  --sizes INT,…             numbers (default: 1,2)
  --places NAME=VALUE,…     a map (default: a=1,b=2)
  --servers NAME=HOST:PORT,…
                            a map of titled entries
                            (default: first=127.0.0.1:50051,
                            second=127.0.0.1:50052)
  --parts JSON              objects (default: [{"rate": 0.5}])

[inner] Second level, with a long text so that its title is wrapped where the
  page is narrow: it goes on and on.
  --inner.epochs INT        passes (default: 9)

[absent] A section that may be absent.
  --absent.hours NUMBER     hours (default: 1)

Where settings come from:
  A setting comes from its flag, else from an environment variable, else from
  the TOML file named by --config, else from the default shown here. --needed is
  IT_NEEDED in the environment and needed in the file. A section is a table in
  the file, such as [inner], and a JSON object in the environment, such as
  IT_INNER.
"""
    )


def test_sections_are_in_order_outer_ones_first() -> None:
    assert [section.name for section in sections_of(Program)] == ["", "inner", "inner.deep", "absent"]
    assert "\n[inner.deep] Third level.\n  --inner.deep.rate NUMBER" in page()


def test_a_name_that_is_no_setting_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"inner\.rate"):
        page("inner.rate")


@pytest.mark.parametrize("width", [1, MIN_WIDTH, 80, 120, 500])
def test_lines_are_never_wider_than_asked_for(width: int) -> None:
    longest = max(map(len, page(width=width).splitlines()))
    assert longest <= min(max(width, MIN_WIDTH), 120)
