"""Times the U-Nets of the bench `unet` against PyTorch, in turn on the same machine.

    pip install -r requirements.txt
    python compare.py                     # all workloads; the table goes to the standard output
    python compare.py --out ../../docs/performance.md     # … into that page, between two marks
    python compare.py train --rounds 9    # workloads whose name holds `train`, more rounds

Both sides run in processes of their own, with as many threads, and take turns: a few runs of the
one, a few of the other, and so on, so that the ratio of the medians holds while the machine's speed
drifts. Leave the machine alone meanwhile: PyTorch's threads wait for each other after every layer
and lose much more than their share when others use the processors. (With `--threads 1` the column
of processor times holds even then.) Needs cargo; builds the bench with the release profile.
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
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MARKS = "<!-- results -->", "<!-- end of results -->"


class Side:
    """A program that answers each line, a number of runs, with a line of JSON."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.rounds = []
        self.processor_ms = []
        self.report = self.read()
        self.report = self.ask(1)

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[0]} ended early; its message stands above")
        return json.loads(line)

    def ask(self, runs):
        self.process.stdin.write(f"{runs}\n")
        self.process.stdin.flush()
        return self.read()

    def turn(self, seconds):
        """Runs for about so long, by the time of the last run."""
        runs = max(1, round(seconds * 1e3 / self.report["ms"][-1]))
        before = processor_ms(self.process.pid)
        self.report = self.ask(runs)
        self.rounds.append(self.report["ms"])
        if before is not None:
            self.processor_ms.append((processor_ms(self.process.pid) - before) / runs)

    def median(self):
        return statistics.median(ms for times in self.rounds for ms in times)

    def memory(self):
        return self.report["machine"]["peak_rss_mib"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def processor_ms(process):
    """Time that the processors have spent on a process's threads, where the system tells it."""
    tasks = Path(f"/proc/{process}/task")
    if not tasks.exists():
        return None
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e6


def build():
    """The path of the bench program."""
    command = ["cargo", "bench", "-p", "xdiff-benches", "--bench", "unet", "--no-run"]
    done = subprocess.run(
        [*command, "--message-format=json"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message.get("target", {}).get("name") == "unet":
            return message["executable"]
    raise SystemExit("cargo built no bench `unet`")


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
    theirs = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers"))
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return (
        f"xdiff {ours['xdiff']} ({commit.stdout.strip() or 'no commit'}), candle {ours['candle-core']}, "
        f"rustc {rust.stdout.split()[1]}; {theirs}, Python {platform.python_version()}"
    )


def measure(workload, commands, env, args):
    """Both sides of a workload after all rounds."""
    ours, theirs = (Side(command, env) for command in commands)
    if ours.report["parameters"] != theirs.report["parameters"]:
        raise SystemExit(f"{workload['name']}: the networks differ in their number of parameters")
    for number in range(args.rounds):
        ours.turn(args.turn)
        theirs.turn(args.turn)
        print(
            f"{workload['name']} {number + 1}/{args.rounds}: "
            f"{statistics.median(ours.rounds[-1]):.1f} ms, PyTorch {statistics.median(theirs.rounds[-1]):.1f} ms",
            file=sys.stderr,
        )
    ours.close()
    theirs.close()
    return ours, theirs


def row(workload, ours, theirs, peak):
    def rates(side):
        rate = workload["flops"] / side.median() / 1e6
        return f"{rate:.0f} ({100 * rate / peak:.0f} %)"

    def memory(side):
        return "?" if side.memory() is None else f"{side.memory():.0f}"

    by_round = [
        statistics.median(a) / statistics.median(b) for a, b in zip(ours.rounds, theirs.rounds)
    ]
    spent = [statistics.median(side.processor_ms or [float("nan")]) for side in (ours, theirs)]
    cells = [
        f"{workload['name']}, {workload['batch']}×{workload['size']}²",
        f"{workload['flops'] / 1e9:.0f}",
        f"{ours.median():.1f}",
        f"{theirs.median():.1f}",
        f"**{ours.median() / theirs.median():.2f}** ({min(by_round):.2f}–{max(by_round):.2f})",
        f"{spent[0] / spent[1]:.2f}",
        rates(ours),
        rates(theirs),
        f"{memory(ours)} / {memory(theirs)}",
    ]
    return "| " + " | ".join(cells) + " |"


def write(path, text):
    """Writes the table; in a file that has the marks, only what stands between them changes."""
    before, first, rest = path.read_text().partition(MARKS[0]) if path.exists() else ("", "", "")
    _, second, after = rest.partition(MARKS[1])
    path.write_text(f"{before}{first}\n{text}{second}{after}" if second else text)


def arguments():
    parser = argparse.ArgumentParser(description="U-Nets against PyTorch, in turn.")
    parser.add_argument("filter", nargs="?", default="", help="only workloads whose name holds this")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default 5)")
    parser.add_argument("--turn", type=float, default=2.0, help="seconds a turn, at least one run (default 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all processors")
    parser.add_argument("--channels-last", action="store_true", help="PyTorch with channels last in memory")
    parser.add_argument("--out", type=Path, help="Markdown file for the table, between its marks if it has them")
    return parser.parse_args()


def main():
    args = arguments()
    program = build()
    env = environment(args.threads)
    torch_side = [sys.executable, str(HERE / "torch_side.py")]

    def output(command):
        return subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout

    def peaks():
        return float(output([program, "--peak"])), float(output([*torch_side, "peak"]))

    load = os.getloadavg()[0]
    if load > 1:
        print(f"the load is {load:.1f}: others use the machine, and times will not hold", file=sys.stderr)
    first = peaks()
    rows = []
    for workload in json.loads(output([program, "--list"])):
        if args.filter in workload["name"]:
            commands = (
                [program, "--serve", workload["name"]],
                [*torch_side, json.dumps(workload | {"channels_last": args.channels_last})],
            )
            rows.append((workload, *measure(workload, commands, env, args)))
    if not rows:
        raise SystemExit(f"no workload's name holds `{args.filter}`")
    ours_peak, torch_peak = map(max, zip(first, peaks()))
    sides = rows[0][1].report["machine"], rows[0][2].report["machine"]
    lines = [
        f"{processor()}, {os.cpu_count()} processors, {args.threads} threads "
        f"(xdiff {sides[0]['threads']} with {sides[0]['vectors']}, PyTorch {sides[1]['threads']} with "
        f"{sides[1]['vectors']}{', channels last' if args.channels_last else ''}); "
        f"load {load:.1f} before, {os.getloadavg()[0]:.1f} after; {args.rounds} rounds of about {args.turn:g} s. "
        f"{versions()}. Product of 2048² f32 matrices: {ours_peak:.0f} GFLOP/s by gemm, "
        f"{torch_peak:.0f} by PyTorch; shares are of the larger.",
        "",
        "| workload | GFLOP | xdiff ms | PyTorch ms | ratio (by round) | processor time "
        "| xdiff GFLOP/s | PyTorch GFLOP/s | peak MiB, xdiff / PyTorch |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(*entry, max(ours_peak, torch_peak)) for entry in rows),
    ]
    text = "\n".join(lines) + "\n"
    if args.out is None:
        print(text, end="")
    else:
        write(args.out, text)


if __name__ == "__main__":
    main()
