"""Recipes of a system's published rows by readable names: made when they are asked for, listed without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from pytest_nemoperf.errors import RecipeError, did_you_mean
from pytest_nemoperf.published.files import published_rows
from pytest_nemoperf.published.recipes import recipe_of, release_word, unpriced_recipe_of
from pytest_nemoperf.published.row import PublishedRow
from pytest_nemoperf.recipes.recipe import Recipe
from pytest_nemoperf.recipes.systems import find_system


class PublishedRecipes(Mapping[str, Recipe]):
    """Recipes of a system's rows that can be run, drafts first.

    Names have model, system, release, precision and id, as ``llama3-70b-gb200-26.04.01-mxfp8-pt0383``. Listing them
    is quick; making a recipe prices its memory, which takes a tenth of a second.

    Args:
        system: Catalog name of the system.
    """

    def __init__(self, system: str) -> None:
        self._system = find_system(system).name
        self._rows = _rows_by_name(self._system)
        self._made: dict[str, Recipe] = {}

    def __getitem__(self, name: str) -> Recipe:
        """Return the recipe of a name.

        Raises:
            RecipeError: If no row has the name.
        """
        if name not in self._rows:
            raise RecipeError(f"{name!r} is no published row of {self._system}; {did_you_mean(name, self._rows)}")
        if name not in self._made:
            recipe = recipe_of(self._rows[name]).recipe
            assert recipe is not None, name  # noqa: S101 (names are those of rows with a recipe)
            self._made[name] = recipe
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names in the order of the tests."""
        return iter(self._rows)

    def __len__(self) -> int:
        """Return the number of recipes."""
        return len(self._rows)

    def row(self, name: str) -> PublishedRow:
        """Return the row of a name."""
        return self._rows[name]


@cache
def published_recipes(system: str) -> PublishedRecipes:
    """Return the recipes of a system's published rows by name; none for a system without rows.

    Raises:
        RecipeError: If there is no such system.
    """
    return PublishedRecipes(system)


def _rows_by_name(system: str) -> dict[str, PublishedRow]:
    """Return the rows with a recipe by name: drafts, then those that are baselines."""
    shipped = published_rows(system)
    drafts = [excluded.row for excluded in shipped.excluded if excluded.row.is_draft]
    named = {}
    for row in (*sorted(drafts, key=lambda draft: draft.id), *shipped.rows):
        recipe = unpriced_recipe_of(row).recipe
        if recipe is not None:
            release = release_word(row)
            named[f"{recipe.model_config.name}-{system}-{release}-{recipe.precision}-{row.id}"] = row
    return named
