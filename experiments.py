"""The paper's experiments (Section 4): four tables of RMSE on MovieLens, and the grid behind each setting."""

import argparse
import json
import os
import sys
import tempfile
import time

import numpy as np
from tqdm import tqdm

from data import DataError, load, split
from lfg import LFG
from svd import SVD, BiasSVD

MODELS = {"svd": "SVD", "biassvd": "BiasSVD", "lfg": "LFG"}
CLASSES = {"SVD": SVD, "BiasSVD": BiasSVD, "LFG": LFG}
TITLES = {"basic": "LFG Rating Prediction", "realtime": "LFG Real-Time Rating Prediction"}
PAPER = {                                                     # (data set, test): table, its averages of RMSE
    ("ml-100k", "basic"): (1, {"SVD": 0.9404, "BiasSVD": 0.9136, "LFG": 0.9130}),
    ("ml-1m", "basic"): (2, {"SVD": 0.8672, "BiasSVD": 0.8607, "LFG": 0.8566}),
    ("ml-100k", "realtime"): (3, {"SVD": 1.1274, "BiasSVD": 1.0305, "LFG": 0.9255}),
    ("ml-1m", "realtime"): (4, {"SVD": 1.1151, "BiasSVD": 0.9835, "LFG": 0.8837}),
}
# Chosen with --test tune, which prints the grid around each; what is not named here is the class's default.
SETTINGS = {
    ("ml-100k", "basic"): {
        "SVD": dict(n_factors=10, l2=1.1, start=0.3, epochs=40),
        "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.6, epochs=20, rate=0.02),
        "LFG": dict(n_factors=200, l2=0.2, l2_M=0.6, mask=0.3, epochs=30, rate=5e-3),
    },
    ("ml-1m", "basic"): {
        "SVD": dict(n_factors=20, l2=1.1, start=0.3, epochs=40),
        "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.6, epochs=20, rate=0.02),
        "LFG": dict(n_factors=200, hidden=(500,), l2=0.02, l2_M=0.2, mask=0.3, epochs=30),
    },
    ("ml-100k", "realtime"): {
        "SVD": dict(n_factors=10, l2=1.1, start=0.3, epochs=40),
        "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.3, epochs=40, rate=0.04),
        "LFG": dict(n_factors=200, l2=0.3, l2_M=0.6, mask=0.3, epochs=40, rate=5e-3),
    },
    ("ml-1m", "realtime"): {
        "SVD": dict(n_factors=20, l2=1.1, start=0.3, epochs=40),
        "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.3, epochs=20, rate=0.02),
        "LFG": dict(n_factors=200, hidden=(500,), l2=0.02, l2_M=0.2, mask=0.3, epochs=30),
    },
}
SIZES = {"ml-100k": 100_000, "ml-1m": 1_000_209}              # ratings, to find the settings nearest in size
GRID = {                                                      # what --test tune varies, one at a time
    "SVD": {"n_factors": (0.5, 2), "l2": (0.8, 1.25), "start": (0.3, 3), "epochs": (0.5, 2), "rate": (0.5, 2)},
    "BiasSVD": {"n_factors": (0.5, 2), "l2": (0.8, 1.25), "l2_bias": (0.5, 2), "epochs": (0.5, 2), "rate": (0.5, 2)},
    "LFG": {"n_factors": (0.5, 2), "l2": (0.5, 2), "l2_M": (0.7, 1.4), "mask": (0.5, 1.5), "epochs": (0.7, 1.4)},
}


def main(argv=None):
    """Runs the command line; returns the exit code: 0, 2 after a user's mistake, 130 after Ctrl-C."""
    try:
        run(parse(argv))
    except DataError as error:
        print(f"experiments.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("experiments.py: interrupted; the folds finished so far are printed above", file=sys.stderr)
        return 130
    return 0


def run(options):
    """Prints one table after another, in the paper's order; rewrites --json after each."""
    names = ["ml-100k", "ml-1m"] if options.dataset == "all" else [options.dataset]
    tests = ["basic", "realtime"] if options.test in ("all", "tune") else [options.test]
    models = [MODELS[m] for m in MODELS if m in options.models]
    loaded, tables = {}, []
    for test in tests:
        for name in names:
            if name not in loaded:
                loaded[name] = load(name, options.data_dir, options.seed, not options.quiet and sys.stderr.isatty())
            if options.test == "tune":
                tables += [tune(loaded[name], test, model, options) for model in models]
            else:
                tables.append(cross_validate(loaded[name], test, models, options))
            if options.json:
                write_json(options.json, tables)


def cross_validate(data, test, models, options):
    """One table of the paper, each fold's row printed once it is known; returns its JSON object."""
    number, paper = PAPER.get((data.name, test), (None, None))
    settings = settings_for(data, test)
    title = f"{TITLES[test]} 5-Fold Cross-Validation Results on {data.name.replace('ml-', 'MovieLens-')}"
    show(f"Table {number}: {title}\n" if number else f"{title}\n")
    row = table_printer(["Fold", "Train Set", "Test Set"] + [f"{m} RMSE" for m in models])
    folds = []
    steps = len(options.folds) * sum(epochs_of(m, settings[m]) for m in models)
    with progress_bar(steps, options) as bar:
        for fold in options.folds:
            parts = split(data.ratings, test, fold, options.seed)
            result = {"fold": fold, "n_train": len(parts.train), "n_test": len(parts.target), "rmse": {}, "seconds": {}}
            for model in models:
                bar.set_description(f"{data.name} {test}, fold {fold}, {model}")
                result["rmse"][model], result["seconds"][model] = evaluate(
                    model, settings[model], parts, data.E, options.seed, bar)
            folds.append(result)
            row([fold, result["n_train"], result["n_test"]] + [f"{result['rmse'][m]:.4f}" for m in models])
    average = {m: float(np.mean([f["rmse"][m] for f in folds])) for m in models}
    row(["Average RMSE", "", ""] + [f"{average[m]:.4f}" for m in models])
    if paper:
        row(["Paper", "", ""] + [f"{paper[m]:.4f}" for m in models])
    row(["Seconds", "", ""] + [f"{sum(f['seconds'][m] for f in folds):.1f}" for m in models])
    show()
    return {"table": number, "dataset": data.name, "test": test, "seed": options.seed, "models": models,
            "folds": folds, "average": average, "paper": paper}


def tune(data, test, model, options):
    """Validation RMSE around a setting: a fifth cut out of fold 1's training part as its test part was cut out."""
    parts = split(split(data.ratings, test, 1, options.seed).train, test, 1, options.seed)
    used = settings_for(data, test)[model]
    show(f"Validation, {data.name} {test}, {model}: {describe(used)}\n")
    row = table_printer(["Changed".ljust(18), "RMSE".rjust(7), "Seconds"])
    grid = list(neighbours(CLASSES[model], used, GRID[model]))
    results = []
    with progress_bar(sum(epochs_of(model, setting) for _, setting in grid), options) as bar:
        for changed, setting in grid:
            bar.set_description(f"{data.name} {test}, {model}, {changed}")
            rmse, seconds = evaluate(model, setting, parts, data.E, options.seed, bar)
            results.append({"changed": changed, "setting": setting, "rmse": rmse, "seconds": seconds})
            row([changed, f"{rmse:.4f}", f"{seconds:.1f}"])
    show()
    return {"table": None, "dataset": data.name, "test": "tune", "of": test, "seed": options.seed,
            "models": [model], "grid": results}


def evaluate(model, setting, parts, E, seed, bar):
    """Trains one model on parts.train; its RMSE on parts.target, clipped to the scale seen in training, and seconds."""
    if not (len(parts.train) and len(parts.target)):
        raise DataError("too few users or ratings for five folds; give a larger data set")

    def progress(epoch, loss):
        bar.set_postfix(epoch=epoch + 1, loss=f"{loss:.4f}", refresh=False)
        bar.update()

    began = time.perf_counter()
    trained = train(model, setting, parts.train, E, seed, progress)
    seconds = time.perf_counter() - began
    profile = (parts.profile, E) if model == "LFG" else ()    # what the others know of a user is in their factors
    predicted = trained.predict(parts.target.users, parts.target.items, *profile)
    predicted = np.clip(predicted, parts.train.values.min(), parts.train.values.max())
    return float(np.sqrt(np.mean((predicted - parts.target.values) ** 2, dtype=np.float64))), seconds


def train(model, setting, ratings, E, seed, progress=None):
    """The model of that name, fitted on ratings (and E, where it takes side information)."""
    side = (E,) if model == "LFG" else ()
    return CLASSES[model](**setting, seed=seed).fit(ratings, *side, progress=progress)


def settings_for(data, test):
    """Settings of the MovieLens set nearest in size (on a log scale): itself, where it is one."""
    name = min(SIZES, key=lambda n: abs(np.log(SIZES[n] / len(data.ratings))))
    return SETTINGS[name, test]


def neighbours(cls, used, grid):
    """(what changed, setting): the setting in use, then one value at a time multiplied by the grid's factors."""
    yield "in use", used
    default = cls(**used)
    for key, factors in grid.items():
        for factor in factors:
            value = getattr(default, key)
            value = max(1, round(value * factor)) if isinstance(value, int) else round(value * factor, 6)
            yield f"{key} = {value}", {**used, key: value}


def epochs_of(model, setting):
    return CLASSES[model](**setting).epochs


def describe(setting):
    return ", ".join(f"{key} = {value}" for key, value in setting.items())


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


def write_json(path, tables):
    """Writes beside the file, then renames: a reader finds the old file or the new one, never half of it."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path) or ".", delete=False) as file:
            json.dump(tables, file, indent=1)
        os.replace(file.name, path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give --json a file in a folder that can be written") from error


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def parse(argv):
    """The options; exits with code 2 and one line when they make no sense."""
    parser = Parser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k", metavar="{ml-100k,ml-1m,synthetic,all}",
                        help="the data; also a path: a folder of .inter files or a CSV of user, item, rating")
    parser.add_argument("--test", default="all", choices=["basic", "realtime", "tune", "all"],
                        help="basic: 20%% of each user's ratings held out; realtime: 20%% of the users are new; "
                             "all: both; tune: validation RMSE around each setting")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="columns of the tables")
    parser.add_argument("--folds", nargs="+", type=int, default=[1, 2, 3, 4, 5], choices=range(1, 6), help="which folds")
    parser.add_argument("--seed", type=int, default=0, help="of the folds and of every random number in training")
    parser.add_argument("--data-dir", default=os.environ.get("LFG_DATA", "data"),
                        help="where ml-100k and ml-1m lie, and are put; LFG_DATA sets it too")
    parser.add_argument("--json", metavar="FILE", help="write the tables there as well")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    options = parser.parse_args(argv)
    if options.seed < 0:
        parser.error("--seed must not be negative")
    options.folds = sorted(set(options.folds))
    return options


if __name__ == "__main__":
    sys.exit(main())
