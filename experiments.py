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
import time
from dataclasses import replace
from timeit import timeit

import numpy as np

try:
    import resource
except ImportError:                                        # Windows
    resource = None

from data import DataError, Split, first_ratings, load, output_path, split, write_whole
from lfg import LFG, LFGDual, LFGItem, PaperLFG
from serve import Parser, Recommender, add_data_options, int_range, progress_bar, progress_of
from serve import run_command
from settings import COUNTS, GRID, settings_for
from svd import SVD, BiasSVD, FoldIn, SVDpp, ensure_fitted

NETWORKS = {"lfg": ["LFG"], "lfg-item": ["LFG-item"], "lfg-dual": ["LFG-dual"]}
COLUMNS = {                                                # rows that each of --models adds
    "basic": {"svd": ["SVD"], "biassvd": ["BiasSVD"], "svdpp": ["SVD++"], **NETWORKS},
    "realtime": {"svd": ["SVD"], "biassvd": ["BiasSVD", "BiasSVD fold-in"],
                 "svdpp": ["SVD++ fold-in"], **NETWORKS},
    "newitem": {"biassvd": ["μ + bu", "BiasSVD fold-in"], **NETWORKS},
    "coldstart": {"biassvd": ["μ + bi", "BiasSVD fold-in"], **NETWORKS},
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


class Trainer:
    """Trains the models of a table on R, one training part; parts that they share, once.

    data: as turned, where LFG and LFG-item exchange their roles; what: for the progress bar.
    """

    def __init__(self, data, test, R, what, options):
        self.inputs = (R, data.E, data.F)
        self.turned_around = "LFG" if test == "newitem" else "LFG-item"    # generates columns of R
        self.what = f"{data.name} {what}"
        self.options = options
        self.trained = {}                                  # (name, setting, seed): model, seconds
        self.seconds = 0                                   # of the parts of the last model

    def fitted(self, column, settings):
        """The model of a column, fitted on R, and the seconds that training its parts took."""
        self.seconds = 0
        model = self.model_of(column, settings, self.options.seed)
        ensure_fitted(model, *self.inputs)
        return model, self.seconds

    def model_of(self, column, settings, seed):
        """The model of a column, made of trained parts.

        A network that generates the rows of R is the model itself; one that generates the columns
        of R becomes an LFGItem.
        """
        if column == "LFG-dual":
            dual = settings[column]
            lfg = self.model_of("LFG", settings, seed)
            items = [self.model_of("LFG-item", settings, seed + n) for n in range(dual["seeds"])]
            weights = (dual["user_weight"], dual.get("empty_weight", dual["user_weight"]))
            if self.turned_around == "LFG":
                return LFGDual(items, [lfg], [1 - w for w in weights])
            return LFGDual([lfg], items, weights)
        name = "BiasSVD" if column.startswith("μ") else column.replace(" fold-in", "")
        part = self.part(name, settings[name], seed)
        if column == self.turned_around:
            return LFGItem(part, **settings[f"{column} fold-in"])
        if column == "SVD++ fold-in":
            return FoldIn(part, **settings[column], centre=part.implicit_rows)
        return FoldIn(part, **settings[column]) if column == "BiasSVD fold-in" else part

    def part(self, name, setting, seed):
        """The trained model of that class, setting and seed; its seconds are added up."""
        key = (name, str(setting), seed)
        if key not in self.trained:
            R, E, F = self.inputs
            if name == self.turned_around:
                R, E, F = R.T, F, E
            model = CLASSES[name](**setting, seed=seed)
            with progress_bar(model.epochs, self.options.quiet) as bar:
                bar.set_description_str(f"{self.what} {name} seed {seed}")
                began = time.perf_counter()
                model.fit(R, E, F, progress=progress_of(bar))
            self.trained[key] = (model, time.perf_counter() - began)
        model, seconds = self.trained[key]
        self.seconds += seconds
        return model


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

    data: as turned; measure(model, cases, E): a number, or a list of as many for each row.
    """
    cases = cases_of(data.ratings, test, fold, options.seed)
    trainer = Trainer(data, test, cases[0].train, f"fold {fold}", options)
    rmse, seconds = {}, {}
    for row, (column, settings) in plan.items():
        model, seconds[row] = trainer.fitted(column, settings)
        rmse[row] = measure(model, cases, data.E)
    return {"fold": fold, "n_train": len(cases[0].train), "n_test": len(cases[0].target),
            "rmse": rmse, "seconds": seconds}


def cross_validate(data, test, options):
    """Train and score a table fold by fold, then print it and yield its JSON objects.

    The ablation is one table of two tests. Ctrl-C leaves the table of the complete folds.
    """
    plans = {}
    for of in ("basic", "realtime") if test == "ablation" else (test,):
        settings = settings_for(len(data.ratings), of, options.seeds)
        plans[of] = (choices(settings) if test == "ablation"
                     else {column: (column, settings) for column in columns_of(test, options)})
    data = turned(data, test)
    folds = []
    try:
        for fold in options.folds:
            folds.append({of: run_fold(data, of, plan, fold, rmse_of, options)
                          for of, plan in plans.items()})
    finally:                                               # after Ctrl-C, too, which then goes on
        if folds:
            tables = [table_object(data, test, of, [fold[of] for fold in folds], options)
                      for of in plans]
            show(tables)
            yield from tables


def table_object(data, test, of, folds, options):
    """The JSON object of a table; average over the folds by model, a list where a fold has one."""
    average = {name: np.mean([f["rmse"][name] for f in folds], axis=0).tolist()
               for name in folds[0]["rmse"]}
    number, paper = PAPER.get((data.name, test), (None, None))
    more = {"coldstart": {"ratings": COUNTS}, "ablation": {"of": of}}.get(test, {"paper": paper})
    return {"table": number, "dataset": data.name, "test": test, "seed": options.seed,
            "models": list(average), "folds": folds, "average": average, **more}


def show(tables):
    """Print the table of a test; its columns are {header: {row: number}}."""
    table = tables[0]
    average = table["average"]
    seconds = {name: sum(f["seconds"][name] for f in table["folds"]) for name in average}
    if table["test"] == "ablation":
        first = "Choice".ljust(66)
        columns = {" Basic": average, "Real-time": tables[1]["average"]}
    elif table["test"] == "coldstart":
        first = "Ratings shown".ljust(15)
        columns = {f"{count:>6}": {name: rmse[n] for name, rmse in average.items()}
                   for n, count in enumerate(COUNTS)}
        columns["Seconds"] = seconds
    else:
        first = "Model".ljust(15)
        columns = {f"Fold {f['fold']}": f["rmse"] for f in table["folds"]}
        columns.update({"Average": average, " Paper": table["paper"], "Seconds": seconds})
    columns = {header: column for header, column in columns.items() if column}
    print(f"Table {table['table']}: {title(table)}" if table["table"] else title(table))
    print_table([first, *columns], [[name, *(column.get(name, "") for column in columns.values())]
                                    for name in average])
    if "paper" in table:
        table["differences"] = differences(table["folds"], average)


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
    few = {**lfg, "mask": 0.1, "n_factors": 50}
    published = {**few, "l2": 0.0, "l2_M": 0.0, "dropout": 0.0}
    dropout = LFG().dropout                                # which PaperLFG has not
    steps = [
        ("LFG (paper)", "as published: raw ratings in, mask 0.1, no penalties", published),
        ("LFG (paper)", "+ dropout", {**published, "dropout": dropout}),
        ("LFG (paper)", "+ L2 on weights and M", {**few, "dropout": dropout}),
        ("LFG", "+ deviations from μ and the item's mean, 0/1 indicator", few),
        ("LFG", "+ four times the factors", {**lfg, "mask": 0.1}),
        ("LFG", "+ mask 0.3 (LFG)", lfg),
        ("LFG-item", "turned around: items generated, users solved",
         {**item, "mask": lfg["mask"], "shown_weight": 1.0}),
        ("LFG-item", "+ mask 0.5, weight 0.2 for ratings that the input shows (LFG-item)", item),
        ("LFG-dual", "+ mean over seeds", {**dual, "user_weight": 0}),
        ("LFG-dual", "+ the user side, with its weight (LFG-dual)", dual)]
    return {what: (name, {**settings, name: setting}) for name, what, setting in steps}


def tune(data, test, options):
    """Print the validation RMSE around the settings of each model; yield the JSON objects.

    Validation is cut out of fold 1's training part just as the test part was cut out of the whole.
    """
    used = settings_for(len(data.ratings), test, options.seeds)
    data = turned(data, test)
    training = replace(data, ratings=cases_of(data.ratings, test, 1, options.seed)[0].train)
    for column in columns_of(test, options):
        if column.startswith("μ"):                         # has no settings of its own
            continue
        values, plan = neighbours(column, used)
        fold = run_fold(training, test, plan, 1, rmse_of, options)
        grid = [{"changed": changed, "rmse": float(np.mean(rmse)),         # mean of the counts
                 "seconds": fold["seconds"][changed]} for changed, rmse in fold["rmse"].items()]
        print(f"Validation RMSE, {data.name} {test}, {column}: {', '.join(values)}\n")
        print_table(["Changed".ljust(24), "  RMSE", "Seconds"], [row.values() for row in grid])
        yield {"table": None, "dataset": data.name, "test": "tune", "of": test,
               "seed": options.seed, "models": [column], "grid": grid}


def neighbours(column, used):
    """Settings in use, ["name = value"], and the plan: each value times its numbers in GRID."""
    values, plan = [], {"in use": (column, used)}
    name = column.replace(" fold-in", "")
    for group in [group for group in (name, f"{name} fold-in") if group in used]:
        prefix = "fold-in " if group != name else ""
        values += [f"{prefix}{key} = {value}" for key, value in used[group].items()]
        default = CLASSES[group]() if group in CLASSES else None
        for key, factors in GRID[group].items():
            value = used[group].get(key, getattr(default, key, None))
            for factor in factors if value is not None else ():
                other = scaled(value, factor)
                changed = {**used, group: {**used[group], key: other}}
                plan[f"{prefix}{key} = {other}"] = (column, changed)
    return values, plan


def scaled(value, factor):
    """A hyperparameter times a factor: counts stay whole and above 0, ends of a range at most 1."""
    if isinstance(value, tuple):
        return tuple(min(1.0, round(v * factor, 6)) for v in value)
    return max(1, round(value * factor)) if isinstance(value, int) else round(value * factor, 6)


def speed(data, test, options):
    """What a new user of the real-time test's fold 1 costs, by model, and what training costs.

    Settings are those of coldstart, as in a saved model. Yields one JSON object.
    """
    settings = settings_for(len(data.ratings), "coldstart", options.seeds)
    R, profile, target = cases_of(data.ratings, test, 1, options.seed)[0]
    new = np.flatnonzero(target.counts)
    trainer = Trainer(data, test, R, "fold 1", options)
    bias, _, dual = (trainer.fitted(column, settings)[0]
                     for column in ("BiasSVD fold-in", "SVD", "LFG-dual"))
    models = {name: Recommender.from_model(LFGDual(*parts, dual.weights), data, R)
              for name, *parts in (("LFG", dual.forward, []), ("LFG-item", [], dual.solved[:1]),
                                   ("LFG-dual", dual.forward, dual.solved),
                                   ("BiasSVD fold-in", [], [bias]))}
    seconds = {"LFG, dense forward pass": timed(dual.forward[0].scores,
                                                [(u[None], profile, data.E) for u in new])}
    users = [(*profile.rows(u[None])[1:], data.E[u]) for u in new]       # items, ratings, profile
    seconds.update({name: timed(model.scores, users) for name, model in models.items()})
    rater = data.ratings.users
    more = [data.ratings.where((R.counts[rater] > 0) | (rater == u)) for u in new[:3]]
    for name in ("BiasSVD", "SVD"):                        # with the ratings of one new user
        seconds[f"Retraining {name}"] = [
            Trainer(data, test, one, "again", options).fitted(name, settings)[1] for one in more]
    median = {what: float(np.median(values)) for what, values in seconds.items()}
    rows = [{"what": what, "calls": len(values), "median": median[what],
             "p99": float(np.percentile(values, 99, method="higher")),     # of an actual call
             "times_dense": median[what] / median["LFG, dense forward pass"]}
            for what, values in seconds.items()]
    training = [{"model": name, "seconds": took, "epochs": model.epochs,
                 "seconds_an_epoch": took / model.epochs}
                for (name, _, seed), (model, took) in trainer.trained.items()
                if seed == options.seed]
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6 if resource else None
    table = {"table": None, "dataset": data.name, "test": test, "seed": options.seed,
             "rows": rows, "training": training, "peak_mb": peak, "seeds": len(dual.solved),
             "file_mb": sum(a.nbytes for a in models["LFG-dual"].arrays.values()) / 1e6,
             "retraining_to_lfg": median["Retraining BiasSVD"] / median["LFG"]}
    show_speed(table)
    yield table


def timed(answer, calls):
    """Seconds of each call, one after another, after 50 that are not timed."""
    for call in calls[:50]:
        answer(*call)
    return [timeit(lambda: answer(*call), number=1) for call in calls]


def show_speed(table):
    """Print the JSON object of speed."""
    name = table["dataset"].replace("ml-", "MovieLens-")
    print(f"{TITLES['speed']} Fold 1, One Thread, on {name}\n")
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


def span(seconds):
    """A time as text with three significant digits and a unit, such as 81.2 µs."""
    unit, factor = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    return f"{float(f'{seconds * factor:.3g}'):g} {unit}"


def title(table):
    """What a table is of, and a blank line; five folds are a cross-validation, fewer are named."""
    name = table["dataset"].replace("ml-", "MovieLens-")
    what, which = "5-Fold Cross-Validation Results", ""
    folds = [str(fold["fold"]) for fold in table["folds"]]
    if len(folds) < 5:
        what, which = "Results", f", fold{'s' * (len(folds) > 1)} {', '.join(folds)}"
    return (f"{TITLES[table['test']]} {what} on {name}{which}\n"
            "(RMSE, lower is better)\n")


def print_table(header, rows):
    """Print a Markdown table, as wide as its header; floats have four decimals, seconds one."""
    widths = [len(name) for name in header]
    line = "| " + " | ".join(f"{{:{'<>'[n > 0]}{w}}}" for n, w in enumerate(widths)) + " |"
    print(line.format(*header))
    print("|" + "|".join("-" * (w + 1) + "-:"[n > 0] for n, w in enumerate(widths)) + "|")
    for row in rows:
        print(line.format(*(f"{cell:.{1 if name == 'Seconds' else 4}f}" if isinstance(cell, float)
                            else cell for cell, name in zip(row, header))))
    print(flush=True)


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
    tests = {"all": ["basic", "realtime"], "tune": options.of}
    options.tests = tests.get(options.test, [options.test])
    known = dict.fromkeys(model for test in options.tests for model in COLUMNS.get(test, {}))
    if options.models and not known.keys() & set(options.models):
        has = f" has only {' '.join(known)}" if known else " prints all its rows"
        parser.error(f"--models {' '.join(options.models)}: {options.tests[0]}{has}")
    options.models = [model for model in models if model in (options.models or models)]
    options.folds = sorted(set(options.folds))
    return options


if __name__ == "__main__":
    run_command("experiments.py", run, None, "interrupted; complete folds have been printed")
