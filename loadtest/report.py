#!/usr/bin/env python3
"""Makes report.md and its plots from what loadtest/compare.sh measured. Python's standard library only.

usage: report.py RAW_DIRECTORY OUT_DIRECTORY
"""

import csv
import json
import pathlib
import sys
from statistics import median

import plots

OURS, FLOOR = "order-service", "floor"
SERVERS = [OURS, FLOOR, "nginx", "nginx-memory", "redis", "go-bytes", "go-marshal"]
CASES = {
    "order": "one order, 64 connections",
    "random": "1,000 orders at random",
    "pipelined": "one order, pipelined by 16",
    "connections-1": "one order, 1 connection",
    "connections-8": "one order, 8 connections",
    "connections-256": "one order, 256 connections",
    "connections-1000": "one order, 1,000 connections",
    "page-20": "`?limit=20` of 1,000 orders",
    "list-20": "ready list of 20",
    "list-20-gzip": "ready list of 20, gzip accepted",
    "list-40": "ready list of 40",
    "list-40-gzip": "ready list of 40, gzip accepted",
    "list-1000": "ready list of 1,000",
    "list-1000-gzip": "ready list of 1,000, gzip accepted",
}
PERCENTILES = ["p50", "p99", "p99.9", "p99.99", "p100"]
WARM_UP_SECONDS = 0.5  # as compare.sh asks for
# Smaller differences are not told from noise.
CPU_DIFFERENCE, RATE_DIFFERENCE, LATENCY_DIFFERENCE = 1.03, 1.05, 1.10
# A server whose core idles more than this was not what limited the rate.
BUSY_LEAST = 0.90


def rows(path):
    with open(path, newline="") as file:
        return [{name: number(value) for name, value in row.items()} for row in csv.DictReader(file, delimiter="\t")]


def number(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def rate_of(run):
    return run["requests"] / run["duration_us"] * 1e6


def cpu_of(run):
    return run["cpu_us"] / run["requests"]


def more(ratios, least):
    """The median of the ratios, if it is beyond the least and every round says the same."""
    if ratios and median(ratios) > least and min(ratios) > 1:
        return median(ratios)
    return None


class Results:
    """All that was measured; medians over rounds."""

    def __init__(self, raw):
        self.meta, self.versions, self.missing = {}, {}, []
        for line in (raw / "meta.tsv").read_text().splitlines():
            name, _, value = line.partition("\t")
            if name == "version":
                server, _, words = value.partition("\t")
                self.versions[server] = words
            elif name == "missing":
                self.missing.append(value)
            else:
                self.meta[name] = value
        self.runs = [run for run in rows(raw / "runs.tsv") if run["requests"] and run["duration_us"]]
        self.checks = rows(raw / "checks.tsv")
        self.tail = rows(raw / "tail.tsv")
        self.open = []
        for run in rows(raw / "open.tsv"):
            path = raw / f"{run['kind']}.{run['server']}.{run['round']:.0f}.json"
            try:
                run["report"] = json.loads(path.read_text())
            except (OSError, ValueError):
                continue  # compare.sh has said so
            self.open.append(run)

    def _of(self, case, server):
        return [run for run in self.runs if run["case"] == case and run["server"] == server]

    def _median(self, case, server, figure):
        values = [figure(run) for run in self._of(case, server)]
        return median(values) if values else None

    def rate(self, case, server):
        return self._median(case, server, rate_of)

    def cpu(self, case, server):
        return self._median(case, server, cpu_of)

    def cpu_by_floor(self, case, server):
        ratios = self.ratios(case, server, FLOOR, cpu_of)
        return median(ratios) if ratios and server != FLOOR else None

    def busy(self, case, server):
        return self._median(case, server, lambda run: run["cpu_us"] / run["duration_us"])

    def ratios(self, case, server, other, figure):
        """The server's figure by the other's, in each round: they took turns, so noise that lasts meets both."""
        theirs = {run["round"]: figure(run) for run in self._of(case, other)}
        ours = [(figure(run), theirs.get(run["round"])) for run in self._of(case, server)]
        return [our / their for our, their in ours if their]

    def latency_ratios(self, kind, server, other, percentile):
        theirs = {run["round"]: run["report"]["latency_us"][percentile] for run in self.at(kind, other)}
        ours = [(run["report"]["latency_us"][percentile], theirs.get(run["round"])) for run in self.at(kind, server)]
        return [our / their for our, their in ours if their]

    def cases(self):
        return [case for case in CASES if any(run["case"] == case for run in self.runs)]

    def servers(self, of=None):
        found = {run["server"] for run in (self.runs if of is None else of)}
        return [server for server in SERVERS if server in found]

    def spread(self):
        """How far the CPU per request of the rounds lies apart, for each case and server, as a share of its median."""
        shares = []
        for case in self.cases():
            for server in self.servers():
                values = [cpu_of(run) for run in self._of(case, server)]
                if len(values) > 1 and median(values) > 0:
                    shares.append((max(values) - min(values)) / median(values))
        return shares

    def at(self, kind, server=None):
        return [run for run in self.open if run["kind"] == kind and server in (None, run["server"])]

    def latency(self, kind, server, percentile):
        values = [run["report"]["latency_us"][percentile] for run in self.at(kind, server)]
        return median(values) if values else None

    def cpu_at(self, run):
        """CPU per request at a fixed rate, over the warm-up too."""
        return run["cpu_us"] / (run["rate"] * (float(self.meta["open_seconds"]) + WARM_UP_SECONDS))

    def curve(self, kind, server):
        """The median over rounds at each of many percentiles, as far as all rounds have enough answers."""
        reports = [run["report"] for run in self.at(kind, server)]
        fewest = min(report["answers"] for report in reports)
        curve, step = [], 0
        while (left := 10 ** (-step / 20)) >= 10 / max(fewest, 10):
            quantile = 1 - left
            curve.append(
                (quantile, max(median(between(report["latency_curve_us"], quantile) for report in reports), 1))
            )
            step += 1
        return curve


def between(curve, quantile):
    """The latency at a quantile of a curve that has only some of them."""
    before = curve[0]
    for after in curve:
        if after[0] >= quantile:
            share = (quantile - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 0
            return before[1] + share * (after[1] - before[1])
        before = after
    return before[1]


def table(head, lines):
    text = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return text + ["| " + " | ".join(line) + " |" for line in lines] + [""]


def micros(value):
    if value is None:
        return ""
    if value >= 1e6:
        return f"{value / 1e6:.2f} s"
    if value >= 1e3:
        return f"{value / 1e3:.1f} ms" if value >= 1e4 else f"{value / 1e3:.2f} ms"
    return f"{value:.0f} us"


def cpu_text(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(ratio):
    return f"{ratio:.1f} x" if ratio >= 9.95 else f"{ratio:.2f} x"


def duration(seconds):
    seconds = float(seconds)
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def cpu_by_floor_text(results, case, server):
    ratio = results.cpu_by_floor(case, server)
    return f" ({times(ratio)})" if ratio else ""


def head(results):
    meta = results.meta
    where = "a virtual machine" if meta.get("virtual") == "yes" else "a machine"
    lines = [
        "# The service beside other servers",
        "",
        f"`{meta['command']}`, {meta['date']}, commit {meta['commit']}, took {duration(meta.get('took', 0))}. On {where}: "
        f"{meta['cpu']}, {meta['cores']} cores, {meta['memory']} of memory, {meta['kernel']}.",
        "",
        f"Pinned: {meta['pinned']}. Medians of {meta['rounds']} round{'s' if meta['rounds'] != '1' else ''}, in each of which all servers take turns, "
        f"{meta['seconds']} s a measurement. Every answer was compared byte for byte before it was measured. All servers have the same "
        "orders. Absolute figures are this machine's; ratios within one run carry over.",
        "",
    ]
    spread = results.spread()
    if spread:
        lines += [
            f"Between rounds, CPU per request differs by {median(spread):.0%} in the median and by {max(spread):.0%} at worst.",
            "",
        ]
    lines += ["| Server | |", "| --- | --- |"]
    lines += [f"| {name} | {words} |" for name, words in results.versions.items()]
    lines.append("")
    if results.missing:
        lines += ["Missing in this run:", ""] + [f"- {what}" for what in results.missing] + [""]
    wrong = [check for check in results.checks if check["right"] != "yes"]
    if wrong:
        lines += [
            "**Wrong answers**, not measured: " + ", ".join(f"{w['server']} in `{w['case']}`" for w in wrong) + ".",
            "",
        ]
    failed = [run for run in results.runs if run["failed"]]
    if failed:
        lines += [
            "Requests that failed: "
            + ", ".join(f"{f['failed']:.0f} of {f['server']} in `{f['case']}`" for f in failed)
            + ".",
            "",
        ]
    return lines


def cpu_section(results):
    servers, lines = results.servers(), []
    for case in results.cases():
        line = [CASES[case]]
        for server in servers:
            value = results.cpu(case, server)
            line.append("" if value is None else cpu_text(value) + cpu_by_floor_text(results, case, server))
        lines.append(line)
    return [
        "## CPU per request",
        "",
        "Microseconds of CPU of the server's processes, kernel time in them included, by request; in parentheses, how many times the "
        "floor's, as the median of each round's own ratio. The floor (`loadtest/floor`) is an epoll loop with a parser, a map and one write: the least that answers the same bytes.",
        "",
        *table(["us per request", *servers], lines),
        "![CPU per request](cpu.svg)",
        "",
    ]


def rate_section(results):
    servers, lines, has_mark = results.servers(), [], False
    for case in results.cases():
        line = [CASES[case]]
        for server in servers:
            value = results.rate(case, server)
            mark = ""
            if value is not None and results.busy(case, server) < BUSY_LEAST:
                mark, has_mark = " °", True
            line.append("" if value is None else f"{value:,.0f}{mark}")
        lines.append(line)
    note = [
        "° The server used less than nine tenths of its core: the load, or whatever else ran there, set this figure.",
        "",
    ]
    return [
        "## Requests per second",
        "",
        "As fast as they are answered, on one core. Redis is asked by its own benchmark, in its own and shorter protocol.",
        "",
        *table(["requests/s", *servers], lines),
        *(note if has_mark else []),
        "![Requests per second over connections](connections.svg)",
        "",
    ]


def bytes_section(results):
    cases = [
        case for case in CASES if case.endswith("-gzip") and any(check["case"] == case for check in results.checks)
    ]
    if not cases:
        return []
    found = {(check["case"], check["server"]): check for check in results.checks}
    servers = [server for server in SERVERS if any((case, server) in found for case in cases)]
    lines = []
    for case in cases:
        line = [CASES[case].replace(", gzip accepted", "")]
        for server in servers:
            check = found.get((case, server))
            line.append(f"{check['bytes']:,.0f}{'' if check['coding'] == 'gzip' else ' (plain)'}" if check else "")
        lines.append(line)
    return ["## Bytes of a list when gzip is accepted", "", *table(["bytes on the wire", *servers], lines)]


def late_share(runs):
    reports = [run["report"] for run in runs]
    late = sum(report["late"] + report["never_sent"] for report in reports)
    return late / max(sum(report["answers"] + report["never_sent"] for report in reports), 1)


def latency_rows(results, kind):
    lines = []
    for server in results.servers(results.at(kind)):
        runs = results.at(kind, server)
        failed = sum(run["report"]["unexpected_statuses"] + sum(run["report"]["errors"].values()) for run in runs)
        lines.append(
            [server, f"{median(run['rate'] for run in runs):,.0f}"]
            + [micros(results.latency(kind, server, percentile)) for percentile in PERCENTILES]
            + [cpu_text(median(results.cpu_at(run) for run in runs)), f"{late_share(runs):.2%}", f"{failed:.0f}"]
        )
    return lines


def latency_section(results):
    if not results.at("half") and not results.at("common"):
        return []
    head = ["", "requests/s", "p50", "p99", "p99.9", "p99.99", "worst", "CPU us/request", "sent late", "failed"]
    lines = [
        "## Latency at a fixed rate",
        "",
        "One order is asked for over 64 connections when each request is due, whatever the answers take, and latency counts from then "
        f"({results.meta['open_seconds']} s a round). What was sent more than 1 ms late waited for an earlier answer on its connection, or for the load itself"
        f"{', which has real-time priority' if results.meta.get('on_time') == 'yes' else ''}.",
        "",
    ]
    if results.at("half"):
        if results.meta["open_load"] == "paced":
            rate = "Half of what each server reached, asked for by `paced` of `loadtest/floor`; `order-service load` is a whole HTTP client, which one core does not carry to such rates:"
        else:
            rate = f"Half of what each server reached, at most the {float(results.meta['load_max']):,.0f}/s that `order-service load` can send on time from one core:"
        lines += [
            rate,
            "",
            *table(head, latency_rows(results, "half")),
        ]
    if results.at("common"):
        lines += [
            "The same rate for all, asked for by `order-service load`, in its reach and in half the reach of the slowest:",
            "",
            *table(head, latency_rows(results, "common")),
        ]
    return lines + ["![Latency percentiles](latency.svg)", ""]


def tail_rows(results):
    for asked in sorted({run["writes"] for run in results.tail}):
        runs = [run for run in results.tail if run["writes"] == asked]
        kind = f"writes-{asked:.0f}"
        if results.at(kind):
            yield asked, median(run["written"] / run["duration_us"] * 1e6 for run in runs), kind


def tail_section(results):
    lines = []
    for asked, reached, kind in tail_rows(results):
        runs = [run for run in results.tail if run["writes"] == asked]
        busy = median(run["cpu_us"] / run["duration_us"] for run in runs)
        reads = median(run["report"]["rate_answered_per_second"] for run in results.at(kind))
        lines.append(
            [f"{asked:,.0f} orders/s" if asked else "none", f"{reached:,.0f}", f"{reads:,.0f}"]
            + [micros(results.latency(kind, OURS, percentile)) for percentile in PERCENTILES]
            + [f"{late_share(results.at(kind)):.2%}", f"{busy:.0%}"]
        )
    if not lines:
        return []
    return [
        "## Reads while orders are written",
        "",
        f"Reads of one order at {results.tail[0]['read_rate']:,.0f}/s, as above, while new orders stream into the same process as lines of one `POST /orders`, "
        "each committed to the embedded store. Server, store and all share the one core.",
        "",
        *table(
            [
                "writes asked for",
                "written/s",
                "reads/s",
                "p50",
                "p99",
                "p99.9",
                "p99.99",
                "worst",
                "sent late",
                "CPU of a core",
            ],
            lines,
        ),
    ]


def losses(results):
    """Sentences: where someone is better than we are, by more than noise."""
    found = []
    above = [(more(results.ratios(case, OURS, FLOOR, cpu_of), CPU_DIFFERENCE), case) for case in results.cases()]
    above = sorted((pair for pair in above if pair[0]), reverse=True)
    if above:
        found.append(
            "CPU per request against the floor: "
            + "; ".join(f"{times(ratio)} for {CASES[case]}" for ratio, case in above)
            + "."
        )
    for server in [server for server in results.servers() if server not in (OURS, FLOOR)]:
        note = " (RESP, not HTTP)" if server == "redis" else ""
        worse = [(more(results.ratios(case, OURS, server, cpu_of), CPU_DIFFERENCE), case) for case in results.cases()]
        worse = [f"{times(ratio)} for {CASES[case]}" for ratio, case in worse if ratio]
        if worse:
            found.append(f"More CPU per request than {server}{note}: " + "; ".join(worse) + ".")
        fewer = [(more(results.ratios(case, server, OURS, rate_of), RATE_DIFFERENCE), case) for case in results.cases()]
        fewer = [f"{1 / ratio:.2f} of its rate for {CASES[case]}" for ratio, case in fewer if ratio]
        if fewer:
            found.append(f"Fewer requests/s than {server}{note}: " + "; ".join(fewer) + ".")
    found += latency_losses(results)
    found += bytes_losses(results)
    rows = list(tail_rows(results))
    alone = next((kind for asked, _, kind in rows if not asked), None)
    for asked, reached, kind in rows:
        if not asked:
            continue
        if reached < 0.95 * asked:
            found.append(
                f"{asked:,.0f} orders/s written beside the reads were asked for, {reached:,.0f} were reached on the one core."
            )
        if alone:
            before, beside = (results.latency(which, OURS, "p99.9") for which in (alone, kind))
            if beside > LATENCY_DIFFERENCE * before:
                found.append(
                    f"With {reached:,.0f} orders/s written, p99.9 of the reads is {micros(beside)} instead of {micros(before)}."
                )
    return found


def latency_losses(results):
    for server in results.servers(results.at("common")):
        if server in (OURS, FLOOR):
            continue
        slower = []
        for percentile in ("p50", "p99", "p99.9"):
            if more(results.latency_ratios("common", OURS, server, percentile), LATENCY_DIFFERENCE):
                ours, theirs = (micros(results.latency("common", which, percentile)) for which in (OURS, server))
                slower.append(f"{percentile} {ours} to {theirs}")
        if slower:
            yield f"Later answers than {server} at the same rate: " + "; ".join(slower) + "."


def bytes_losses(results):
    found = {(check["case"], check["server"]): check for check in results.checks}
    for case in CASES:
        ours = found.get((case, OURS))
        smallest = min((c["bytes"] for (which, _), c in found.items() if which == case), default=None)
        if case.endswith("-gzip") and ours and smallest and ours["bytes"] > 1.05 * smallest:
            yield f"Anyone who accepts gzip gets {ours['bytes']:,.0f} bytes from us and {smallest:,.0f} from another for the {CASES[case].replace(', gzip accepted', '')}."


def write_plots(results, out):
    bars = []
    for case in [case for case in results.cases() if not case.startswith("connections-")]:
        values = [(server, results.cpu(case, server)) for server in SERVERS]
        labelled = [
            (server, value, f"{cpu_text(value)} us{cpu_by_floor_text(results, case, server)}")
            for server, value in values
            if value
        ]
        if labelled:
            bars.append((CASES[case].replace("`", ""), labelled))
    if bars:
        (out / "cpu.svg").write_text(plots.bars("CPU of the server per request", bars))
    curves = {}
    for server in results.servers():
        points = [
            (64 if case == "order" else int(case.split("-")[1]), results.rate(case, server))
            for case in CASES
            if case == "order" or case.startswith("connections-")
        ]
        points = sorted(point for point in points if point[1])
        if len(points) > 1:
            curves[server] = points
    if curves:
        (out / "connections.svg").write_text(plots.connections(curves))
    panels = []
    for kind, title in (("half", "At half of what each server reached"), ("common", "At {:,.0f} requests/s each")):
        runs = results.at(kind)
        if runs:
            panels.append(
                (
                    title.format(runs[0]["rate"]),
                    {server: results.curve(kind, server) for server in results.servers(runs)},
                )
            )
    if panels:
        (out / "latency.svg").write_text(plots.latency(panels))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    raw, out = map(pathlib.Path, sys.argv[1:])
    results = Results(raw)
    lines = head(results)
    if results.runs:
        lines += cpu_section(results) + rate_section(results) + bytes_section(results)
    lines += latency_section(results) + tail_section(results)
    lines += ["## Where we lose", "", *(f"- {loss}" for loss in losses(results)), ""]
    lines += [
        f"Differences below {CPU_DIFFERENCE - 1:.0%} in CPU, {RATE_DIFFERENCE - 1:.0%} in rates and {LATENCY_DIFFERENCE - 1:.0%} in latency are left out as noise, and so is what not every round says.",
        "",
    ]
    for stale in [*out.glob("*.svg"), *out.glob("table.txt")]:
        stale.unlink()
    write_plots(results, out)
    (out / "report.md").write_text("\n".join(lines))


main()
