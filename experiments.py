"""The paper's experiments (Section 4): four tables of RMSE on MovieLens.

There are also tests that the paper does not have: new items, how many ratings a new user has to
give, the effect of each choice, the cost of a new user, and the grid around each hyperparameter.
"""

import os
import sys
from importlib.util import find_spec

if __name__ == "__main__":                                 # BLAS reads these when NumPy is loaded
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
                     "VECLIB_MAXIMUM_THREADS"):
        os.environ.setdefault(variable, "1")
    if find_spec("numpy") is None:
        print("experiments.py: numpy is missing; pip install -r requirements.txt", file=sys.stderr)
        sys.exit(2)

import argparse
import json
import tempfile
import time
from dataclasses import replace

import numpy as np

try:
    import resource
except ImportError:                                        # Windows
    resource = None

from data import DataError, Ratings, Split, first_ratings, load, output_path, split, write_whole
from lfg import LFG, LFGDual, LFGItem, PaperLFG
from serve import Parser, Recommender, add_data_options, int_range, progress_bar, progress_of
from serve import run_command
from settings import COUNTS, GRID, settings_for
from svd import SVD, BiasSVD, FoldIn, SVDpp, ensure_fitted

COLUMNS = {                                                # rows that each of --models adds
    "basic": {"svd": ["SVD"], "biassvd": ["BiasSVD"], "svdpp": ["SVD++"],
              "lfg": ["LFG"], "lfg-item": ["LFG-item"], "lfg-dual": ["LFG-dual"]},
    "realtime": {"svd": ["SVD"], "biassvd": ["BiasSVD", "BiasSVD fold-in"],
                 "svdpp": ["SVD++ fold-in"], "lfg": ["LFG"], "lfg-item": ["LFG-item"],
                 "lfg-dual": ["LFG-dual"]},
    "newitem": {"biassvd": ["μ + bu", "BiasSVD fold-in"],
                "lfg": ["LFG"], "lfg-item": ["LFG-item"], "lfg-dual": ["LFG-dual"]},
    "coldstart": {"biassvd": ["μ + bi", "BiasSVD fold-in"],
                  "lfg": ["LFG"], "lfg-item": ["LFG-item"], "lfg-dual": ["LFG-dual"]},
}
CLASSES = {"SVD": SVD, "BiasSVD": BiasSVD, "SVD++": SVDpp, "LFG": LFG, "LFG-item": LFG,
           "LFG (paper)": PaperLFG}
TITLES = {"basic": "LFG Rating Prediction", "realtime": "LFG Real-Time Rating Prediction",
          "newitem": "New Items,", "coldstart": "Cold Start by Ratings in the Profile,",
          "ablation": "What Each Choice Buys,", "speed": "What a New User Costs,"}
PAPER = {                                                  # table and its averages of RMSE
    ("ml-100k", "basic"): (1, {"SVD": 0.9404, "BiasSVD": 0.9136, "LFG": 0.9130}),
    ("ml-1m", "basic"): (2, {"SVD": 0.8672, "BiasSVD": 0.8607, "LFG": 0.8566}),
    ("ml-100k", "realtime"): (3, {"SVD": 1.1274, "BiasSVD": 1.0305, "LFG": 0.9255}),
    ("ml-1m", "realtime"): (4, {"SVD": 1.1151, "BiasSVD": 0.9835, "LFG": 0.8837}),
}
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}          # Student's t by number of folds


def run(argv):
    """Print one table after another, in the paper's order; rewrite --json after each."""
    options = parse(argv)
    names = ["ml-100k", "ml-1m"] if options.dataset == "all" else [options.dataset]
    if options.json:                                       # checked before anything is trained
        folders = [os.path.join(options.data_dir, name) for name in names]
        options.json = output_path(options.json, options.dataset, *folders)
    loaded = [load(name, options.data_dir, options.seed, not options.quiet, options.columns)
              for name in names]
    make = {"tune": tune, "speed": speed}.get(options.test, cross_validate)
    tables = []
    for test in options.tests:
        for data in loaded:
            for table in make(data, test, options):
                tables.append(table)
                if options.json:
                    write_whole(options.json, json.dumps(tables, indent=1))


def columns_of(test, options):
    """The rows of a test's table that --models asks for."""
    return [column for model in options.models for column in COLUMNS[test].get(model, [])]


def turned(data, test):
    """The Dataset, transposed if the test is newitem: users and items exchanged."""
    if test != "newitem":
        return data
    return replace(data, ratings=data.ratings.T, E=data.F, F=data.E)


def parts_of(column, settings, seed):
    """(name, seed) of each model that has to be trained for a column."""
    if column == "LFG-dual":
        seeds = range(seed, seed + settings[column]["seeds"])
        return [("LFG", seed)] + [("LFG-item", one) for one in seeds]
    if column.startswith("μ"):
        return [("BiasSVD", seed)]
    return [(column.replace(" fold-in", ""), seed)]


class Trainer:
    """Fits the models of a table on one training part; what several columns share is trained once.

    For new items data is turned, and LFG and LFG-item exchange their roles.
    """

    def __init__(self, data, test, R, options):
        self.name = data.name
        self.inputs = (R, data.E, data.F)
        self.generates_columns = "LFG" if test == "newitem" else "LFG-item"
        self.options = options
        self.trained = {}                                  # (name, setting, seed): model, seconds

    def fitted(self, column, settings, what):
        """The model of a column and the seconds its training took; what: for the progress bar."""
        parts, seconds = [], 0
        for name, seed in parts_of(column, settings, self.options.seed):
            key = (name, str(settings[name]), seed)
            if key not in self.trained:
                self.trained[key] = self.train(name, settings[name], seed, what)
            parts.append(self.trained[key][0])
            seconds += self.trained[key][1]
        model = self.model_of(column, parts, settings)
        ensure_fitted(model, *self.inputs)
        return model, seconds

    def train(self, name, setting, seed, what):
        """The part of that name, fitted, and the seconds it took."""
        R, E, F = self.inputs
        if name == self.generates_columns:
            R, E, F = R.T, F, E
        model = CLASSES[name](**setting, seed=seed)
        with progress_bar(model.epochs, self.options.quiet) as bar:
            bar.set_description_str(f"{self.name} {what} {name} seed {seed}")
            began = time.perf_counter()
            model.fit(R, E, F, progress=progress_of(bar))
            return model, time.perf_counter() - began

    def model_of(self, column, parts, settings):
        """The model of a column, made of trained parts.

        A network that generates the rows of R is the model itself; one that generates the columns
        of R becomes an LFGItem.
        """
        if column == "LFG-dual":
            lfg, *items = (self.model_of(name, [part], settings) for name, part in
                           zip(["LFG"] + ["LFG-item"] * len(parts), parts))
            weight = settings[column]["user_weight"]
            weights = (weight, settings[column].get("empty_weight", weight))
            if self.generates_columns == "LFG":
                return LFGDual(items, [lfg], [1 - w for w in weights])
            return LFGDual([lfg], items, weights)
        if column == self.generates_columns:
            return LFGItem(parts[0], **settings[f"{column} fold-in"])
        if column == "SVD++ fold-in":
            return FoldIn(parts[0], **settings[column], centre=parts[0].implicit_rows)
        return FoldIn(parts[0], **settings[column]) if column == "BiasSVD fold-in" else parts[0]


def cases_of(ratings, test, fold, seed):
    """The Splits of a fold, all with one training part: one, or in coldstart one for each count.

    coldstart keeps the new users with enough ratings for the largest count, so that all cases
    score the same ratings. Raises DataError if there are too few data.
    """
    parts = split(ratings, "basic" if test == "basic" else "realtime", fold, seed)
    if not (len(parts.train) and len(parts.target)):
        raise DataError("too few users or ratings for five folds; use a larger data set")
    if test != "coldstart":
        return [parts]
    steady = parts.profile.counts >= COUNTS[-1]
    if not steady.any():
        raise DataError(f"no new user of fold {fold} has {COUNTS[-1]} ratings to show; use data "
                        "with more ratings per user")
    profile, target = (r.where(steady[r.users]) for r in parts[1:])
    return [Split(parts.train, first_ratings(profile, n, seed), target) for n in COUNTS]


def rmse_of(model, cases, E):
    """RMSE on the target of each case, predictions clipped to the scale seen in training."""
    found = []
    for train_part, profile, target in cases:
        predicted = model.predict(target.users, target.items, profile, E)
        predicted = predicted.clip(train_part.values.min(), train_part.values.max())
        error = predicted - target.values
        found.append(float(np.sqrt(np.mean(error ** 2, dtype=np.float64))))
    return found if len(found) > 1 else found[0]


def run_fold(data, test, plan, fold, measure, options):
    """Train and measure the rows of a plan, {row: (column, settings)}: JSON object of the fold.

    measure(model, cases, E): a number, or a list of as many numbers for each row, like rmse_of.
    """
    data = turned(data, test)
    cases = cases_of(data.ratings, test, fold, options.seed)
    train, _, target = cases[0]
    trainer = Trainer(data, test, train, options)
    result = {"fold": fold, "n_train": len(train), "n_test": len(target), "rmse": {}, "seconds": {}}
    for row, (column, settings) in plan.items():
        model, result["seconds"][row] = trainer.fitted(column, settings, f"fold {fold}")
        result["rmse"][row] = measure(model, cases, data.E)
    return result


def cross_validate(data, test, options):
    """Train and score a table fold by fold, then print it and yield its JSON objects.

    The ablation is a table in two tests. Ctrl-C leaves the table of the complete folds.
    """
    plans = {}
    for of in ("basic", "realtime") if test == "ablation" else (test,):
        settings = settings_for(len(data.ratings), of, options.seeds)
        plans[of] = (choices(settings) if test == "ablation"
                     else {column: (column, settings) for column in columns_of(test, options)})
    folds = []
    try:
        for fold in options.folds:
            folds.append({of: run_fold(data, of, plan, fold, rmse_of, options)
                          for of, plan in plans.items()})
    finally:                                               # after Ctrl-C, too
        if folds:
            show = {"coldstart": show_counts, "ablation": show_choices}.get(test, show_folds)
            yield from show(*(table_object(data, test, [fold[of] for fold in folds], options)
                              for of in plans))


def table_object(data, test, folds, options):
    """The JSON object of a table; average over the folds by model, a list where a fold has one."""
    average = {name: np.mean([f["rmse"][name] for f in folds], axis=0).tolist()
               for name in folds[0]["rmse"]}
    return {"table": None, "dataset": data.name, "test": test, "seed": options.seed,
            "models": list(average), "folds": list(folds), "average": average}


def show_folds(table):
    """Print a table of the paper, or of new items: a column per fold. Return [table], completed."""
    folds, average = table["folds"], table["average"]
    number, paper = PAPER.get((table["dataset"], table["test"]), (None, None))
    header = ["Model".ljust(15), *(f"Fold {f['fold']}" for f in folds), "Average"]
    rows = [[name, *(f["rmse"][name] for f in folds), average[name]] for name in average]
    if paper:
        header.append(" Paper")
        rows = [row + [paper.get(row[0], "")] for row in rows]
    print(f"Table {number}: {title(table)}" if number else title(table))
    print_table(header + ["Seconds"], [row + [seconds_of(table, row[0])] for row in rows])
    return [{**table, "table": number, "paper": paper, "differences": differences(folds, average)}]


def show_counts(table):
    """Print the RMSE by the number of ratings that a new user has given: a column per number."""
    print(title(table))
    print_table(["Ratings shown".ljust(15), *(f"{n:>6}" for n in COUNTS), "Seconds"],
                [[name, *rmse, seconds_of(table, name)] for name, rmse in table["average"].items()])
    return [{**table, "ratings": COUNTS}]


def show_choices(basic, realtime):
    """Print the ablation, from the paper as published to LFG-dual: a column per test."""
    print(title(basic))
    print_table(["Choice".ljust(66), " Basic", "Real-time"],
                [[row, basic["average"][row], realtime["average"][row]] for row in basic["models"]])
    return [{**basic, "of": "basic"}, {**realtime, "of": "realtime"}]


def differences(folds, average):
    """Print and return the mean difference between the best LFG and each baseline, with interval.

    Paired t with the correction of Nadeau and Bengio (2003): training sets overlap, so the variance
    of the mean over J folds is (1 / J + n_test / n_train) times that of a fold.
    """
    ours = [name for name in average if name.startswith("LFG")]
    if not ours or len(ours) == len(average) or len(folds) < 2:
        return []
    best = min(ours, key=average.get)
    found = []
    for baseline in [name for name in average if name not in ours]:
        d = np.array([f["rmse"][best] - f["rmse"][baseline] for f in folds])
        overlap = np.mean([f["n_test"] / f["n_train"] for f in folds])
        half = T_975[len(d)] * np.sqrt((1 / len(d) + overlap) * d.var(ddof=1))
        low, high = float(d.mean() - half), float(d.mean() + half)
        found.append({"model": best, "baseline": baseline, "mean": float(d.mean()),
                      "interval": [low, high]})
        print(f"- {best} minus {baseline}: {d.mean():+.4f}, "
              f"95 % interval {low:+.4f} to {high:+.4f}")
    print()
    return found


def choices(settings):
    """The rows of the ablation, {what is added: (column, settings)}; nothing is tuned again."""
    lfg, item, dual = settings["LFG"], settings["LFG-item"], settings["LFG-dual"]
    masked = {**lfg, "mask": 0.1}                          # the steps, from the last to the first
    few = {**masked, "n_factors": 50}
    dropout = {**few, "l2": 0.0, "l2_M": 0.0, "dropout": LFG().dropout}
    published = {**dropout, "dropout": 0.0}
    steps = [("LFG (paper)", "as published: raw ratings in, mask 0.1, no penalties", published),
             ("LFG (paper)", "+ dropout", dropout),
             ("LFG (paper)", "+ L2 on weights and M", {**few, "dropout": LFG().dropout}),
             ("LFG", "+ deviations from μ and the item's mean, 0/1 indicator", few),
             ("LFG", "+ four times the factors", masked), ("LFG", "+ mask 0.3 (LFG)", lfg)]
    rows = {what: (name, {**settings, name: setting}) for name, what, setting in steps}
    copying = {**item, "mask": lfg["mask"], "shown_weight": 1.0}
    rows["turned around: items generated, users solved"] = (
        "LFG-item", {**settings, "LFG-item": copying})
    rows["+ mask 0.5, weight 0.2 for ratings that the input shows (LFG-item)"] = (
        "LFG-item", settings)
    rows["+ mean over seeds"] = (
        "LFG-dual", {**settings, "LFG-dual": {**dual, "user_weight": 0}})
    rows["+ the user side, with its weight (LFG-dual)"] = ("LFG-dual", settings)
    return rows


def tune(data, test, options):
    """Print the validation RMSE around the settings of each model; yield the JSON objects.

    Validation is cut out of fold 1's training part just as the test part was cut out of the whole.
    """
    used = settings_for(len(data.ratings), test, options.seeds)
    data = turned(data, test)
    training = cases_of(data.ratings, test, 1, options.seed)[0].train
    cases = cases_of(training, test, 1, options.seed)
    for column in [column for column in columns_of(test, options) if not column.startswith("μ")]:
        trainer = Trainer(data, test, cases[0].train, options)
        name = column.replace(" fold-in", "")
        groups = [group for group in (name, f"{name} fold-in") if group in used]
        values = ", ".join(f"{label(group, key)} = {value}"
                           for group in groups for key, value in used[group].items())
        print(f"Validation RMSE, {data.name} {test}, {column}: {values}\n")
        rows = print_table(["Changed".ljust(24), "  RMSE", "Seconds"],
                           tried(trainer, column, neighbours(used, groups), cases, data.E))
        grid = [dict(zip(("changed", "rmse", "seconds"), row)) for row in rows]
        yield {"table": None, "dataset": data.name, "test": "tune", "of": test,
               "seed": options.seed, "models": [column], "grid": grid}


def tried(trainer, column, grid, cases, E):
    """Yield a row (what changed, RMSE, seconds) per setting; of coldstart, the mean of counts."""
    for changed, settings in grid:
        model, seconds = trainer.fitted(column, settings, changed)
        yield changed, float(np.mean(rmse_of(model, cases, E))), seconds


def neighbours(used, groups):
    """Yield (what changed, settings): those in use, then each value times its grid's numbers."""
    yield "in use", used
    for group in groups:
        default = CLASSES[group]() if group in CLASSES else None
        for key, factors in GRID[group].items():
            value = used[group].get(key, getattr(default, key, None))
            for factor in factors if value is not None else ():
                other = scaled(value, factor)
                yield f"{label(group, key)} = {other}", {**used, group: {**used[group], key: other}}


def scaled(value, factor):
    """A hyperparameter times a factor: counts stay whole and above 0, ends of a range at most 1."""
    if isinstance(value, tuple):
        return tuple(min(1.0, round(v * factor, 6)) for v in value)
    return max(1, round(value * factor)) if isinstance(value, int) else round(value * factor, 6)


def label(group, key):
    return f"fold-in {key}" if group.endswith("fold-in") else key


def speed(data, test, options):
    """What a new user of the real-time test's fold 1 costs, by model, and what training costs.

    The networks have the settings of coldstart, as in a saved model; the baselines have those of
    realtime. Yields one JSON object.
    """
    settings = settings_for(len(data.ratings), "realtime", options.seeds)
    saved = settings_for(len(data.ratings), "coldstart", options.seeds)
    settings.update({name: saved[name] for name in saved if name.startswith("LFG")})
    R, profile, target = cases_of(data.ratings, "realtime", 1, options.seed)[0]
    new = np.flatnonzero(target.counts)
    users = [(*profile.rows(u[None])[1:], data.E[u]) for u in new]       # items, ratings, profile
    trainer = Trainer(data, "realtime", R, options)
    bias, _, dual = (trainer.fitted(column, settings, "fold 1")[0]
                     for column in ("BiasSVD fold-in", "SVD", "LFG-dual"))
    seconds = {"LFG, dense forward pass": timed(dual.forward[0].scores,
                                                [(u[None], profile, data.E) for u in new])}
    for name, *parts in (("LFG", dual.forward, []), ("LFG-item", [], dual.solved[:1]),
                         ("BiasSVD fold-in", [], [bias]), ("LFG-dual", dual.forward, dual.solved)):
        model = Recommender.from_model(LFGDual(*parts, dual.weights), data, R)
        seconds[name] = timed(model.scores, users)
    for name in ("BiasSVD", "SVD"):                        # with the ratings shown of one new user
        more = [Trainer(data, "realtime", joined(R, profile.where(profile.users == u)), options)
                for u in new[:3]]
        seconds[f"Retraining {name}"] = [
            one.train(name, settings[name], options.seed, "again")[1] for one in more]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.npz")
        model.save(path)                                   # of LFG-dual
        size = os.path.getsize(path) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6 if resource else None
    middle = {what: float(np.median(values)) for what, values in seconds.items()}
    yield show_speed({
        "table": None, "dataset": data.name, "test": "speed", "seed": options.seed,
        "rows": [{"what": what, "calls": len(values), "median": middle[what],
                  "p99": float(np.percentile(values, 99, method="higher")),  # an actual call's
                  "times_dense": middle[what] / middle["LFG, dense forward pass"]}
                 for what, values in seconds.items()],
        "training": [{"model": name, "seconds": took, "epochs": part.epochs,
                      "seconds_an_epoch": took / part.epochs}
                     for (name, _, seed), (part, took) in trainer.trained.items()
                     if seed == options.seed],
        "retraining_to_lfg": middle["Retraining BiasSVD"] / middle["LFG"],
        "peak_mb": peak, "seeds": model.n_solved, "file_mb": size})


def joined(R, more):
    """R with more ratings, of other pairs."""
    return Ratings(*(np.append(getattr(R, name), getattr(more, name))
                     for name in ("users", "items", "values")), R.shape)


def timed(answer, calls, warm=50):
    """Seconds of each call, one after another, after some calls that are not timed."""
    for call in calls[:warm]:
        answer(*call)
    seconds = []
    for call in calls:
        began = time.perf_counter()
        answer(*call)
        seconds.append(time.perf_counter() - began)
    return seconds


def show_speed(table):
    """Print the JSON object of speed and return it."""
    print(f"{TITLES['speed']} Fold 1, One Thread, on {public_name(table)}\n")
    print_table(["What".ljust(23), "Calls", "  Median", "99th percentile",
                 "Times dense forward pass"],
                [[r["what"], r["calls"], span(r["median"]), span(r["p99"]),
                  f"{r['times_dense']:,.{0 if r['times_dense'] >= 100 else 2}f}"]
                 for r in table["rows"]])
    print_table(["Model".ljust(12), "Seconds to train", "Epochs", "Seconds per epoch"],
                [[t["model"], f"{t['seconds']:.2f}", t["epochs"], f"{t['seconds_an_epoch']:.3f}"]
                 for t in table["training"]])
    print(f"- Retraining BiasSVD takes {table['retraining_to_lfg']:,.0f} times as long as LFG's "
          "answer")
    if table["peak_mb"]:
        print(f"- Peak memory of the process, training included: {table['peak_mb']:.0f} MB")
    print(f"- LFG-dual, with {table['seeds']} seeds of LFG-item, is a file of "
          f"{table['file_mb']:.1f} MB\n")
    return table


def span(seconds):
    """A time as text with three significant digits and a unit, such as 81.2 µs."""
    units = [("s", 1), ("ms", 1e3), ("µs", 1e6)]
    unit, factor = next((u, f) for u, f in units if seconds * f >= 1 or u == "µs")
    return f"{float(f'{seconds * factor:.3g}'):g} {unit}"


def title(table):
    """What a table is of; five folds are a cross-validation, fewer are named."""
    what, which = "5-Fold Cross-Validation Results", ""
    folds = [str(fold["fold"]) for fold in table["folds"]]
    if len(folds) < 5:
        what, which = "Results", f", fold{'s' * (len(folds) > 1)} {', '.join(folds)}"
    return (f"{TITLES[table['test']]} {what} on {public_name(table)}{which}\n"
            "(RMSE, lower is better)\n")


def public_name(table):
    return table["dataset"].replace("ml-", "MovieLens-")


def seconds_of(table, name):
    """Seconds in training, all folds together."""
    return sum(fold["seconds"][name] for fold in table["folds"])


def print_table(header, rows):
    """Print a Markdown table, as wide as its header, row by row; return the rows as a list."""
    widths = [len(name) for name in header]
    done = []

    def show(cells):
        cells = [f"{c:.{1 if name == 'Seconds' else 4}f}" if isinstance(c, float) else str(c)
                 for c, name in zip(cells, header)]
        cells = [c.rjust(w) if n else c.ljust(w) for n, (c, w) in enumerate(zip(cells, widths))]
        print("| " + " | ".join(cells) + " |", flush=True)

    show(header)
    print("|" + "|".join("-" * (w + 1) + ("-:"[n > 0]) for n, w in enumerate(widths)) + "|")
    for row in rows:                                       # which may be in the making
        show(row)
        done.append(row)
    print()
    return done


def parse(argv):
    """The options; exits with code 2 and one line when they make no sense."""
    models = list(COLUMNS["basic"])
    parser = Parser(prog="experiments.py", description=__doc__,
                    formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add_data_options(add)
    add("--test", default="all", choices=[*COLUMNS, "ablation", "speed", "tune", "all"],
        help="basic: 20%% of each user's ratings held out; realtime: 20%% of the users are new; "
             "all: both; newitem: 20%% of the items are new; coldstart: new users by number of "
             "ratings; ablation: from the paper to LFG-dual, one choice per row; speed: time per "
             "new user of fold 1, training time, and memory; tune: validation RMSE around each "
             "setting, within fold 1's training part")
    add("--of", nargs="+", default=list(COLUMNS), choices=list(COLUMNS), help="tests to tune")
    add("--models", nargs="+", choices=models, help="rows of the tables; if not given, all")
    add("--folds", nargs="+", type=int, default=[1, 2, 3, 4, 5], choices=range(1, 6),
        metavar="{1..5}", help="which folds")
    add("--seeds", type=int_range(1, 1000), help="runs of LFG-item that LFG-dual averages; "
        "if not given, 5 on ML-100k and 2 on ML-1m")
    add("--seed", type=int_range(0, 2 ** 63), default=0,
        help="seed of the folds and of all random numbers in training")
    add("--json", metavar="FILE", help="also write the tables to this file")
    options = parser.parse_args(argv)
    options.tests = {"all": ["basic", "realtime"], "tune": options.of}.get(options.test,
                                                                           [options.test])
    known = [model for model in models for test in options.tests if model in COLUMNS.get(test, {})]
    if options.models and not known:
        parser.error(f"--models does not apply to --test {options.test}")
    if options.models and not set(options.models) & set(known):
        parser.error(f"--models {' '.join(options.models)}: {options.tests[0]} has only "
                     f"{' '.join(dict.fromkeys(known))}")
    options.models = [model for model in models if model in (options.models or models)]
    options.folds = sorted(set(options.folds))
    return options


if __name__ == "__main__":
    run_command("experiments.py", run, None, "interrupted; complete folds have been printed")
