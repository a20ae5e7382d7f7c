"""Draw the RMSE of the test coldstart as an SVG: one panel per data set, one line per model.

    python experiments.py --test coldstart --json coldstart.json
    python docs/plots.py coldstart.json docs/coldstart.svg
"""

import argparse
import json
from html import escape
from pathlib import Path

import numpy as np

COLOURS = ("#888888", "#d95f02", "#7570b3", "#1b9e77", "#000000")
WIDTH, HEIGHT, LEFT, TOP = 380, 260, 50, 40                # of a panel's plot, and its margins
STYLE = 'font-family="sans-serif" font-size="12"'


def text(x, y, content, style=""):
    return f'<text x="{x:.0f}" y="{y:.1f}" {style}>{escape(str(content))}</text>'


def panel(table, x0, colours):
    """The SVG elements of one table, whose plot starts at x0."""
    values = np.array(list(table["average"].values()))     # (models, counts)
    # grid lines every 0.02, or every 0.04, 0.08... where that would be more than about nine
    step = 0.02 * 2 ** max(0, np.ceil(np.log2((np.ptp(values) + 1e-9) / 0.16)))
    low = np.floor(values.min() / step) * step
    high = max(low + step, np.ceil(values.max() / step) * step)
    xs = np.linspace(x0, x0 + WIDTH, values.shape[1])
    ys = TOP + HEIGHT * (high - values) / (high - low)
    parts = [text(x0, 24, table["dataset"], 'font-weight="bold"')]
    for tick in np.arange(low, high + step / 2, step):
        y = TOP + HEIGHT * (high - tick) / (high - low)
        parts.append(f'<path d="M{x0} {y:.1f}h{WIDTH}" stroke="#dddddd"/>')
        parts.append(text(x0 - 6, y + 4, f"{tick:.2f}", 'text-anchor="end"'))
    for x, count in zip(xs, table["ratings"]):
        parts.append(text(x, TOP + HEIGHT + 18, count, 'text-anchor="middle"'))
    for model, line in zip(table["average"], ys):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, line))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[model]}" '
                     'stroke-width="2"/>')
    return parts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw cold start tables as an SVG.")
    parser.add_argument("json", nargs="+", help="what experiments.py --test coldstart --json wrote")
    parser.add_argument("svg", help="the file to write")
    options = parser.parse_args()
    tables = [table for path in options.json for table in json.loads(Path(path).read_text())
              if table["test"] == "coldstart"]             # not the lists
    colours = dict(zip(dict.fromkeys(m for t in tables for m in t["models"]), COLOURS))
    parts = [text(LEFT, 340, "RMSE by the number of ratings in a new user's profile")]
    parts += [p for n, t in enumerate(tables) for p in panel(t, LEFT + n * (WIDTH + 70), colours)]
    parts += [text(LEFT + 130 * n, 362, model, f'fill="{colours[model]}" font-weight="bold"')
              for n, model in enumerate(colours)]
    width = LEFT + max(2, len(tables)) * (WIDTH + 70)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 376" {STYLE}>'
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    Path(options.svg).write_text(svg + background + "\n".join(parts) + "</svg>\n", encoding="utf-8")
