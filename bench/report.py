"""Results to a table in Markdown."""
from statistics import median

# What a figure is, and its unit.
FIGURES = {
    "start": ("start of {n}: exec of the master to the first instruction of the last worker", "ms"),
    "respawn.p50": ("respawn, one of 64, p50: kill -9 to the first instruction of the replacement", "ms"),
    "respawn.p99": ("respawn, p99", "ms"),
    "respawn.busy": ("respawn beside a busy program for each processor, p50", "ms"),
    "roll": ("roll of {n}", "ms"),
    "fewest": ("roll of {n}: fewest workers that were ready", ""),
    "stop": ("stop of {n}", "ms"),
    "memory": ("memory with {n} (Pss of all but the workers)", "MiB"),
    "log.lines": ("log, single lines of 100 bytes", "MB/s"),
    "log.lines.cpu": ("log, single lines: processor time per 100 MB", "ms"),
    "log.blocks": ("log, 600 lines a write", "MB/s"),
    "log.blocks.cpu": ("log, 600 lines a write: processor time per 100 MB", "ms"),
    "heavy": ("heavy boots: time as a multiple of the work", "×"),
    "status": ("`status --json` with 1000", "ms"),
    "signal.p50": ("a signal's answer while 1000 start, p50", "ms"),
    "signal.max": ("a signal's answer while 1000 start, longest", "ms"),
    "idle.switches": ("idle with 100: context switches a second", ""),
    "idle.cpu": ("idle with 100: processor time a second", "µs"),
}

UNRELATED = ("fewest", "heavy", "idle.switches", "idle.cpu")  # these are not compared with the floor


def split(figure):
    """`start.100` is `start` with 100 workers."""
    stem, _, n = figure.rpartition(".")
    return (stem, int(n)) if n.isdigit() else (figure, 0)


def order(figure):
    stem, n = split(figure)
    return list(FIGURES).index(stem), n


def values(results, figure, master):
    return [row["value"] for row in results if row["figure"] == figure and row["master"] == master]


def number(value):
    if value == int(value):
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(results, figure, master):
    found = values(results, figure, master)
    if not found:
        return ""
    text = f"**{number(median(found))}**"
    if min(found) != max(found):
        text += f" ({number(min(found))}..{number(max(found))})"
    floor = values(results, figure, "floor")
    if floor and median(floor) and split(figure)[0] not in UNRELATED:
        text += f" {number(round(median(found) / median(floor), 2))}×"
    return text


def machine_line(machine):
    kinds = "SCHED_RR, priority 1" if machine["realtime"] else "the default scheduling"
    group = machine["autogroup"] or "not there"
    return (f"Linux {machine['kernel']} {machine['architecture']}, {machine['cpus']} processors ({machine['model']}), "
            f"sched_autogroup_enabled {group}, {kinds}; load {machine['load_before']:.1f} before and "
            f"{machine['load_after']:.1f} after; {machine['rounds']} rounds.")


def table(data):
    """One row a figure, one column a master: the median (min..max), and the median's multiple of the floor's."""
    results = data["results"]
    masters = list(dict.fromkeys(row["master"] for row in results))
    lines = [machine_line(data["machine"]), "", "| | " + " | ".join(masters) + " |", "|---" * (len(masters) + 1) + "|"]
    for figure in sorted({row["figure"] for row in results}, key=order):
        stem, n = split(figure)
        what, unit = FIGURES[stem]
        cells = [cell(results, figure, master) for master in masters]
        lines.append(f"| {what.format(n=n)}{', ' + unit if unit else ''} | " + " | ".join(cells) + " |")
    notes = [f"{row['master']}, {row['setting']}: {row['why']}" for row in data["failed"]]
    notes += [f"{name}: a binary of {size / 2 ** 20:.1f} MiB" for name, size in data["bytes"].items()]
    notes += [f"left out: {what}: {why}" for what, why in data["missing"].items()]
    notes += [f"{name}: {how}" for name, how in data["notes"].items() if how]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"
