"""The pictures of docs/, as SVG for light and dark pages."""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]

BARS = {
    "guide": "Guide's handler, Node",
    "guide-bundled": "Guide's handler, bundled",
    "redirect-edge": "redirect at the edge",
    "redirect-native": "redirect, native",
}
# Each line has its own dash pattern, for readers who cannot distinguish the colors.
LINES = ["#0b7285", "#e8590c", "#5f3dc4"]
DASHES = ["", "7 4", "2 3"]


def page(height: int, title: str, style: str, content: list[str]) -> str:
    lines = "\n".join(content)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {height}" role="img" aria-label="{title}">
<style>
svg {{ background: #fff; font: 13px system-ui, sans-serif; }}
text {{ fill: #1f2933; }}
.title {{ font-size: 16px; font-weight: 600; }}
{style}
</style>
<rect width="680" height="{height}" fill="#fff"/>
<text x="10" y="24" class="title">{title}</text>
{lines}
</svg>
"""


def starts(cold: Rows) -> str:
    """Start to first answer, as bars."""
    medians = {(row["subject"], row["world"]): row["wall_ms"]["median"] for row in cold if row["memory_mb"] is None}
    content = []
    y = 44
    for world in ("1 flag", "1000 flags", "10000 flags"):
        bars = {label: medians[subject, world] for subject, label in BARS.items() if (subject, world) in medians}
        title = world.replace("000 ", ",000 ")
        content.append(f'<text x="10" y="{y}" class="world">{title} in the environment</text>')
        y += 12
        for label, median in bars.items():
            width = 400 * median / max(bars.values())
            kind = "ours" if label.startswith("redirect") else "guide"
            content += [
                f'<text x="192" y="{y + 14}" class="label">{label}</text>',
                f'<rect x="200" y="{y}" width="{width:.1f}" height="18" rx="3" class="{kind}"/>',
                f'<text x="{208 + width:.1f}" y="{y + 14}">{median:,.{1 if median < 10 else 0}f} ms</text>',
            ]
            y += 23
        y += 22
    style = """.world { font-weight: 600; }
.label { text-anchor: end; }
.ours { fill: #0b7285; }
.guide { fill: #adb5bd; }"""
    title = "Process start to first answer (median; each group has its own scale)"
    return page(y, title, style, content)


def fleet(runs: Rows) -> str:
    """The share of decisions that are still old, by the time since a flip: one line for each rate of requests."""
    left, bottom, width, height, end = 60, 290, 580, 220, 75
    scaled = "max_staleness_seconds = 60, while LaunchDarkly answers; time is scaled down for the lower rates"
    content = [f'<text x="10" y="46">{scaled}</text>']
    for percent in (0, 25, 50, 75, 100):
        y = bottom - height * percent / 100
        content.append(f'<path d="M{left} {y:.0f}H{left + width}" class="grid"/>')
        content.append(f'<text x="52" y="{y + 4:.0f}" class="end">{percent} %</text>')
    for seconds in range(0, end + 1, 15):
        content.append(f'<text x="{left + width * seconds / end:.0f}" y="308" class="middle">{seconds} s</text>')
    promise = left + width * 60.3 / end
    content.append(f'<path d="M{promise:.1f} {bottom - height}V{bottom}" class="promise"/>')
    content.append(f'<text x="{promise:.1f}" y="64" class="middle">the promise: 60.3 s</text>')
    for index, (run, color, dash) in enumerate(zip(runs, LINES, DASHES, strict=True)):
        slices = run["curve_while_launchdarkly_answers"]
        middle = (slices[1]["from_seconds"] - slices[0]["from_seconds"]) / 2
        points = [
            (
                left + width * min((row["from_seconds"] + middle) * run["scale"], end) / end,
                row["old"] / row["decisions"],
            )
            for row in slices
            if row["decisions"]
        ]
        line = " ".join(f"{x:.1f},{bottom - height * share:.1f}" for x, share in points)
        stroke = f'stroke="{color}" stroke-dasharray="{dash}"'
        x, rate = 60 + 200 * index, round(run["plan"]["rate"] / run["scale"])
        content += [
            f'<polyline points="{line}" {stroke}/>',
            f'<path d="M{x} 332h28" {stroke} stroke-width="2.5"/>',
            f'<text x="{x + 36}" y="336">{rate} request{"" if rate == 1 else "s"} a second</text>',
        ]
    style = """.end { text-anchor: end; }
.middle { text-anchor: middle; }
.grid { stroke: #e4e7eb; }
polyline { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
.promise { stroke: #c92a2a; stroke-dasharray: 5 4; }"""
    return page(350, "Decisions that are still old, over the seconds since a flip of the flag", style, content)
