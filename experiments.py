"""The paper's experiments (Section 4): four tables of RMSE on MovieLens, and the grid behind each setting."""

import argparse
import json
import os
import sys
import time

import numpy as np
from tqdm import tqdm

from data import DataError, Split, load, split
from lfg import LFG
from svd import SVD, BiasSVD, SVDpp, fold_in, paired_dot

COLUMNS = {                                                   # what each of --models adds to the table of a test
    "basic": {"svd": ["SVD"], "biassvd": ["BiasSVD"], "svdpp": ["SVD++"],
              "lfg": ["LFG"], "lfg-item": ["LFG-item"], "lfg-dual": ["LFG-dual"]},
    "realtime": {"svd": ["SVD"], "biassvd": ["BiasSVD", "BiasSVD fold-in"], "svdpp": ["SVD++ fold-in"],
                 "lfg": ["LFG"], "lfg-item": ["LFG-item"], "lfg-dual": ["LFG-dual"]},
}
CLASSES = {"SVD": SVD, "BiasSVD": BiasSVD, "SVD++": SVDpp, "LFG": LFG, "LFG-item": LFG}
TITLES = {"basic": "LFG Rating Prediction", "realtime": "LFG Real-Time Rating Prediction"}
PAPER = {                                                     # (data set, test): table, its averages of RMSE
    ("ml-100k", "basic"): (1, {"SVD": 0.9404, "BiasSVD": 0.9136, "LFG": 0.9130}),
    ("ml-1m", "basic"): (2, {"SVD": 0.8672, "BiasSVD": 0.8607, "LFG": 0.8566}),
    ("ml-100k", "realtime"): (3, {"SVD": 1.1274, "BiasSVD": 1.0305, "LFG": 0.9255}),
    ("ml-1m", "realtime"): (4, {"SVD": 1.1151, "BiasSVD": 0.9835, "LFG": 0.8837}),
}
# Chosen on validation; --test tune prints the grid around each. What is not named here is the class's default.
SETTINGS = {
    ("ml-100k", "basic"): {
        "SVD": dict(n_factors=10, l2=1.1, start=0.1, epochs=40),
        "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.6, epochs=20, rate=0.02),
        "SVD++": dict(n_factors=20, l2=1.4, l2_bias=0.6, epochs=20, rate=0.02),
        "LFG": dict(n_factors=200, l2=0.2, l2_M=0.6, mask=0.3, epochs=30, rate=5e-3),
        "LFG-item": dict(n_factors=200, l2=0.05, l2_M=0.15, mask=0.5, shown_weight=0.2, svd_rows=30, rate=5e-3),
        "LFG-item fold-in": dict(l2=512.0, l2_bias=3.0),
        "LFG-dual": dict(seeds=5, user_weight=0.15),
    },
    ("ml-1m", "basic"): {
        "SVD": dict(n_factors=20, l2=1.1, start=0.3, epochs=40),
        "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.6, epochs=20, rate=0.02),
        "SVD++": dict(n_factors=10, l2=1.25, l2_bias=0.6, epochs=40, rate=0.02),
        "LFG": dict(n_factors=200, hidden=(500,), l2=0.02, l2_M=0.2, mask=0.3, epochs=30),
        "LFG-item": dict(n_factors=200, hidden=(500,), l2=0.02, l2_M=0.06, mask=0.5, shown_weight=0.2),
        "LFG-item fold-in": dict(l2=512.0, l2_bias=3.0),
        "LFG-dual": dict(seeds=2, user_weight=0.2),
    },
    ("ml-100k", "realtime"): {
        "SVD": dict(n_factors=10, l2=1.1, start=0.1, epochs=40),
        "BiasSVD": dict(n_factors=50, l2=1.1, l2_bias=0.3, epochs=20, rate=0.02),
        "BiasSVD fold-in": dict(l2=5.0, l2_bias=3.0),
        "SVD++": dict(n_factors=50, l2=1.2, l2_bias=0.3, epochs=20, rate=0.02),
        "SVD++ fold-in": dict(l2=5.0, l2_bias=3.0),
        "LFG": dict(n_factors=200, l2=0.3, l2_M=0.6, mask=0.3, epochs=40, rate=5e-3),
        "LFG-item": dict(n_factors=200, l2=0.05, l2_M=0.15, mask=0.5, shown_weight=0.2, svd_rows=30, batch=256),
        "LFG-item fold-in": dict(l2=200.0, l2_bias=3.0),
        "LFG-dual": dict(seeds=5, user_weight=0.15),
    },
    ("ml-1m", "realtime"): {
        "SVD": dict(n_factors=20, l2=1.1, start=0.3, epochs=40),
        "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.3, epochs=20, rate=0.02),
        "BiasSVD fold-in": dict(l2=6.0, l2_bias=3.0),
        "SVD++": dict(n_factors=20, l2=1.2, l2_bias=0.3, epochs=40, rate=0.02),
        "SVD++ fold-in": dict(l2=5.0, l2_bias=3.0),
        "LFG": dict(n_factors=200, hidden=(500,), l2=0.02, l2_M=0.2, mask=0.3, epochs=30),
        "LFG-item": dict(n_factors=200, hidden=(500,), l2=0.02, l2_M=0.06, mask=0.5, shown_weight=0.2),
        "LFG-item fold-in": dict(l2=350.0, l2_bias=3.0),
        "LFG-dual": dict(seeds=2, user_weight=0.1),
    },
}
SIZES = {"ml-100k": 100_000, "ml-1m": 1_000_209}              # ratings, to find the settings nearest in size
GRID = {                                                      # what --test tune varies, one value at a time
    "SVD": {"n_factors": (0.5, 2), "l2": (0.8, 1.25), "start": (0.3, 3), "epochs": (0.5, 2), "rate": (0.5, 2)},
    "BiasSVD": {"n_factors": (0.5, 2), "l2": (0.8, 1.25), "l2_bias": (0.5, 2), "epochs": (0.5, 2), "rate": (0.5, 2)},
    "SVD++": {"n_factors": (0.5, 2), "l2": (0.8, 1.25), "l2_bias": (0.5, 2), "epochs": (0.5, 2), "rate": (0.5, 2)},
    "LFG": {"n_factors": (0.5, 2), "l2": (0.5, 2), "l2_M": (0.7, 1.4), "mask": (0.7, 1.4), "rate": (0.6, 1.6)},
    "LFG-item": {"l2": (0.5, 2), "l2_M": (0.7, 1.4), "mask": (0.7, 1.4), "shown_weight": (0.5, 2), "rate": (0.6, 1.6)},
    "BiasSVD fold-in": {"l2": (0.5, 2), "l2_bias": (0.3, 3)},
    "SVD++ fold-in": {"l2": (0.5, 2), "l2_bias": (0.3, 3)},
    "LFG-item fold-in": {"l2": (0.5, 2), "l2_bias": (0.3, 3)},
    "LFG-dual": {"user_weight": (0, 0.5, 2)},
}
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}             # Student's t by number of folds


def main(argv=None):
    """Runs the command line; the exit code: 0, 1 when stdout was closed, 2 after a mistake, 130 after Ctrl-C."""
    try:
        run(parse(argv))
    except DataError as error:
        print(f"experiments.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:                                  # of stdout: its disk is full, or its reader has left
        sys.stdout = open(os.devnull, "w")                    # or the interpreter complains again when it flushes
        if isinstance(error, BrokenPipeError):
            return 1
        print(f"experiments.py: {error.strerror or error}; make room or redirect the output", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("experiments.py: interrupted; what was finished has been printed", file=sys.stderr)
        return 130
    return 0


def run(options):
    """Prints one table after another, in the paper's order; rewrites --json after each."""
    names = ["ml-100k", "ml-1m"] if options.dataset == "all" else [options.dataset]
    tests = ["basic", "realtime"] if options.test in ("all", "tune") else [options.test]
    path = output_file(options.json) if options.json else None
    loaded = {n: load(n, options.data_dir, options.seed, not options.quiet and sys.stderr.isatty()) for n in names}
    tables = []
    for test in tests:
        for name in names:
            columns = [c for model, added in COLUMNS[test].items() if model in options.models for c in added]
            if options.test == "tune":
                tables += [tune(loaded[name], test, column, options) for column in columns]
            else:
                tables.append(cross_validate(loaded[name], test, columns, options))
            if path:
                write_json(path, tables)


def cross_validate(data, test, columns, options):
    """One table of the paper, each fold's row printed once it is known; returns its JSON object."""
    number, paper = PAPER.get((data.name, test), (None, None))
    settings = settings_for(data, test, options)
    title = f"{TITLES[test]} 5-Fold Cross-Validation Results on {data.name.replace('ml-', 'MovieLens-')}"
    table = f"Table {number}" if number else f"{data.name} {test}"
    show(f"{table}: {title}\n" if number else f"{title}\n")
    row = table_printer(["Fold", "Train Set", "Test Set"] + [f"{c} RMSE" for c in columns])
    folds = []
    with progress_bar(len(options.folds) * epochs_of(columns, settings, options.seed), options) as bar:
        for fold in options.folds:
            parts, trained = split(data.ratings, test, fold, options.seed), {}
            result = {"fold": fold, "n_train": len(parts.train), "n_test": len(parts.target), "rmse": {}, "seconds": {}}
            for column in columns:
                bar.set_description(f"{table}, fold {fold}, {column}")
                rmse, seconds = evaluate(column, settings, parts, data, options.seed, trained, bar)
                result["rmse"][column], result["seconds"][column] = rmse, seconds
            folds.append(result)
            row([fold, result["n_train"], result["n_test"]] + [f"{result['rmse'][c]:.4f}" for c in columns])
    average = {c: float(np.mean([f["rmse"][c] for f in folds])) for c in columns}
    row(["Average RMSE", "", ""] + [f"{average[c]:.4f}" for c in columns])
    if paper:
        row(["Paper", "", ""] + [f"{paper[c]:.4f}" if c in paper else "" for c in columns])
    row(["Seconds", "", ""] + [f"{sum(f['seconds'][c] for f in folds):.1f}" for c in columns])
    show()
    return {"table": number, "dataset": data.name, "test": test, "seed": options.seed, "models": columns,
            "folds": folds, "average": average, "paper": paper, "differences": differences(folds, average)}


def differences(folds, average):
    """Prints and returns the mean difference of the best LFG column to each baseline, with its 95 % interval.

    Paired t with the correction of Nadeau and Bengio (2003): training sets overlap, so the variance of the mean over J
    folds is (1 / J + n_test / n_train) times that of a fold.
    """
    ours, baselines = ([c for c in average if c.startswith("LFG") == is_lfg] for is_lfg in (True, False))
    if not (ours and baselines) or len(folds) < 2:
        return []
    best, found = min(ours, key=average.get), []
    for baseline in baselines:
        d = np.array([f["rmse"][best] - f["rmse"][baseline] for f in folds])
        overlap = np.mean([f["n_test"] / f["n_train"] for f in folds])
        half = T_975[len(d)] * np.sqrt((1 / len(d) + overlap) * d.var(ddof=1))
        found.append({"model": best, "baseline": baseline, "mean": float(d.mean()),
                      "interval": [float(d.mean() - half), float(d.mean() + half)]})
        show(f"- {best} minus {baseline}: {d.mean():+.4f}, "
             f"95 % interval {d.mean() - half:+.4f} to {d.mean() + half:+.4f}")
    show()
    return found


def tune(data, test, column, options):
    """Validation RMSE around the settings of a column.

    Validation is cut out of fold 1's training part as the test part was cut out of the whole.
    """
    parts = split(split(data.ratings, test, 1, options.seed).train, test, 1, options.seed)
    used = settings_for(data, test, options)
    groups = list(dict.fromkeys([model_of(column), "LFG-item fold-in" if column == "LFG-item" else column]))
    values = ", ".join(f"{label(group, key)} = {value}" for group in groups for key, value in used[group].items())
    show(f"Validation, {data.name} {test}, {column}: {values}\n")
    row = table_printer(["Changed".ljust(24), "RMSE".rjust(7), "Seconds"])
    results, trained = [], {}
    grid = [("in use", used)] + [step for g in groups for step in neighbours(used, g)]
    with progress_bar(None, options) as bar:
        for changed, settings in grid:
            bar.set_description(f"{data.name} {test}, {column}, {changed}")
            rmse, seconds = evaluate(column, settings, parts, data, options.seed, trained, bar)
            results.append({"changed": changed, "rmse": rmse, "seconds": seconds})
            row([changed, f"{rmse:.4f}", f"{seconds:.1f}"])
    show()
    return {"table": None, "dataset": data.name, "test": "tune", "of": test, "seed": options.seed,
            "models": [column], "grid": results}


def neighbours(used, group):
    """(what changed, settings): one value of a group at a time, multiplied by each of the grid's factors."""
    for key, factors in GRID[group].items():
        value = used[group][key] if key in used[group] else getattr(CLASSES[group](), key)
        for factor in factors:
            other = max(1, round(value * factor)) if isinstance(value, int) else round(value * factor, 6)
            yield f"{label(group, key)} = {other}", {**used, group: {**used[group], key: other}}


def label(group, key):
    return f"fold-in {key}" if group.endswith("fold-in") else key


def evaluate(column, settings, parts, data, seed, trained, bar):
    """RMSE of a column on parts.target, clipped to the scale seen in training, and the seconds its training took.

    trained: models by (name, setting, seed), shared between the columns of a fold; what is missing is added.
    """
    if not (len(parts.train) and len(parts.target)):
        raise DataError("too few users or ratings for five folds; give a larger data set")
    parts, unit = in_stars(parts)
    models = []
    for name, its_seed in needs(column, settings, seed):
        key = (name, str(settings[name]), its_seed)
        if key not in trained:
            trained[key] = train(name, settings[name], parts.train, data, its_seed, bar)
        models.append(trained[key])
    predicted = predict(column, [model for model, _ in models], settings, parts, data)
    predicted = np.clip(predicted, parts.train.values.min(), parts.train.values.max())
    rmse = np.sqrt(np.mean((predicted - parts.target.values) ** 2, dtype=np.float64))
    return float(rmse * unit), sum(seconds for _, seconds in models)


def in_stars(parts):
    """Ratings divided by the unit that makes the training ratings span four units, as 1 to 5 do; and the unit.

    Rates, penalties and Tanh are set for that span, so a scale of 1 to 10 or of half stars needs no other settings.
    """
    unit = (parts.train.values.max() - parts.train.values.min()) / 4 or 1
    return (parts if unit == 1 else Split(*(r.with_values(r.values / unit) for r in parts))), unit


def needs(column, settings, seed):
    """(name, seed) of each model that a column is made of."""
    if column == "LFG-dual":
        return [("LFG", seed)] + [("LFG-item", seed + n) for n in range(settings["LFG-dual"]["seeds"])]
    return [(model_of(column), seed)]


def model_of(column):
    return column.replace(" fold-in", "")


def train(name, setting, ratings, data, seed, bar):
    """The model of that name, fitted on ratings, and the seconds it took. LFG-item is LFG on the transposed matrix."""
    def progress(epoch, loss):
        bar.set_postfix(epoch=epoch + 1, loss=f"{loss:.4f}", refresh=False)
        bar.update()

    began = time.perf_counter()
    inputs = {"LFG": (ratings, data.E), "LFG-item": (ratings.T, data.F)}.get(name, (ratings,))
    model = CLASSES[name](**setting, seed=seed).fit(*inputs, progress=progress)
    return model, time.perf_counter() - began


def predict(column, models, settings, parts, data):
    """Predictions (n,) of a column for parts.target, not clipped. A new user has a profile and nothing else."""
    model, users, items = models[0], parts.target.users, parts.target.items
    if column == "LFG":
        return model.predict(users, items, parts.profile, data.E)
    if column == "LFG-item":
        return predict_item_side(model, settings["LFG-item fold-in"], parts, data)
    if column == "LFG-dual":
        by_items = [predict_item_side(m, settings["LFG-item fold-in"], parts, data) for m in models[1:]]
        weight = settings["LFG-dual"]["user_weight"]
        return weight * model.predict(users, items, parts.profile, data.E) + (1 - weight) * np.mean(by_items, axis=0)
    if column.endswith("fold-in"):
        centre = model.z(parts.profile) if column.startswith("SVD++") else 0
        p, bu = fold_in(parts.profile, model.q, model.bi, model.mu, **settings[column], centre=centre)
        return model.mu + bu[users] + model.bi[items] + paired_dot(p, model.q, users, items)
    return model.predict(users, items)


def predict_item_side(model, ridge, parts, data):
    """Predictions (n,) of LFG-item: generated item factors, and every user, new or not, folded into them.

    The trained user matrix M stays behind: it has no row for a new user, and a solve serves the old ones better too.
    """
    users, items = parts.target.users, parts.target.items
    q, bi = model.generate(parts.train.T, data.F)
    p, bu = fold_in(parts.profile, q, bi, model.mu, **ridge)
    return model.mu + bu[users] + bi[items] + paired_dot(p, q, users, items)


def settings_for(data, test, options):
    """Settings of the MovieLens set nearest in size (on a log scale): its own, where it is one."""
    name = min(SIZES, key=lambda n: abs(np.log(SIZES[n] / len(data.ratings))))
    settings = dict(SETTINGS[name, test])
    if options.seeds:
        settings["LFG-dual"] = {**settings["LFG-dual"], "seeds": options.seeds}
    return settings


def epochs_of(columns, settings, seed):
    """Epochs in training all that the columns need, once each."""
    models = {need for column in columns for need in needs(column, settings, seed)}
    return sum(CLASSES[name](**settings[name]).epochs for name, _ in models)


def table_printer(header):
    """Prints a Markdown header aligned by eye; returns a function that prints a row under it."""
    widths = [max(len(name), 12 * (n == 0)) for n, name in enumerate(header)]

    def row(cells):
        cells = [str(c).ljust(w) if n == 0 else str(c).rjust(w) for n, (c, w) in enumerate(zip(cells, widths))]
        show("| " + " | ".join(cells) + " |")

    row(header)
    show("|" + "|".join("-" * (w + 2) if n == 0 else "-" * (w + 1) + ":" for n, w in enumerate(widths)) + "|")
    return row


def show(line=""):
    """A line on stdout, above the progress bar where both share a terminal."""
    tqdm.write(line)
    sys.stdout.flush()


def progress_bar(steps, options):
    """A tqdm bar on stderr; silent with --quiet or where stderr is no terminal."""
    return tqdm(total=steps, leave=False, disable=True if options.quiet else None, dynamic_ncols=True)


def output_file(path):
    """The plain file that path names, links followed, which may not exist yet; told before anything is trained."""
    real = os.path.realpath(path)
    if not os.path.isdir(os.path.dirname(real)) or os.path.exists(real) and not os.path.isfile(real):
        raise DataError(f"{path}: not a plain file in a folder that exists; give --json another name")
    return real


def write_json(path, tables):
    """Writes beside the file, then renames: a reader finds the old file or the new one, never half of it."""
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "w") as file:
            json.dump(tables, file, indent=1)
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give --json a file that can be written") from error
    finally:
        if os.path.exists(part):
            os.remove(part)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def parse(argv):
    """The options; exits with code 2 and one line when they make no sense."""
    parser = Parser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k", metavar="{ml-100k,ml-1m,synthetic,all}",
                        help="the data; also a path: a folder in GroupLens' or RecBole's layout, or a CSV "
                        "whose first line names user, item and rating, as userId,movieId,rating does")
    parser.add_argument("--test", default="all", choices=["basic", "realtime", "tune", "all"],
                        help="basic: 20%% of each user's ratings held out; realtime: 20%% of the users are new; "
                             "all: both; tune: validation RMSE around each setting, within fold 1's training part")
    parser.add_argument("--models", nargs="+", default=list(COLUMNS["basic"]), choices=list(COLUMNS["basic"]),
                        help="columns of the tables")
    parser.add_argument("--folds", nargs="+", type=int, default=[1, 2, 3, 4, 5], choices=range(1, 6),
                        help="which folds")
    parser.add_argument("--seeds", type=int, help="runs of the item side that LFG-dual averages; "
                        "if not given, 5 on ML-100k and 2 on ML-1m")
    parser.add_argument("--seed", type=int, default=0, help="of the folds and of every random number in training")
    parser.add_argument("--data-dir", default=os.environ.get("LFG_DATA") or "data",
                        help="where ml-100k and ml-1m lie, and are put; LFG_DATA sets it too")
    parser.add_argument("--json", metavar="FILE", help="write the tables there as well")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    options = parser.parse_args(argv)
    if options.seed < 0 or options.seeds is not None and options.seeds < 1:
        parser.error("--seed must be at least 0, --seeds at least 1")
    options.folds = sorted(set(options.folds))
    return options


if __name__ == "__main__":
    sys.exit(main())
