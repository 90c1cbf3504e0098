"""A launch that keeps to a budget of GPU-hours by leaving out what would exceed it; pure."""

from orchestration.planning.plan import Plan, format_amount

OVER = "over the budget:"
"""How the reason begins for which a launch leaves out a cell that would exceed its budget."""


def over(planned: Plan, budget_gpu_hours: float) -> dict[str, str]:
    """Return the cells to leave out so that the others, in the plan's order, keep to a budget, by signature, with why.

    Cells that run already count first. A cell that does not fit takes nothing from a later one that does.
    """
    spent = planned.gpu_hours - sum(item.gpu_hours for item in planned.jobs)
    found = {}
    for item in planned.jobs if planned.uses_gpus else []:
        if spent + item.gpu_hours > budget_gpu_hours:
            hours = format_amount(spent + item.gpu_hours)
            found[item.cell.signature] = f"{OVER} {hours} GPU-hours with it, {budget_gpu_hours:g} at most"
        else:
            spent += item.gpu_hours
    return found
