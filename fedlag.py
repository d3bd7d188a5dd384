"""The front door: ``fedlag <verb>``, each verb one call into a room. A room is imported when its verb is used."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

from wire.errors import FedlagError

__all__ = ["main"]

VERBS = {
    "demo": ("simulations.demo.commands", "20 devices, a real broker, four rules: everything on this machine"),
    "bench": ("simulations.bench.commands", "time this machine, as ratios taken in one run"),
    "simulate": ("simulations.commands", "compare methods on scenarios, or on your own model and data"),
    "advise": ("simulations.advise.commands", "try the rules on your own devices' data, and write the fleet's config"),
    "export": ("export.commands", "make a torch model into a program that devices can train"),
    "init": (
        "broker.founding.commands",
        "make a fleet's folder: configuration, certificates, access list, systemd units",
    ),
    "broker": ("broker.commands", "run the MQTT broker"),
    "aggregator": ("aggregator.commands", "run the home server's part of a fleet"),
    "model": (
        "aggregator.keeping.commands:model",
        "list, pull, compare and roll back the versions that the aggregator keeps",
    ),
    "backup": ("aggregator.keeping.commands:backup", "write all that must not be lost of the aggregator into one file"),
    "restore": ("aggregator.keeping.commands:restore", "let a fleet go on from a backup"),
    "edge": ("edge_client.commands", "run a device"),
}

EXIT_CODES = """\
exit codes: 0 done, 1 a defect of ours, 2 wrong command line, 3 configuration, 4 data, 5 model or program,
            6 broker, 7 disk, 8 fleet, 130 interrupted"""


def main() -> None:
    """Run the command line; end the process with a documented exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in {"-h", "--help"}:
        sys.stdout.write(_usage())
        sys.exit(0 if arguments else 2)
    verb, *rest = arguments
    if verb not in VERBS:
        sys.stderr.write(f"fedlag: there is no verb {verb!r}\n\n{_usage()}")
        sys.exit(2)
    sys.exit(_run(verb, rest))


def _run(verb: str, arguments: list[str]) -> int:
    room, _, command = VERBS[verb][0].partition(":")
    try:
        try:
            commands = importlib.import_module(room)
        except ModuleNotFoundError as error:
            sys.stderr.write(
                f"fedlag {verb}: {error.name} is not installed; docs/install.md says what each role needs\n"
            )
            return 2
        commands.main([command, *arguments] if command else arguments)
    except FedlagError as error:
        sys.stderr.write(f"fedlag {verb}: {error}\n")
        if os.environ.get("FEDLAG_TRACEBACK"):
            traceback.print_exc()
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _usage() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {about}" for verb, (_, about) in VERBS.items()]
    return "\n".join(
        ["usage: fedlag <verb> [options]", "", *lines, "", "`fedlag <verb> --help` says more.", "", EXIT_CODES]
    )


if __name__ == "__main__":
    main()
