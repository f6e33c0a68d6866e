"""Results as Markdown tables, and their places in a page."""

import statistics

MARK = "<!-- results: {} -->"
END = "<!-- end of results -->"
# Tables of networks, whose workloads get new processes each, so that their memory is theirs alone.
ALONE = "models", "vision"


def number(value):
    """Three digits, or as many as stand before the point."""
    places = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{places}f}"


def cost(workload):
    """What a workload is measured by: its name, the unit, and how many units it takes."""
    if workload["flops"]:
        return "gflops", "GFLOP", workload["flops"] / 1e9
    return "gbytes", "GB", workload["bytes"] / 1e9


def peak(workload, peaks):
    """The largest rate that either side was seen to reach, for the workload's kind of cost."""
    kind, _, _ = cost(workload)
    if workload["precision"] == "bf16":
        kind = f"bf16_{kind}"
    return max(side[kind] for side in peaks if kind in side)


def row(workload, ours, theirs, peaks):
    _, unit, amount = cost(workload)
    largest = peak(workload, peaks)

    def rate(side):
        per_second = amount / side.median() * 1e3
        return f"{number(per_second)} {unit}/s ({100 * per_second / largest:.0f} %)"

    def memory(side):
        return "?" if side.memory is None else f"{side.memory:.0f}"

    work, name = workload["work"], workload["name"]
    if "batch" in work and "size" in work:
        name += f", {work['batch']}×{work['size']}²"
    by_round = [statistics.median(a) / statistics.median(b) for a, b in zip(ours.rounds, theirs.rounds)]
    spent = [statistics.median(side.processor_ms or [float("nan")]) for side in (ours, theirs)]
    cells = [
        name,
        f"{number(amount)} GFLOP" if unit == "GFLOP" else f"{number(1e3 * amount)} MB",
        number(ours.median()),
        number(theirs.median()),
        f"**{ours.median() / theirs.median():.2f}** ({min(by_round):.2f}–{max(by_round):.2f})",
        f"{spent[0] / spent[1]:.2f}",
        rate(ours),
        rate(theirs),
    ]
    if workload["table"] in ALONE:
        cells.append(f"{memory(ours)} / {memory(theirs)}")
    return cells


def table(name, description, rows):
    """A line on how the rows came about, and the rows."""
    head = [
        "workload",
        "work",
        "xdiff ms",
        "PyTorch ms",
        "ratio (by round)",
        "processor time",
        "xdiff rate",
        "PyTorch rate",
    ]
    if name in ALONE:
        head.append("peak MiB, xdiff / PyTorch")
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join([description, "", *("| " + " | ".join(cells) + " |" for cells in lines)]) + "\n"


def parts(page, name):
    """A page before a table, and from the table's end mark on."""
    before, mark, rest = page.partition(MARK.format(name))
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"the page has no marks {MARK.format(name)} … {END}")
    return before + mark, end + after


def write(path, name, text):
    """Replaces one table of a page."""
    before, after = parts(path.read_text(), name)
    new = path.with_name(path.name + ".new")
    new.write_text(f"{before}\n{text}{after}")
    new.replace(path)
