"""Draw what experiments.py wrote as an SVG: a column of panels per data set.

    python experiments.py --test coldstart --json coldstart.json
    python docs/plots.py coldstart.json docs/coldstart.svg
    python experiments.py --test calibration --json calibration.json
    python docs/plots.py calibration.json docs/calibration.svg
    python experiments.py --test sample --json sample.json
    python docs/plots.py sample.json docs/sample.svg

coldstart: RMSE by the number of ratings, one line per model. calibration: RMSE by fifth of the
spread and, below it, the share of ratings within the intervals, both the mean over the folds.
sample: RMSE of LFG-dual and, below it, NDCG@10 of LFG-rank by the share of users in training.
"""

import argparse
import json
from html import escape
from pathlib import Path

import numpy as np

COLOURS = ("#888888", "#d95f02", "#7570b3", "#1b9e77", "#000000")
WIDTH, HEIGHT, LEFT, TOP = 380, 260, 50, 40                # of a panel's plot, and its margins
STYLE = 'font-family="sans-serif" font-size="12"'
CAPTIONS = {"coldstart": "RMSE by the number of ratings in a new user's profile",
            "calibration": "Above: RMSE by fifth of the predicted spread. "
                           "Below: share of ratings within the interval of 50, 80 and 95 %",
            "sample": "By the share of the users that training has. "
                      "Above: RMSE of LFG-dual. Below: NDCG@10 of LFG-rank"}


def text(x, y, content, style=""):
    return f'<text x="{x:.0f}" y="{y:.1f}" {style}>{escape(str(content))}</text>'


def panels(table):
    """The panels of a table, from top to bottom: (labels of the x axis, {line: values})."""
    if table["test"] == "coldstart":
        return [(table["ratings"], table["average"])]
    if table["test"] == "sample":
        rows = table["rows"]
        labels = [f"{row['share']} %" for row in rows]
        return [(labels, {"LFG-dual": [row["rmse"] for row in rows]}),
                (labels, {"LFG-rank": [row["ndcg"] for row in rows]})]
    folds = table["folds"]
    levels = list(folds[0]["coverage"])
    fifths = np.mean([fold["rmse_by_fifth"] for fold in folds], axis=0)
    found = np.mean([list(fold["coverage"].values()) for fold in folds], axis=0)
    return [(["surest", "2", "3", "4", "least sure"], {"LFG-dual": fifths}),
            ([f"{level} %" for level in levels],
             {"as foreseen": [float(level) / 100 for level in levels], "LFG-dual": found})]


def panel(heading, labels, lines, x0, y0, colours):
    """The SVG elements of one panel, whose plot starts at x0, y0."""
    values = np.array(list(lines.values()))                # (lines, labels)
    # grid lines every 0.02, or every 0.04, 0.08... where that would be more than about nine
    step = 0.02 * 2 ** max(0, np.ceil(np.log2((np.ptp(values) + 1e-9) / 0.16)))
    low = np.floor(values.min() / step) * step
    high = max(low + step, np.ceil(values.max() / step) * step)
    xs = np.linspace(x0, x0 + WIDTH, values.shape[1])
    ys = y0 + HEIGHT * (high - values) / (high - low)
    parts = [text(x0, y0 - 16, heading, 'font-weight="bold"')]
    for tick in np.arange(low, high + step / 2, step):
        y = y0 + HEIGHT * (high - tick) / (high - low)
        parts.append(f'<path d="M{x0} {y:.1f}h{WIDTH}" stroke="#dddddd"/>')
        parts.append(text(x0 - 6, y + 4, f"{tick:.2f}", 'text-anchor="end"'))
    for x, label in zip(xs, labels):
        parts.append(text(x, y0 + HEIGHT + 18, label, 'text-anchor="middle"'))
    for name, line in zip(lines, ys):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, line))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[name]}" '
                     'stroke-width="2"/>')
    return parts


def draw(paths):
    """The SVG of the tables in JSON files."""
    tables = [table for path in paths for table in json.loads(Path(path).read_text())
              if table["test"] in CAPTIONS]                # not the lists
    if len({table["test"] for table in tables}) != 1:
        raise ValueError("there must be tables of one test: coldstart, calibration or sample")
    drawn = [panels(table) for table in tables]
    names = dict.fromkeys(name for rows in drawn for row in rows[::-1] for name in row[1])
    colours = dict(zip(names, COLOURS))
    parts, bottom = [], TOP
    for n, (table, rows) in enumerate(zip(tables, drawn)):
        for m, (labels, lines) in enumerate(rows):
            x0, y0 = LEFT + n * (WIDTH + 70), TOP + m * (HEIGHT + 60)
            parts += panel(table["dataset"] if m == 0 else "", labels, lines, x0, y0, colours)
            bottom = max(bottom, y0 + HEIGHT)
    parts.append(text(LEFT, bottom + 40, CAPTIONS[tables[0]["test"]]))
    parts += [text(LEFT + 130 * n, bottom + 62, name, f'fill="{colours[name]}" font-weight="bold"')
              for n, name in enumerate(colours)]
    width = LEFT + max(2, len(tables)) * (WIDTH + 70)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 76}" {STYLE}>'
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return svg + background + "\n".join(parts) + "</svg>\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw tables of experiments.py as an SVG.")
    parser.add_argument("json", nargs="+",
                        help="what --test coldstart, calibration or sample --json wrote")
    parser.add_argument("svg", help="the file to write")
    options = parser.parse_args()
    try:
        Path(options.svg).write_text(draw(options.json), encoding="utf-8")
    except Exception as error:                             # whatever a wrong file leads to
        named = error if isinstance(error, OSError) else f"{' '.join(options.json)}: {error!r}"
        parser.exit(2, f"plots.py: {named}\n")
