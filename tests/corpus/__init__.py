"""The corpus: hostile and harmless images, made by qemu-img and byte edits; and what is to be said of each.

What QEMU does with the hostile ones, if it is let, stands at each of them (`Recipe.reach`).
"""

from tests.corpus import others, packed, polyglots, qcow2, vmdk
from tests.corpus.recipe import Outside, Reach, Recipe

RECIPES: tuple[Recipe, ...] = (
    *qcow2.RECIPES, *vmdk.RECIPES, *others.RECIPES, *packed.RECIPES, *polyglots.RECIPES,
)  # fmt: skip

__all__ = ["RECIPES", "Outside", "Reach", "Recipe"]
