"""Print what a run takes before any of it is taken: memory, disk, time, and what to set."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a cluster runs this without the package installed

from raysys.distributed.job import flags, guarded
from raysys.distributed.planner import add_flags, chosen_machine, plan_run
from raysys.planning.page import page
from raysys.run import load_run
from raysys.storage import Folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    parser = add_flags(flags("plan", __doc__ or ""))
    arguments = parser.parse_args(argv)

    def show() -> None:
        run, machine = load_run(arguments.run, arguments.set), chosen_machine(arguments)
        out = Folder(arguments.out or f"runs/{Path(arguments.run).stem}")
        plan = plan_run(run, out, machine, probing=not arguments.no_probe)
        print("\n" + page(plan))
        if arguments.out:
            out.write_json("plan.json", plan.to_table())
        plan.check()

    return guarded("plan", show)


if __name__ == "__main__":
    sys.exit(main())
