"""Puts the results of the last runs of `just bench` and `just fleet-curve` into docs/: JSON, tables and pictures.

In a page, a table is between `<!-- figures: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pictures

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs/figures"
RUNS = {name: ROOT / f"target/bench/{name}.json" for name in ("start", "warm", "memory", "size")}
RUNS["fleet"] = ROOT / "target/fleet/curve.json"
PAGES = ("docs/performance.md", "docs/scale.md", "docs/freshness.md")

Run = dict[str, Any]
FLAGS = ("1 flag", "1000 flags", "10000 flags")


class Runs:
    """The runs whose JSON is in docs/figures."""

    def __init__(self) -> None:
        self.all: dict[str, Run] = {
            name: json.loads(path.read_text()) for name in RUNS if (path := FIGURES / f"{name}.json").exists()
        }

    def named(self, name: str) -> str:
        """The description of a run, printed with its figures."""
        run = self.all[name]
        machine = run["machine"]
        command = "just fleet-curve" if name == "fleet" else f"just bench {name}"
        with_ = f", {run['python']}, Node {run['node']}" if "python" in run else ""
        return (
            f"`{command}` of {machine['date'][:10]}, commit {machine['commit']}: {machine['cpu']}, "
            f"{machine['cpus']} CPUs, {machine['kernel']}{with_}."
        )

    def cold(
        self, name: str, subject: str, world: str, memory: int | None = None, figure: str = "wall_ms"
    ) -> Run | None:
        rows = (row for row in self.all[name]["cold"] if (row["subject"], row["memory_mb"]) == (subject, memory))
        return next((row[figure] for row in rows if row["world"] == world), None)

    def warm(self, subject: str) -> Run | None:
        return next((row for row in self.all["warm"]["warm"] if row["subject"] == subject), None)


def ms(spread: Run | None, with_spread: bool = False) -> str:
    if not spread:
        return "-"
    digits = 2 if spread["median"] < 10 else 1 if spread["median"] < 100 else 0
    text = f"{spread['median']:,.{digits}f}"
    return text + f" ({spread['low']:,.{digits}f} to {spread['high']:,.{digits}f})" if with_spread else text


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def size(memory: int | None) -> str:
    return f"{memory:,} MB" if memory else "a whole CPU"


# ---- Tables: docs/performance.md -------------------------------------------------------------------------------------


def start(runs: Runs) -> str:
    rows = []
    for subject, label in (
        ("redirect-edge", "redirect, edge package"),
        ("redirect-native", "redirect, native (`provided.al2023`)"),
        ("noop-edge", "no-op Rust behind the carrier"),
        ("noop-native", "no-op Rust, native"),
        ("guide-bundled", "the guide in Node.js, bundled"),
        ("guide", "the guide in Node.js"),
        ("noop-node", "no-op Node.js"),
    ):
        times = [ms(runs.cold("start", subject, world)) for world in FLAGS]
        warm = runs.warm(subject)
        assert warm
        rows.append(
            [
                label,
                " / ".join(times),
                ms(runs.cold("start", subject, "1 flag", 128)),
                f"{warm['p50_us']['median']:,.0f} / {warm['p99_us']['median']:,.0f}",
                f"{warm['late_mb']:.1f}",
            ]
        )
    head = ["medians", "start with 1 / 1,000 / 10,000 flags, ms", "start at 128 MB, ms", "warm p50 / p99, us"]
    return "\n\n".join([table([*head, "resident, MB"], rows), runs.named("start"), runs.named("warm")])


def guide(runs: Runs) -> str:
    def part(subject: str, guide: str, figure: str) -> str:
        parts = []
        for world in FLAGS:
            # A function without flags was measured once for the first two.
            once = "1 flag" if subject.startswith("noop") and world == "1000 flags" else world
            one = runs.cold("start", subject, once, figure=figure)
            other = runs.cold("start", guide, world, figure=figure)
            parts.append(f"{one['median'] / other['median']:.2f}" if one and other else "-")
        return " / ".join(parts)

    rows = [
        [label, part(subject, "guide-bundled", figure), part(subject, "guide", figure)]
        for label, subject, figure in (
            ("a function that does nothing, behind the carrier", "noop-edge", "wall_ms"),
            ("redirect, edge package", "redirect-edge", "wall_ms"),
            ("redirect, edge package, CPU time", "redirect-edge", "cpu_ms"),
        )
    ]
    return table(["of the guide's time, 1 / 1,000 / 10,000 flags", "bundled", "not bundled"], rows)


def phases(runs: Runs) -> str:
    def median(subject: str, world: str = "1 flag") -> float:
        spread = runs.cold("start", subject, world)
        assert spread
        return float(spread["median"])

    floor, native, edge = median("noop-native"), median("redirect-native"), median("redirect-edge")
    behind_carrier, tls = median("noop-edge"), median("redirect-native", "1 flag, TLS")
    rows = [
        (
            "Python starts and imports the handler",
            behind_carrier - floor,
            "the floor behind the carrier minus the native floor; not this project's code",
        ),
        ("exec, loader, runtime client, first `/next`, first answer", floor, "the no-op Rust function"),
        ("settings, transport, SDK client, the flag, the decision", native - floor, "this project's code"),
        (
            "TLS to LaunchDarkly, where it is not plain HTTP",
            tls - native,
            "handshake, two certificates to check, and the hop through the bench's own TLS end",
        ),
        ("**edge package**", edge, f"{edge / behind_carrier:.2f} x the floor behind the same carrier"),
    ]
    return table(
        ["phase, with 1 flag", "ms", "what it is"],
        [[what, f"{it:.{2 if it < 10 else 1}f}", why] for what, it, why in rows],
    )


def warm(runs: Runs) -> str:
    floor, plain = runs.warm("noop-native"), runs.warm("redirect-native")
    assert floor and plain
    rows = []
    for subject, label in (
        ("noop-native", "no-op Rust"),
        ("redirect-native-no-events", "redirect, events off"),
        ("redirect-native", "redirect, events on"),
        ("redirect-native-visitors", "the same with `visitor_cookie`, two `context_headers` and a preview token"),
        ("before", f"redirect at {runs.all['warm']['before']}"),
    ):
        if row := runs.warm(subject):
            p50, p99 = row["p50_us"], row["p99_us"]
            ratio = p50["median"] / floor["p50_us"]["median"]
            to_plain = p50["median"] / plain["p50_us"]["median"]
            rows.append([label, ms(p50, True), ms(p99, True), f"{ratio:.2f}", f"{to_plain:.2f}"])
    return table(["natively, medians of blocks of 250", "p50, us", "p99, us", "/ no-op", "/ events on"], rows)


def freeze(runs: Runs) -> str:
    run = runs.all["memory"]
    rows = {(row["subject"], row["memory_mb"], row["round_trip_ms"], row["resumes"]): row for row in run["freeze"]}
    lines = []
    for subject, label in (("redirect-native", "redirect"), ("before", f"redirect at {run['before']}")):
        for memory in dict.fromkeys(row["memory_mb"] for row in run["freeze"] if row["subject"] == subject):
            waits = [rows[subject, memory, trip, resumes] for trip in (20, 0) for resumes in (True, False)]
            cpu = " / ".join(ms(row["cpu_ms"]) for row in waits[:2])
            lines.append([label, size(memory), *(ms(row["wait_ms"], True) for row in waits), cpu])
    head = ["the viewer waits, ms", "CPU of", "20 ms away, sessions", "20 ms away, none", "0 ms away, sessions"]
    resumed = sum(row["resumed"] for row in run["freeze"] if row["subject"] == "redirect-native" and row["resumes"])
    freezes = sum(row["freezes"] for row in run["freeze"] if row["subject"] == "redirect-native" and row["resumes"])
    said = f"Where the server issues sessions, {resumed:,} of {freezes:,} handshakes were resumed."
    waits_of = table([*head, "0 ms away, none", "CPU time, ms: sessions / none"], lines)
    return "\n\n".join([waits_of, f"{said} {runs.named('memory')}"])


def memory(runs: Runs) -> str:
    run, rows = runs.all["memory"], []
    for steady in run["steady"]:
        memory = steady["memory_mb"]
        frozen = next(
            row
            for row in run["freeze"]
            if (row["memory_mb"], row["subject"]) == (memory, "redirect-native")
            and row["resumes"]
            and row["round_trip_ms"]
        )
        price = [f"{row['dollars_per_million']:.2f}" if memory else "-" for row in (steady, frozen)]
        rows.append(
            [
                size(memory),
                ms(runs.cold("memory", "redirect-edge", "1 flag, TLS, 20 ms", memory)),
                ms(frozen["wait_ms"]),
                f"{steady['p50_us']:,.0f} / {steady['p99_us']:,.0f}",
                f"{steady['billed_ms']:.1f}",
                *price,
            ]
        )
    head = ["memory", "start, ms", "after a freeze, ms", "warm p50 / p99, us", "billed, ms"]
    prices = ["$ per million", "$ per million, all after a freeze"]
    return "\n\n".join([table([*head, *prices], rows), runs.named("memory")])


def by_size(runs: Runs) -> str:
    run = runs.all["size"]
    rows = [
        [label, *(ms(runs.cold("size", subject, "1 flag", memory), True) for memory in (None, 128))]
        for subject, label in sorted(run["labels"].items(), key=lambda item: len(item[1]))
    ]
    labels = runs.all["start"]["labels"]
    packages = [
        [
            labels[name],
            f"{package['bytes'] / 1e6:.2f}",
            f"{package['unpacked_bytes'] / 1e6:.2f}",
            f"{package['unpack_ms']:.1f}",
        ]
        for name, package in sorted(run["packages"].items(), key=lambda item: item[1]["bytes"])
    ]
    return "\n\n".join(
        [
            table(["package", "start with a whole CPU, ms", "start at 128 MB, ms"], rows),
            table(["package", "zip, MB", "unpacked, MB", "unpacking, ms"], packages),
            runs.named("size"),
        ]
    )


def targets(runs: Runs) -> str:
    rows = []
    for run in runs.all.values():
        for target in run.get("targets", []):
            if target["most"] is not None:
                verdict = "missed" if target["is"] > target["most"] else "met"
                rows.append([target["what"], f"{target['is']:.2f}", f"{target['most']:.2f}", verdict])
    return table(["target", "measured", "at most", ""], rows)


# ---- Tables: docs/scale.md and freshness.md --------------------------------------------------------------------------


def fleet(runs: Runs) -> str:
    rows = []
    for run in runs.all["fleet"]["runs"]:
        real, environments = run["in_real_time"], run["environments"]
        interval = run["plan"]["max_staleness_seconds"] // 4 * run["scale"]
        most = environments["alive_mean"] / interval
        rows.append(
            [
                f"{real['visits_per_second']:.1f}",
                f"{environments['alive_mean']:.0f}, {environments['alive_max']}",
                f"{real['flag_data_requests_per_second']:.2f}",
                f"{most:.2f}",
                f"{real['event_requests_per_second']:.2f}",
                f"{run['flips']}, {run['faults']}",
                f"{run['answers_lost']}, {run['promises_broken']}",
            ]
        )
    head = ["requests a second", "environments: mean, most", "flag data requests a second", "environments / 15 s"]
    head += ["event requests a second", "flips, faults", "answers lost, promises broken"]
    return "\n\n".join([table(head, rows), runs.named("fleet")])


def curve(runs: Runs) -> str:
    return f"![Decisions that are still old after a flip](fleet.svg)\n\n{runs.named('fleet')}"


# The function that makes each table, and the runs that it needs.
TABLES: dict[str, tuple[Callable[[Runs], str], set[str]]] = {
    "start": (start, {"start", "warm"}),
    "targets": (targets, {"start", "warm", "memory"}),
    "guide": (guide, {"start"}),
    "phases": (phases, {"start"}),
    "warm": (warm, {"warm"}),
    "freeze": (freeze, {"memory"}),
    "memory": (memory, {"memory"}),
    "size": (by_size, {"size", "start"}),
    "fleet": (fleet, {"fleet"}),
    "curve": (curve, {"fleet"}),
}


def pages(runs: Runs) -> dict[str, str]:
    """The new text of every file of docs/ with figures. A table without its run stays unchanged."""

    def filled(mark: re.Match[str]) -> str:
        table, needed = TABLES[mark[2]]
        return f"{mark[1]}\n{table(runs)}\n\n<!-- end -->" if needed <= set(runs.all) else mark[0]

    files = {
        page: re.sub(r"(<!-- figures: (\w+) -->\n).*?<!-- end -->", filled, (ROOT / page).read_text(), flags=re.DOTALL)
        for page in PAGES
    }
    if "start" in runs.all:
        files["docs/bench.svg"] = pictures.starts(runs.all["start"]["cold"])
    if "fleet" in runs.all:
        files["docs/fleet.svg"] = pictures.fleet(runs.all["fleet"]["runs"])
    return files


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    for name, run in RUNS.items():
        if run.exists():
            shutil.copy(run, FIGURES / f"{name}.json")
    for file, text in pages(Runs()).items():
        (ROOT / file).write_text(text)


if __name__ == "__main__":
    main()
