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
    tests = {"all": ["basic", "realtime"], "tune": options.of}.get(options.test, [options.test])
    if options.json:                                       # checked before anything is trained
        folders = [os.path.join(options.data_dir, name) for name in names]
        options.json = output_path(options.json, options.dataset, *folders)
    loaded = [load(name, options.data_dir, options.seed, not options.quiet, options.columns)
              for name in names]
    tables = []
    for test in tests:
        for data in loaded:
            columns = [column for model in options.models
                       for column in COLUMNS.get(test, {}).get(model, [])]
            if options.test == "tune":
                tables += [tune(data, test, column, options)
                           for column in columns if not column.startswith("μ")]
            elif test == "ablation":
                tables += ablate(data, options)
            elif test == "speed":
                tables += speed(data, options)
            else:
                table = cold_start if test == "coldstart" else cross_validate
                tables += table(data, test, columns, options)
            if options.json:
                write_whole(options.json, json.dumps(tables, indent=1))
            if options.interrupted:
                raise KeyboardInterrupt


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


def model_of(column, parts, settings, mirrored):
    """The model of a column, made of trained parts.

    A network that generates the rows of R is the model itself; one that generates the columns of R
    becomes an LFGItem. If mirrored, for new items, LFG and LFG-item exchange these roles.
    """
    part = parts[0]
    if column == "LFG-dual":
        lfg = model_of("LFG", parts[:1], settings, mirrored)
        items = [model_of("LFG-item", [one], settings, mirrored) for one in parts[1:]]
        weight = settings[column]["user_weight"]
        weights = (weight, settings[column].get("empty_weight", weight))
        if mirrored:
            return LFGDual(items, [lfg], [1 - w for w in weights])
        return LFGDual([lfg], items, weights)
    if column == ("LFG" if mirrored else "LFG-item"):
        return LFGItem(part, **settings[f"{column} fold-in"])
    if column == "SVD++ fold-in":
        return FoldIn(part, **settings[column], centre=part.implicit_rows)
    if column == "BiasSVD fold-in":
        return FoldIn(part, **settings[column])
    return part


def fitted(column, settings, data, test, R, seed, trained, bar, what):
    """The model of a column, fitted on R, and the seconds its training took; data: as turned.

    trained: {(name, setting, seed): (model, seconds)}, shared by the columns of a fold; what is
    missing is trained and added. what: name of the data and the fold, for the progress bar.
    """
    mirrored = test == "newitem"
    parts, seconds = [], 0
    for name, its_seed in parts_of(column, settings, seed):
        key = (name, str(settings[name]), its_seed)
        if key not in trained:
            bar.set_description_str(f"{what} {name} seed {its_seed}")
            inputs = (R, data.E, data.F)
            if name == ("LFG" if mirrored else "LFG-item"):    # a network that generates columns
                inputs = (R.T, data.F, data.E)
            trained[key] = train(name, settings[name], its_seed, inputs, bar)
        parts.append(trained[key][0])
        seconds += trained[key][1]
    model = model_of(column, parts, settings, mirrored)
    ensure_fitted(model, R, data.E, data.F)
    return model, seconds


def train(name, setting, seed, inputs, bar):
    """The part of that name, fitted on inputs (R, E, F), and the seconds it took."""
    began = time.perf_counter()
    model = CLASSES[name](**setting, seed=seed).fit(*inputs, progress=progress_of(bar))
    return model, time.perf_counter() - began


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
    return found


def run_folds(data, test, plan, options):
    """Train and score {name: (column, settings)} fold by fold: the list of their JSON objects.

    Ctrl-C ends the list after the last complete fold and sets options.interrupted.
    """
    data = turned(data, test)
    folds = []
    n_epochs = epochs_of(plan.values(), options.seed) * len(options.folds)
    try:
        with progress_bar(n_epochs, options.quiet) as bar:
            for fold in options.folds:
                cases = cases_of(data.ratings, test, fold, options.seed)
                result = {"fold": fold, "n_train": len(cases[0].train),
                          "n_test": len(cases[0].target), "rmse": {}, "seconds": {}}
                trained = {}
                for name, (column, settings) in plan.items():
                    model, seconds = fitted(column, settings, data, test, cases[0].train,
                                            options.seed, trained, bar, f"{data.name} fold {fold}")
                    rmse = rmse_of(model, cases, data.E)
                    result["rmse"][name] = rmse if test == "coldstart" else rmse[0]
                    result["seconds"][name] = seconds
                folds.append(result)
    except KeyboardInterrupt:
        options.interrupted = True
    return folds


def epochs_of(plan, seed):
    """Epochs that training all of the (column, settings) takes, shared parts counted once."""
    epochs = {(name, str(settings[name]), its_seed):
              settings[name].get("epochs", CLASSES[name]().epochs)
              for column, settings in plan for name, its_seed in parts_of(column, settings, seed)}
    return sum(epochs.values())


def cross_validate(data, test, columns, options):
    """One table of the paper, or of new items; returns a list of its JSON object."""
    settings = settings_for(len(data.ratings), test, options.seeds)
    folds = run_folds(data, test, {c: (c, settings) for c in columns}, options)
    if not folds:
        return []
    number, paper = PAPER.get((data.name, test), (None, None))
    table = table_object(data, test, folds, options, table=number, paper=paper)
    prefix = f"Table {number}: " if number else ""
    print(f"{prefix}{title(test, data, folds)}\n")
    show_row = table_printer(["Model".ljust(15), *(f"Fold {f['fold']}" for f in folds), "Average",
                              *[" Paper"] * bool(paper), "Seconds"])
    for c in columns:
        numbers = [f["rmse"][c] for f in folds] + [table["average"][c]]
        numbers += [paper.get(c)] if paper else []
        show_row([c, *("" if x is None else f"{x:.4f}" for x in numbers), seconds_of(folds, c)])
    print()
    return [{**table, "differences": differences(folds, table["average"])}]


def cold_start(data, test, columns, options):
    """RMSE by the number of ratings that a new user has given; returns a list, as above."""
    settings = settings_for(len(data.ratings), test, options.seeds)
    folds = run_folds(data, test, {c: (c, settings) for c in columns}, options)
    if not folds:
        return []
    table = table_object(data, test, folds, options, ratings=COUNTS)
    print(f"{title(test, data, folds)}\n")
    show_row = table_printer(["Ratings shown".ljust(15), *(f"{n:>6}" for n in COUNTS), "Seconds"])
    for c in columns:
        show_row([c, *(f"{x:.4f}" for x in table["average"][c]), seconds_of(folds, c)])
    print()
    return [table]


def ablate(data, options):
    """From the paper as published to LFG-dual, one choice per row, in both tests."""
    tables = []
    for test in ("basic", "realtime"):
        if not options.interrupted:
            settings = settings_for(len(data.ratings), test, options.seeds)
            folds = run_folds(data, test, choices(settings), options)
            if folds:
                tables.append(table_object(data, "ablation", folds, options, of=test))
    if not tables:
        return []
    print(f"{title('ablation', data, tables[0]['folds'])}\n")
    show_row = table_printer(["Choice".ljust(66), " Basic", "Real-time"][:1 + len(tables)])
    for choice in tables[0]["models"]:
        show_row([choice, *(f"{table['average'][choice]:.4f}" for table in tables)])
    print()
    return tables


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


def table_object(data, test, folds, options, table=None, **more):
    """The JSON object of a table; average over the folds by model, a list where a fold has one."""
    average = {name: np.mean([f["rmse"][name] for f in folds], axis=0).tolist()
               for name in folds[0]["rmse"]}
    return {"table": table, "dataset": data.name, "test": test, "seed": options.seed,
            "models": list(average), "folds": folds, "average": average, **more}


def differences(folds, average):
    """Print and return the mean difference between the best LFG and each baseline, with interval.

    Paired t with the correction of Nadeau and Bengio (2003): training sets overlap, so the variance
    of the mean over J folds is (1 / J + n_test / n_train) times that of a fold.
    """
    ours = [name for name in average if name.startswith("LFG")]
    if not ours or len(folds) < 2:
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
    if found:
        print()
    return found


def tune(data, test, column, options):
    """Validation RMSE around the settings of a column; of coldstart, the mean over the counts.

    Validation is cut out of fold 1's training part just as the test part was cut out of the whole.
    """
    data = turned(data, test)
    training = cases_of(data.ratings, test, 1, options.seed)[0].train
    cases = cases_of(training, test, 1, options.seed)
    used = settings_for(len(data.ratings), test, options.seeds)
    groups = [name for name in (parts_of(column, used, 0)[0][0], column, f"{column} fold-in")
              if name in used]
    groups = list(dict.fromkeys(groups if column != "LFG-dual" else [column]))
    values = ", ".join(f"{label(group, key)} = {value}"
                       for group in groups for key, value in used[group].items())
    print(f"Validation RMSE, {data.name} {test}, {column}: {values}\n")
    show_row = table_printer(["Changed".ljust(24), "  RMSE", "Seconds"])
    grid = [("in use", used)] + [step for group in groups for step in neighbours(used, group)]
    results, trained = [], {}
    for changed, settings in grid:
        with progress_bar(epochs_of([(column, settings)], options.seed), options.quiet) as bar:
            model, seconds = fitted(column, settings, data, test, cases[0].train, options.seed,
                                    trained, bar, f"{data.name} {changed}")
            rmse = float(np.mean(rmse_of(model, cases, data.E)))
        results.append({"changed": changed, "rmse": rmse, "seconds": seconds})
        show_row([changed, f"{rmse:.4f}", f"{seconds:.1f}"])
    print()
    return {"table": None, "dataset": data.name, "test": "tune", "of": test, "seed": options.seed,
            "models": [column], "grid": results}


def neighbours(used, group):
    """Yield (what changed, settings): each value of a group, times each number of its grid."""
    for key, factors in GRID[group].items():
        if key in used[group] or group in CLASSES:
            value = used[group][key] if key in used[group] else getattr(CLASSES[group](), key)
            for factor in factors:
                other = scaled(value, factor)
                changed = {**used, group: {**used[group], key: other}}
                yield f"{label(group, key)} = {other}", changed


def scaled(value, factor):
    """A hyperparameter times a factor: counts stay whole and above 0, ends of a range at most 1."""
    if isinstance(value, tuple):
        return tuple(min(1.0, round(v * factor, 6)) for v in value)
    return max(1, round(value * factor)) if isinstance(value, int) else round(value * factor, 6)


def label(group, key):
    return f"fold-in {key}" if group.endswith("fold-in") else key


def speed(data, options):
    """What a new user of the real-time test's fold 1 costs, by model, and what training costs.

    The networks have the settings of coldstart, as in a saved model; the baselines have those of
    realtime. Returns a list of one JSON object.
    """
    settings = settings_for(len(data.ratings), "realtime", options.seeds)
    saved = settings_for(len(data.ratings), "coldstart", options.seeds)
    settings.update({name: saved[name] for name in saved if name.startswith("LFG")})
    R, profile, target = cases_of(data.ratings, "realtime", 1, options.seed)[0]
    new = np.flatnonzero(target.counts)
    users = [(*profile.rows(u[None])[1:], data.E[u]) for u in new]       # items, ratings, profile
    columns = ["BiasSVD fold-in", "SVD", "LFG-dual"]
    n_epochs = epochs_of([(c, settings) for c in columns], options.seed)
    n_epochs += 3 * epochs_of([(c, settings) for c in columns[:2]], options.seed)
    trained = {}
    with progress_bar(n_epochs, options.quiet) as bar:
        bias, svd, dual = (fitted(c, settings, data, "realtime", R, options.seed, trained, bar,
                                  data.name)[0] for c in columns)
        models = {"LFG": (dual.forward, []), "LFG-item": ([], dual.solved[:1]),
                  "LFG-dual": (dual.forward, dual.solved), "BiasSVD fold-in": ([], [bias])}
        models = {name: Recommender.from_model(LFGDual(*parts, dual.weights), data, R)
                  for name, parts in models.items()}
        seconds = {"LFG, dense forward pass": timed(dual.forward[0].scores,
                                                    [(u[None], profile, data.E) for u in new])}
        seconds.update({name: timed(model.scores, users) for name, model in models.items()})
        for name in ("BiasSVD", "SVD"):
            bar.set_description_str(f"{data.name} retraining {name}")
            seconds[f"Retraining {name}"] = [
                train(name, settings[name], options.seed, (with_user(R, profile, u),), bar)[1]
                for u in new[:3]]
    table = speed_object(data, options, seconds, trained, models["LFG-dual"])
    show_speed(data, table)
    return [table]


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


def with_user(R, profile, user):
    """R and the shown ratings of one new user, to retrain a model that has no fold-in."""
    row = profile.where(profile.users == user)
    return Ratings(*(np.append(getattr(R, a), getattr(row, a))
                     for a in ("users", "items", "values")), R.shape)


def speed_object(data, options, seconds, trained, model):
    """The JSON object of seconds, {what: of each call}, of training, and of model's file.

    p99 is the time of an actual call, not interpolated; of three calls it is the slowest.
    """
    median = {what: float(np.median(values)) for what, values in seconds.items()}
    dense = median["LFG, dense forward pass"]
    rows = [{"what": what, "calls": len(values), "median": median[what],
             "p99": float(np.percentile(values, 99, method="higher")),
             "times_dense": median[what] / dense} for what, values in seconds.items()]
    training = {name: {"model": name, "seconds": took, "epochs": part.epochs,
                       "seconds_an_epoch": took / part.epochs}
                for (name, _, seed), (part, took) in trained.items() if seed == options.seed}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6 if resource else None
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.npz")
        model.save(path)
        size = os.path.getsize(path) / 1e6
    return {"table": None, "dataset": data.name, "test": "speed", "seed": options.seed,
            "rows": rows, "training": list(training.values()),
            "retraining_to_lfg": median["Retraining BiasSVD"] / median["LFG"],
            "peak_mb": peak, "seeds": model.n_solved, "file_mb": size}


def show_speed(data, table):
    """Print what speed_object returns."""
    print(f"{TITLES['speed']} Fold 1, One Thread, on {public_name(data)}\n")
    show_row = table_printer(["What".ljust(23), "Calls", "  Median", "99th percentile",
                              "Times dense forward pass"])
    for r in table["rows"]:
        times = f"{r['times_dense']:,.{0 if r['times_dense'] >= 100 else 2}f}"
        show_row([r["what"], r["calls"], span(r["median"]), span(r["p99"]), times])
    print()
    show_row = table_printer(["Model".ljust(12), "Seconds to train", "Epochs", "Seconds per epoch"])
    for t in table["training"]:
        show_row([t["model"], f"{t['seconds']:.2f}", t["epochs"], f"{t['seconds_an_epoch']:.3f}"])
    print(f"\n- Retraining BiasSVD takes {table['retraining_to_lfg']:,.0f} times as long as LFG's "
          "answer")
    if table["peak_mb"]:
        print(f"- Peak memory of the process, training included: {table['peak_mb']:.0f} MB")
    print(f"- LFG-dual, with {table['seeds']} seeds of LFG-item, is a file of "
          f"{table['file_mb']:.1f} MB\n")


def span(seconds):
    """A time as text with three significant digits and a unit, such as 81.2 µs."""
    units = [("s", 1), ("ms", 1e3), ("µs", 1e6)]
    unit, factor = next((u, f) for u, f in units if seconds * f >= 1 or u == "µs")
    return f"{float(f'{seconds * factor:.3g}'):g} {unit}"


def title(test, data, folds):
    """What a table is of; five folds are a cross-validation, fewer are named."""
    what, which = "5-Fold Cross-Validation Results", ""
    if len(folds) < 5:
        numbers = ", ".join(str(f["fold"]) for f in folds)
        what, which = "Results", f", fold{'s' * (len(folds) > 1)} {numbers}"
    return f"{TITLES[test]} {what} on {public_name(data)}{which}\n(RMSE, lower is better)"


def public_name(data):
    return data.name.replace("ml-", "MovieLens-")


def seconds_of(folds, column):
    """Seconds in training, all folds together."""
    return f"{sum(f['seconds'][column] for f in folds):.1f}"


def table_printer(header):
    """Print a Markdown header, as wide as its texts; returns a function that prints a row."""
    widths = [len(name) for name in header]

    def show_row(cells):
        cells = [str(c).rjust(w) if n else str(c).ljust(w)
                 for n, (c, w) in enumerate(zip(cells, widths))]
        print("| " + " | ".join(cells) + " |", flush=True)

    show_row(header)
    print("|" + "|".join("-" * (w + 1) + ("-:"[n > 0]) for n, w in enumerate(widths)) + "|")
    return show_row


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
    add("--models", nargs="+", default=models, choices=models, help="rows of the tables")
    add("--folds", nargs="+", type=int, default=[1, 2, 3, 4, 5], choices=range(1, 6),
        metavar="{1..5}", help="which folds")
    add("--seeds", type=int_range(1, 1000), help="runs of LFG-item that LFG-dual averages; "
        "if not given, 5 on ML-100k and 2 on ML-1m")
    add("--seed", type=int_range(0, 2 ** 63), default=0,
        help="seed of the folds and of all random numbers in training")
    add("--json", metavar="FILE", help="also write the tables to this file")
    options = parser.parse_args(argv)
    if options.test in ("ablation", "speed") and options.models != models:
        parser.error(f"--models does not apply to --test {options.test}")
    tests = {"all": ["basic"], "tune": options.of}.get(options.test, [options.test])
    known = {model: None for test in tests for model in COLUMNS.get(test, options.models)}
    if not known.keys() & set(options.models):
        parser.error(f"--models {' '.join(options.models)}: {tests[0]} has only {' '.join(known)}")
    options.models = [model for model in models if model in options.models]
    options.folds = sorted(set(options.folds))
    options.interrupted = False
    return options


if __name__ == "__main__":
    run_command("experiments.py", run, None, "interrupted; complete folds have been printed")
