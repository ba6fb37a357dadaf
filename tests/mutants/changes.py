"""The small changes of a module, as JSON, one on a line. Runs where cosmic-ray is installed."""
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import use_db

# One or two of the twelve ways in which an operator can be another one: what notices these notices the others. `|` is
# left out, which stands between types nearly everywhere.
KEPT = {
    *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "Mod_Mul", "BitAnd_BitOr"),
    *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is"),
    *("Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"),
    *("USub_UAdd", "Delete_Not"),
}


def is_kept(operator: str, line: str) -> bool:
    replaced = re.fullmatch(r"core/Replace(?:Binary|Comparison|Unary)Operator_(\w+)", operator)
    # What a dataclass forbids, and what types need, is for the type checker.
    # The star of a signature is taken for an operator.
    if line.startswith(("@dataclass", "if TYPE_CHECKING")) or (replaced and "*," in line):
        return False
    return replaced is None or replaced[1] in KEPT


def main(module: Path) -> None:
    source = module.read_text(encoding="utf-8")
    lines = source.splitlines()
    with tempfile.TemporaryDirectory() as folder, use_db(f"{folder}/changes.sqlite") as db:
        init([module], db, {})
        for item in db.work_items:
            (change,) = item.mutations
            name = change.operator_name
            line = lines[change.start_pos[0] - 1].strip()
            if is_kept(name, line):
                code = mutate_code(source, get_operator(name)(**change.operator_args), change.occurrence)
                print(json.dumps({"change": name.removeprefix("core/"), "line": line, "code": code}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
