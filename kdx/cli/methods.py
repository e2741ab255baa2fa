"""``kdx methods``."""

from __future__ import annotations

from kdx.cli.output import make_table, out, print_json
from kdx.cli.shared_options import JSON_OPTION
from kdx.imaging.image_size import show_size
from kdx.workflows.packages import needs


def methods(json: bool = JSON_OPTION) -> None:
    """List the methods: paper, teacher, settings, and the options that only one method has."""
    with needs("train", "listing methods"):
        from kd_train.methods import methods as every_method
        from kd_train.recipes import paper_recipe

    found = [(method, paper_recipe(method)) for _, method in sorted(every_method().items())]
    if json:
        print_json(
            [
                {
                    "name": method.name,
                    "paper": method.paper,
                    "recipe": recipe,
                    "options": [
                        {"name": option.name, "values": option.values, "help": option.help} for option in method.options
                    ],
                }
                for method, recipe in found
            ]
        )
        return
    table = make_table("", "--method", "teacher", "image", "epochs", "paper", left=("teacher", "paper"))
    for method, recipe in found:
        size = show_size(recipe.image_size) + (f" of {show_size(recipe.crop_from)}" if recipe.crop_from else "")
        table.add_row(method.name, ", ".join(recipe.backbones), size, str(recipe.epochs), method.paper)
    out.print(table)
    own = make_table(
        "options of single methods", "option", "method", "values", "decides", left=("method", "values", "decides")
    )
    for method, _ in found:
        for option in method.options:
            own.add_row(f"--{option.name}", method.name, " | ".join(option.values), option.help)
    out.print(own)
