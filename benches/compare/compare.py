"""Times the workloads of the benches against PyTorch, in turn on the same machine.

    pip install -r requirements.txt
    python compare.py                            # everything; tables go to the standard output
    python compare.py --out ../../docs/performance.md     # … into that page, between their marks
    python compare.py --table operations --rounds 9       # one table, more rounds
    python compare.py conv2d/8x train            # workloads whose name holds either

Both sides run in processes of their own, with as many threads, and take turns: a few runs of the
one, a few of the other, and so on, so that the ratio of the medians holds while the machine's speed
drifts. Networks get new processes each, whose largest memory is theirs alone; everything else shares
one on either side. Leave the machine alone meanwhile: PyTorch's threads wait for each other after
every layer and lose much more than their share when others use the processors. (With `--threads 1`
the column of processor times holds even then.) Needs cargo; builds `serve` with the release profile.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import tables

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TABLES = "models", "convolutions", "operations", "bf16", "vision", "metrics", "prototypes"
# Seconds of a turn.
TURN = {"models": 2.0, "vision": 2.0, "metrics": 0.1}
SHORT_TURN = 0.4
# Enough for a median, however quick a run is.
MOST_RUNS = 2000


class Refused(Exception):
    """A side cannot do a workload."""


class Side:
    """A program that answers each line, a workload or a number of runs, with a line of JSON."""

    def __init__(self, command, environment, request):
        self.request = request
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.process.args[0]} ended early; its message stands above")
        answer = json.loads(answer)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def load(self, workload):
        self.ask(self.request(workload))
        return Measured(self.ask(1))

    def turn(self, measured, seconds):
        """Runs for about so long, by the times of the last runs."""
        runs = round(seconds * 1e3 / statistics.median(measured.report["ms"]))
        runs = min(max(runs, 1), MOST_RUNS)
        before = processor_ms(self.process.pid)
        measured.report = self.ask(runs)
        measured.rounds.append(measured.report["ms"])
        if before is not None:
            measured.processor_ms.append((processor_ms(self.process.pid) - before) / runs)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Measured:
    """A workload on one side."""

    report: dict
    rounds: list = field(default_factory=list)
    processor_ms: list = field(default_factory=list)

    def median(self):
        return statistics.median(ms for times in self.rounds for ms in times)

    @property
    def machine(self):
        return self.report["machine"]

    @property
    def memory(self):
        return self.machine["peak_rss_mib"]


class Pair:
    """Both sides."""

    def __init__(self, commands, environment):
        requests = (lambda workload: workload["name"]), json.dumps
        self.sides = [Side(*entry) for entry in zip(commands, [environment] * 2, requests)]

    def measure(self, workload, rounds, seconds):
        measured = [side.load(workload) for side in self.sides]
        ours, theirs = measured
        if ours.report["parameters"] != theirs.report["parameters"]:
            raise SystemExit(f"{workload['name']}: the sides differ in their number of parameters")
        for _ in range(rounds):
            for side, result in zip(self.sides, measured):
                side.turn(result, seconds)
        print(
            f"{workload['name']}: {tables.number(ours.median())} ms, "
            f"PyTorch {tables.number(theirs.median())} ms",
            file=sys.stderr,
        )
        return ours, theirs

    def close(self):
        for side in self.sides:
            side.close()


def processor_ms(process):
    """Time that the processors have spent on a process's threads, where the system tells it."""
    tasks = Path(f"/proc/{process}/task")
    if not tasks.exists():
        return None
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e6


def build():
    """The path of the program that serves our side."""
    command = ["cargo", "build", "--release", "-p", "xdiff-benches", "--bin", "serve"]
    done = subprocess.run(
        [*command, "--message-format=json"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message.get("target", {}).get("name") == "serve":
            return message["executable"]
    raise SystemExit("cargo built no program `serve`")


def environment(threads):
    """One pool of so many threads on either side."""
    count = str(threads)
    return os.environ | {
        "RAYON_NUM_THREADS": count,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "CANDLE_NUM_THREADS": "1",
    }


def processor():
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    ours = {p["name"]: p["version"] for p in lock["package"]}
    rust = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True)
    packages = "torch", "torchvision", "diffusers"
    theirs = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return (
        f"xdiff {ours['xdiff']} ({commit.stdout.strip() or 'no commit'}), candle {ours['candle-core']}, "
        f"rustc {rust.stdout.split()[1]}; {theirs}, Python {platform.python_version()}"
    )


class Comparison:
    """The two programs, and what is common to all tables of a run."""

    def __init__(self, args):
        self.args = args
        self.environment = environment(args.threads)
        ours, theirs = [build()], [sys.executable, str(HERE / "torch_side.py")]
        self.programs = ours, theirs
        self.commands = (
            [*ours, "--serve", *(["--plain"] if args.plain else [])],
            [*theirs, *(["--channels-last"] if args.channels_last else [])],
        )

    def output(self, command):
        done = subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return json.loads(done.stdout)

    def workloads(self):
        args = self.args
        chosen = [
            workload
            for workload in self.output([*self.programs[0], "--list"])
            if (not args.table or workload["table"] in args.table)
            and (not args.filter or any(part in workload["name"] for part in args.filter))
        ]
        if not chosen:
            raise SystemExit("no workload is like that")
        return chosen

    def peaks(self):
        return [self.output([*program, "--peak"]) for program in self.programs]

    def measure(self, name, workloads):
        """The rows of a table, each a workload and its results on both sides."""
        turn = self.args.turn or TURN.get(name, SHORT_TURN)
        pair, rows = None, []
        for workload in workloads:
            pair = pair or Pair(self.commands, self.environment)
            try:
                rows.append((workload, *pair.measure(workload, self.args.rounds, turn)))
            except Refused as refused:
                print(f"{workload['name']} is left out: {refused}", file=sys.stderr)
            if name in tables.ALONE:
                pair.close()
                pair = None
        if pair:
            pair.close()
        return rows

    def table(self, name, workloads):
        """A table as text, or nothing if no workload could be run."""
        args, load, first = self.args, os.getloadavg()[0], self.peaks()
        rows = self.measure(name, workloads)
        if not rows:
            return None
        peaks = [{k: max(a[k], b[k]) for k in a} for a, b in zip(first, self.peaks())]
        ours, theirs = (side.machine for side in rows[0][1:])
        kernels = "candle's operations" if args.plain else f"kernels with {ours['vectors']}"
        layout = ", channels last" if args.channels_last else ""
        bf16 = f" (bf16 {peaks[1]['bf16_gflops']:.0f})" if name == "bf16" else ""
        description = (
            f"{processor()}, {os.cpu_count()} processors; xdiff {ours['threads']} threads, {kernels}, "
            f"PyTorch {theirs['threads']} threads, {theirs['vectors']}{layout}; load {load:.1f} before, "
            f"{os.getloadavg()[0]:.1f} after; {args.rounds} rounds of about "
            f"{args.turn or TURN.get(name, SHORT_TURN):g} s. {versions()}. "
            f"Product of 2048² matrices: {peaks[0]['gflops']:.0f} GFLOP/s by gemm, "
            f"{peaks[1]['gflops']:.0f}{bf16} by PyTorch; copy in memory: {peaks[0]['gbytes']:.1f} and "
            f"{peaks[1]['gbytes']:.1f} GB/s. Shares are of the larger."
        )
        return tables.table(name, description, [tables.row(*entry, peaks) for entry in rows])


def arguments():
    parser = argparse.ArgumentParser(description="The benches against PyTorch, in turn.")
    parser.add_argument("filter", nargs="*", help="only workloads whose name holds one of these")
    parser.add_argument("--table", action="append", choices=TABLES, help="only this table; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default 5)")
    parser.add_argument(
        "--turn", type=float, help="seconds a turn, at least one run (default 2 for models, else 0.4)"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all processors")
    parser.add_argument("--plain", action="store_true", help="ours with candle's operations, not kernels")
    parser.add_argument("--channels-last", action="store_true", help="PyTorch with channels last in memory")
    parser.add_argument("--out", type=Path, help="page whose tables are replaced by those that are run")
    return parser.parse_args()


def main():
    args = arguments()
    comparison = Comparison(args)
    workloads = comparison.workloads()
    by_table = {name: [w for w in workloads if w["table"] == name] for name in TABLES}
    by_table = {name: chosen for name, chosen in by_table.items() if chosen}
    if args.out:
        for name in by_table:
            tables.parts(args.out.read_text(), name)
    load = os.getloadavg()[0]
    if load > 1:
        print(f"the load is {load:.1f}: others use the machine, and times will not hold", file=sys.stderr)
    for name, chosen in by_table.items():
        text = comparison.table(name, chosen)
        if text is None:
            continue
        if args.out:
            tables.write(args.out, name, text)
        else:
            print(text)


if __name__ == "__main__":
    main()
