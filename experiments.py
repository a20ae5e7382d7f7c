"""The paper's experiments (Section 4): four tables of RMSE on MovieLens, and the grid behind each setting.

Beside them what the paper leaves out: new items, how many ratings a new user has to give, what each choice buys, and
what a new user costs.
"""

import os
import signal

if __name__ == "__main__":                                    # until data.command: the imports take their time
    said = b"" if "LFG_SPEED" in os.environ else b"experiments.py: interrupted\n"    # of two processes one speaks
    for number in {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda n, _: os._exit(os.write(2, said) * 0 + 128 + n))

import argparse
import json
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from tqdm import tqdm

from data import DataError, Parser, Split, command, first_ratings, guarded, load, output_path, split, whole
from lfg import LFG, Recommender, assemble, facts, joining_weight, write_whole
from svd import SVD, BiasSVD, Ratings, SVDpp, fold_in, mean_row, paired_dot

COLUMNS = {                                                   # what each of --models adds to the table of a test
    "basic": {"svd": ["SVD"], "biassvd": ["BiasSVD"], "svdpp": ["SVD++"],
              "lfg": ["LFG"], "lfg-item": ["LFG-item"], "lfg-dual": ["LFG-dual"]},
    "realtime": {"svd": ["SVD"], "biassvd": ["BiasSVD", "BiasSVD fold-in"], "svdpp": ["SVD++ fold-in"],
                 "lfg": ["LFG"], "lfg-item": ["LFG-item"], "lfg-dual": ["LFG-dual"]},
    "newitem": {"biassvd": ["μ + bu", "BiasSVD fold-in"],
                "lfg": ["LFG"], "lfg-item": ["LFG-item"], "lfg-dual": ["LFG-dual"]},
    "coldstart": {"biassvd": ["μ + bi", "BiasSVD fold-in"],
                  "lfg": ["LFG"], "lfg-item": ["LFG-item"], "lfg-dual": ["LFG-dual"]},
}
COUNTS = (0, 1, 2, 5, 10, 20, 50)                             # ratings in a profile of the test coldstart
CLASSES = {"SVD": SVD, "BiasSVD": BiasSVD, "SVD++": SVDpp, "LFG": LFG, "LFG-item": LFG}
TITLES = {"basic": "LFG Rating Prediction", "realtime": "LFG Real-Time Rating Prediction", "newitem": "New Items,",
          "coldstart": "Cold Start by Ratings in the Profile,", "ablation": "What Each Choice Buys,",
          "speed": "What a New User Costs,"}
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
SETTINGS["ml-100k", "newitem"] = {
    "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.6, epochs=20, rate=0.02),
    "BiasSVD fold-in": dict(l2=5.0, l2_bias=1.0, to_mean=True),
    "LFG": dict(n_factors=200, l2=0.15, l2_M=0.6, mask=0.3, epochs=40, rate=5e-3),
    "LFG fold-in": dict(l2=400.0, l2_bias=3.0, to_mean=True),
    "LFG-item": dict(n_factors=200, l2=0.05, l2_M=0.15, mask=0.3, shown_weight=0.5, svd_rows=30, batch=64),
    "LFG-dual": dict(seeds=5, user_weight=0.3),
}
SETTINGS["ml-1m", "newitem"] = {
    "BiasSVD": dict(n_factors=100, l2=1.5, l2_bias=0.3, epochs=20, rate=0.01),
    "BiasSVD fold-in": dict(l2=5.0, l2_bias=2.0, to_mean=True),
    "LFG": SETTINGS["ml-1m", "realtime"]["LFG"],
    "LFG fold-in": dict(l2=600.0, l2_bias=1.0, to_mean=True),
    "LFG-item": dict(n_factors=200, l2=0.04, l2_M=0.06, mask=0.3, shown_weight=0.5, epochs=60),
    "LFG-dual": dict(seeds=2, user_weight=0.4),
}
SETTINGS["ml-100k", "coldstart"] = {
    **SETTINGS["ml-100k", "realtime"],
    "BiasSVD fold-in": dict(l2=3.0, l2_bias=6.0, to_mean=True),
    "LFG": dict(n_factors=200, l2=0.6, l2_M=0.6, mask=(0.3, 1.0), epochs=40, rate=5e-3),
    "LFG-item fold-in": dict(l2=250.0, l2_bias=6.0, to_mean=True),
    "LFG-dual": dict(seeds=5, user_weight=0.15, empty_weight=0.5),
}
SETTINGS["ml-1m", "coldstart"] = {
    **SETTINGS["ml-1m", "realtime"],
    "BiasSVD fold-in": dict(l2=4.0, l2_bias=3.0, to_mean=True),
    "LFG": dict(n_factors=100, hidden=(500,), l2=0.02, l2_M=0.2, mask=(0.3, 1.0), epochs=30),
    "LFG-item fold-in": dict(l2=350.0, l2_bias=6.0, to_mean=True),
    "LFG-dual": dict(seeds=2, user_weight=0.2, empty_weight=0.6),
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
    "LFG fold-in": {"l2": (0.5, 2), "l2_bias": (0.3, 3)},
    "LFG-item fold-in": {"l2": (0.5, 2), "l2_bias": (0.3, 3)},
    "LFG-dual": {"user_weight": (0, 0.5, 2), "empty_weight": (0.5, 1.5)},
}
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}             # Student's t by number of folds
ONE_THREAD = dict.fromkeys(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
                            "LFG_SPEED"], "1")                # where --test speed measures; the last tells that it does


def main(argv=None):
    """Runs the command line; its exit code."""
    inner = "LFG_SPEED" in os.environ

    def work():
        options = parse(argv)
        return in_one_thread(argv) if options.test == "speed" and not inner else run(options)
    # of two processes one speaks: Ctrl-C reaches both
    return guarded("experiments.py", work, "" if inner else "interrupted; what was finished has been printed")


def in_one_thread(argv):
    """Runs this command line in a process of its own, as BLAS counts its threads when it is loaded; its exit code."""
    command = [sys.executable, os.path.abspath(__file__), *(sys.argv[1:] if argv is None else argv)]
    with subprocess.Popen(command, env={**os.environ, **ONE_THREAD}) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.terminate()                                 # SIGTERM reaches this process alone
            child.wait()
            raise
    return 128 - code if code < 0 else code                   # ended by a signal: as a shell has it


def run(options):
    """Prints one table after another, in the paper's order; rewrites --json and --svg after each."""
    names = ["ml-100k", "ml-1m"] if options.dataset == "all" else [options.dataset]
    tests = {"all": ["basic", "realtime"], "tune": options.of}.get(options.test, [options.test])
    sources = [options.dataset, *(os.path.join(options.data_dir, name) for name in names)]
    outputs = [output_path(path, *sources) for path in (options.json, options.svg) if path is not None]
    if len(set(outputs)) < len(outputs):                      # told before anything is trained
        raise DataError(f"{options.json}: both --json and --svg; give each a file of its own")
    asked = [test for test in tests if test in COLUMNS]
    if asked and not any(COLUMNS[test].get(model) for test in asked for model in options.models):
        raise DataError(f"--models {' '.join(options.models)}: not in {asked[0]}; add {' '.join(COLUMNS[asked[0]])}")
    loaded = {n: load(n, options.data_dir, options.seed, not options.quiet and sys.stderr.isatty()) for n in names}
    tables = []
    for test in tests:
        for name in names:
            columns = [c for model in COLUMNS.get(test, {}) if model in options.models for c in COLUMNS[test][model]]
            if options.test == "tune":
                tables += [tune(loaded[name], test, c, options) for c in columns if not c.startswith("μ")]
            elif test == "coldstart":
                tables.append(cold_start(loaded[name], columns, options))
            elif test == "ablation":
                tables += ablate(loaded[name], options)
            elif test == "speed":
                tables.append(speed(loaded[name], options))
            else:
                tables.append(cross_validate(loaded[name], test, columns, options))
            if options.json:
                write_whole(options.json, json.dumps(tables, indent=1))
            if options.svg:
                write_whole(options.svg, curves(tables))


def cross_validate(data, test, columns, options):
    """One table of the paper, or of new items, each fold's row printed once it is known; returns its JSON object."""
    number, paper = PAPER.get((data.name, test), (None, None))
    settings = settings_for(data, test, options)
    show(f"Table {number}: {title(test, data)}\n" if number else f"{title(test, data)}\n")
    row = table_printer(["Fold", "Train Set", "Test Set"] + [f"{c} RMSE" for c in columns])
    folds = []
    for fold in run_folds(data, test, {c: (c, settings) for c in columns}, options):
        folds.append(fold)
        row([fold["fold"], fold["n_train"], fold["n_test"]] + [f"{fold['rmse'][c]:.4f}" for c in columns])
    table = table_object(data, test, folds, options, table=number, paper=paper)
    row(["Average RMSE", "", ""] + [f"{table['average'][c]:.4f}" for c in columns])
    if paper:
        row(["Paper", "", ""] + [f"{paper[c]:.4f}" if c in paper else "" for c in columns])
    row(["Seconds", "", ""] + [f"{sum(f['seconds'][c] for f in folds):.1f}" for c in columns])
    show()
    return {**table, "differences": differences(folds, table["average"])}


def cold_start(data, columns, options):
    """RMSE by the number of ratings that a new user has given, averaged over the folds; returns the JSON object."""
    settings = settings_for(data, "coldstart", options)
    folds = list(run_folds(data, "coldstart", {c: (c, settings) for c in columns}, options))
    table = table_object(data, "coldstart", folds, options, ratings=COUNTS)
    show(f"{title('coldstart', data)}\n")
    row = table_printer(["Ratings"] + [f"{c} RMSE" for c in columns])
    for n, count in enumerate(COUNTS):
        row([count] + [f"{table['average'][c][n]:.4f}" for c in columns])
    row(["Seconds"] + [f"{sum(f['seconds'][c] for f in folds):.1f}" for c in columns])
    show()
    return table


def ablate(data, options):
    """From the paper's letter to LFG-dual, one choice a row, in both tests; returns a JSON object for each."""
    tables = []
    for test in ("basic", "realtime"):
        folds = list(run_folds(data, test, choices(settings_for(data, test, options)), options))
        tables.append(table_object(data, "ablation", folds, options, of=test))
    show(f"{title('ablation', data)}\n")
    row = table_printer(["Choice".ljust(60), "Basic RMSE", "Real-time RMSE"])
    for choice in tables[0]["models"]:
        row([choice] + [f"{t['average'][choice]:.4f}" for t in tables])
    show()
    return tables


def choices(settings):
    """The rows of the ablation: {what is added: (column, settings)}. Nothing is tuned again for a row."""
    lfg, item, dual = settings["LFG"], settings["LFG-item"], settings["LFG-dual"]
    steps = [("the letter: raw ratings in, mask 0.1, no regularisation",
              {**lfg, "raw": True, "mask": 0.1, "l2": 0.0, "l2_M": 0.0, "dropout": 0.0, "n_factors": 50})]
    for what, keys in [("+ dropout", ["dropout"]), ("+ L2 on weights and M", ["l2", "l2_M"]),
                       ("+ deviations from μ and the item's mean, 0/1 indicator", ["raw"]),
                       ("+ four times the factors", ["n_factors"]), ("+ mask 0.3 (LFG)", ["mask"])]:
        changed = {key: value for key, value in steps[-1][1].items() if key not in keys}
        steps.append((what, {**changed, **{key: lfg[key] for key in keys if key in lfg}}))
    rows = {what: ("LFG", {**settings, "LFG": setting}) for what, setting in steps}
    copying = {**item, "mask": lfg["mask"], "shown_weight": 1.0}
    rows["turned around: items generated, users solved"] = "LFG-item", {**settings, "LFG-item": copying}
    rows["+ mask 0.5, ratings shown in the input count 0.2 (LFG-item)"] = "LFG-item", settings
    rows["+ mean over seeds"] = "LFG-dual", {**settings, "LFG-dual": {**dual, "user_weight": 0}}
    rows["+ the user side, with its weight (LFG-dual)"] = "LFG-dual", settings
    return rows


def speed(data, options):
    """What a new user of the real-time test's fold 1 costs, by model, and what training does; returns the JSON object.

    The networks have the settings of coldstart, as in a model that is kept, the baselines those of realtime.
    """
    settings, kept = (settings_for(data, test, options) for test in ("realtime", "coldstart"))
    settings.update({name: kept[name] for name in kept if name.startswith("LFG")})
    view, parts = view_of(data, "realtime"), cases_of(data.ratings, "realtime", 1, options.seed)[0]
    unit, new = rating_unit(parts.train), np.flatnonzero(parts.target.counts)
    users = [(*parts.profile.rows(u[None])[1:], data.E[u]) for u in new]      # items, ratings, side
    R, profile, _ = (r.with_values(r.values / unit) for r in parts)
    baselines = ["BiasSVD", "SVD"]
    columns = baselines + ["LFG-dual"]
    epochs = [epochs_of([(c, settings)], options.seed) for c in columns + 3 * baselines]
    with progress_bar(sum(epochs), options) as bar:
        needed = [need for column in columns for need in needs(column, settings, options.seed)]
        trained = train_all(needed, settings, R, data.name, view, bar)
        models = served(trained, settings, data, parts.train, unit)
        bar.set_description(f"{data.name}, one new user after another")
        seconds = {"LFG, dense forward pass": timed(dense_pass(trained["LFG"][0][0], unit), users)}
        seconds.update({what: timed(model.predict, users) for what, model in models.items()})
        for name in baselines:
            bar.set_description(f"{data.name}, retraining {name}")
            seconds[f"Retraining {name}"] = [
                train(name, settings[name], with_user(R, profile, u), view, options.seed, bar)[1] for u in new[:3]]
    table = speed_object(data, options, seconds, trained, models["LFG-dual"])
    show_speed(title("speed", data, "Fold 1, One Thread,"), table)
    return table


def served(trained, settings, data, ratings, unit):
    """{what: Recommender} of all that answers a new user without training.

    BiasSVD's item factors make an item side: svd.fold_in's solve without its copy of q, a third faster for one user.
    """
    R = ratings.with_values(ratings.values / unit)
    known, (bias, _) = facts(ratings, data.E, unit), trained["BiasSVD"][0]
    lfgs, item_models = ([model for model, _ in trained[name]] for name in ("LFG", "LFG-item"))
    sides = [item_side(model, R, data.F, *ridge_of(settings, "LFG-item fold-in")) for model in item_models]
    folded = assemble(known, sides=[(bias.q, bias.bi, np.zeros(bias.n_factors + 1))], weights=(0, 0),
                      ridge=ridge_of(settings, "BiasSVD fold-in"))
    return {"LFG": recommender(known, lfgs, [], settings), "LFG-item": recommender(known, [], sides[:1], settings),
            "LFG-dual": recommender(known, lfgs, sides, settings, item_ids=data.item_ids, titles=data.titles,
                                    E_names=data.E_names),
            "BiasSVD fold-in": Recommender(folded)}


def dense_pass(lfg, unit):
    """A function of (items, ratings, side) to all ratings: the trained network as it is, its whole input multiplied."""
    def predict(items, ratings, side):
        x = lfg.encode(np.zeros(len(items), np.intp), items, ratings / unit, side[None])
        G, = lfg.network.forward(x)[0]                        # (k + 1,)
        return (lfg.mu + G[-1] + lfg.bi + G[:-1] @ lfg.M) * unit
    return predict


def timed(answer, users, warm=50):
    """Seconds that answer takes for each user, one after another; the first ones are answered once before."""
    for user in users[:warm]:
        answer(*user)
    seconds = []
    for user in users:
        began = time.perf_counter()
        answer(*user)
        seconds.append(time.perf_counter() - began)
    return seconds


def with_user(R, profile, user):
    """What a model that cannot fold in is trained on again: R and the profile of one new user."""
    row = profile.where(profile.users == user)
    return Ratings(*(np.append(getattr(R, a), getattr(row, a)) for a in ("users", "items", "values")), R.shape)


def speed_object(data, options, seconds, trained, model):
    """The JSON object of seconds, {what: of each call}, of training, of this process's memory and of model's file.

    p99 is one of the calls: of three the slowest.
    """
    dense, lfg, again = (np.median(seconds[w]) for w in ("LFG, dense forward pass", "LFG", "Retraining BiasSVD"))
    rows = [{"what": what, "calls": len(s), "median": float(np.median(s)),
             "p99": float(np.percentile(s, 99, method="higher")), "times_dense": float(np.median(s) / dense)}
            for what, s in seconds.items()]
    training = [{"model": name, "seconds": took, "epochs": first.epochs, "seconds_an_epoch": took / first.epochs}
                for name, ((first, took), *_) in trained.items()]
    return {"table": None, "dataset": data.name, "test": "speed", "seed": options.seed, "rows": rows,
            "training": training, "retraining_to_lfg": float(again / lfg), "peak_mb": peak_memory(),
            "seeds": len(model.sides), "file_mb": file_size(model)}


def show_speed(heading, table):
    """Prints what speed_object gives."""
    show(f"{heading}\n")
    row = table_printer(["What".ljust(23), "Calls", "Median".rjust(8), "99th percentile", "Times dense forward pass"])
    for r in table["rows"]:
        times = f"{r['times_dense']:,.{0 if r['times_dense'] >= 100 else 2}f}"
        row([r["what"], r["calls"], span(r["median"]), span(r["p99"]), times])
    show()
    row = table_printer(["Model", "Seconds to train", "Epochs", "Seconds an epoch"])
    for t in table["training"]:
        row([t["model"], f"{t['seconds']:.2f}", t["epochs"], f"{t['seconds_an_epoch']:.3f}"])
    show(f"\n- Retraining BiasSVD takes {table['retraining_to_lfg']:,.0f} times as long as LFG's answer")
    if table["peak_mb"]:
        show(f"- Peak memory of the process, training included: {table['peak_mb']:.0f} MB")
    show(f"- LFG-dual, which is LFG and {table['seeds']} of LFG-item, is a file of {table['file_mb']:.1f} MB\n")


def span(seconds):
    """Three digits and a unit: 81.2 µs."""
    unit, factor = next((u, f) for u, f in (("s", 1), ("ms", 1e3), ("µs", 1e6)) if seconds * f >= 1 or u == "µs")
    return f"{float(f'{seconds * factor:.3g}'):g} {unit}"


def peak_memory():
    """The most that this process has held in memory so far, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:                                       # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def file_size(model):
    """Of a saved Recommender, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.npz")
        model.save(path)
        return os.path.getsize(path) / 1e6


def run_folds(data, test, plan, options):
    """Trains and scores {name: (column, settings)} fold by fold; yields the JSON object of each fold."""
    view = view_of(data, test)
    with progress_bar(len(options.folds) * epochs_of(plan.values(), options.seed), options) as bar:
        for fold in options.folds:
            cases, trained = cases_of(view.ratings, test, fold, options.seed), {}
            sizes = {"n_train": len(cases[0].train), "n_test": len(cases[0].target)}
            result = {"fold": fold, **sizes, "rmse": {}, "seconds": {}}
            for name, (column, settings) in plan.items():
                bar.set_description(f"{data.name} {test}, fold {fold}, {name}")
                rmse, seconds = evaluate(column, settings, view, cases, options.seed, trained, bar)
                result["rmse"][name] = rmse if test == "coldstart" else rmse[0]
                result["seconds"][name] = seconds
            yield result


def table_object(data, test, folds, options, table=None, **more):
    """The JSON object of a table; average over the folds by model, a list where a fold has one."""
    average = {name: np.mean([f["rmse"][name] for f in folds], axis=0).tolist() for name in folds[0]["rmse"]}
    return {"table": table, "dataset": data.name, "test": test, "seed": options.seed, "models": list(average),
            "folds": folds, "average": average, **more}


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
    """Validation RMSE around the settings of a column; of coldstart, the mean over the numbers of ratings.

    Validation is cut out of fold 1's training part as the test part was cut out of the whole.
    """
    view = view_of(data, test)
    training = cases_of(view.ratings, test, 1, options.seed)[0].train
    cases = cases_of(training, test, 1, options.seed)
    used = settings_for(data, test, options)
    groups = list(dict.fromkeys([model_of(column), f"{column} fold-in" if column == view.solved else column]))
    values = ", ".join(f"{label(group, key)} = {value}" for group in groups for key, value in used[group].items())
    show(f"Validation, {data.name} {test}, {column}: {values}\n")
    row = table_printer(["Changed".ljust(24), "RMSE".rjust(7), "Seconds"])
    results, trained = [], {}
    grid = [("in use", used)] + [step for g in groups for step in neighbours(used, g)]
    with progress_bar(None, options) as bar:
        for changed, settings in grid:
            bar.set_description(f"{data.name} {test}, {column}, {changed}")
            rmse, seconds = evaluate(column, settings, view, cases, options.seed, trained, bar)
            results.append({"changed": changed, "rmse": float(np.mean(rmse)), "seconds": seconds})
            row([changed, f"{np.mean(rmse):.4f}", f"{seconds:.1f}"])
    show()
    return {"table": None, "dataset": data.name, "test": "tune", "of": test, "seed": options.seed,
            "models": [column], "grid": results}


def neighbours(used, group):
    """(what changed, settings): one value of a group at a time, multiplied by each of the grid's factors."""
    for key, factors in GRID[group].items():
        if key in used[group] or group in CLASSES:
            value = used[group][key] if key in used[group] else getattr(CLASSES[group](), key)
            for factor in factors:
                other = scaled(value, factor)
                yield f"{label(group, key)} = {other}", {**used, group: {**used[group], key: other}}


def scaled(value, factor):
    """A hyperparameter times a factor: counts stay whole and above 0, ends of a range at most 1."""
    if isinstance(value, tuple):
        return tuple(min(1.0, round(v * factor, 6)) for v in value)
    return max(1, round(value * factor)) if isinstance(value, int) else round(value * factor, 6)


def label(group, key):
    return f"fold-in {key}" if group.endswith("fold-in") else key


class View(NamedTuple):
    """A data set turned so that what a test holds out are rows: users, or items in newitem.

    E and F: side information of rows and of columns. forward: the network that generates the factors of rows
    in one pass; solved: the one that generates those of columns, into which rows are then folded.
    """

    ratings: Ratings
    E: np.ndarray
    F: np.ndarray
    forward: str
    solved: str


def view_of(data, test):
    """The View of a Dataset that a test needs."""
    if test == "newitem":
        return View(data.ratings.T, data.F, data.E, "LFG-item", "LFG")
    return View(data.ratings, data.E, data.F, "LFG", "LFG-item")


def cases_of(ratings, test, fold, seed):
    """The Splits of a fold, all with one training part: one, or in coldstart one for each number of ratings.

    coldstart keeps the new users with ratings enough for the longest profile, so that all cases have one target.
    """
    parts = split(ratings, "basic" if test == "basic" else "realtime", fold, seed)
    if not (len(parts.train) and len(parts.target)):
        raise DataError("too few users or ratings for five folds; give a larger data set")
    if test != "coldstart":
        return [parts]
    steady = parts.profile.counts >= COUNTS[-1]
    if not steady.any():
        raise DataError(f"no new user of fold {fold} has {COUNTS[-1]} ratings to show; give data with more a user")
    profile, target = (r.where(steady[r.users]) for r in parts[1:])
    return [Split(parts.train, first_ratings(profile, n, seed), target) for n in COUNTS]


def evaluate(column, settings, view, cases, seed, trained, bar):
    """RMSE of a column on the target of each case, clipped to the scale seen in training, and its training's seconds.

    trained: models by (name, setting, seed), shared between the columns of a fold; what is missing is added.
    """
    unit = rating_unit(cases[0].train)
    if unit != 1:
        cases = [Split(*(r.with_values(r.values / unit) for r in parts)) for parts in cases]
    ratings, models = cases[0].train, []
    for name, its_seed in needs(column, settings, seed):
        key = (name, str(sorted(settings[name].items())), its_seed)
        if key not in trained:
            trained[key] = train(name, settings[name], ratings, view, its_seed, bar)
        models.append(trained[key])
    predict = predictor(column, [model for model, _ in models], settings, view, ratings)
    errors = [np.clip(predict(profile, target), ratings.values.min(), ratings.values.max()) - target.values
              for _, profile, target in cases]
    rmse = [float(unit * np.sqrt(np.mean(e ** 2, dtype=np.float64))) for e in errors]
    return rmse, sum(seconds for _, seconds in models)


def rating_unit(ratings):
    """What to divide ratings by so that they span four units, as 1 to 5 do.

    Rates, penalties and Tanh are set for that span, so a scale of 1 to 10 or of half stars needs no other settings.
    """
    return (ratings.values.max() - ratings.values.min()) / 4 or 1


def needs(column, settings, seed):
    """(name, seed) of each model that a column is made of."""
    if column == "LFG-dual":
        return [("LFG", seed)] + [("LFG-item", seed + n) for n in range(settings["LFG-dual"]["seeds"])]
    return [(model_of(column), seed)]


def model_of(column):
    """The model whose training a column rests on."""
    return "BiasSVD" if column.startswith("μ") else column.replace(" fold-in", "")


def train(name, setting, ratings, view, seed, bar):
    """The model of that name, fitted on ratings, and the seconds it took. One side's LFG is fitted on the transpose."""
    def progress(epoch, loss):
        bar.set_postfix(epoch=epoch + 1, loss=f"{loss:.4f}", refresh=False)
        bar.update()

    began = time.perf_counter()
    inputs = {view.forward: (ratings, view.E), view.solved: (ratings.T, view.F)}.get(name, (ratings,))
    model = CLASSES[name](**setting, seed=seed).fit(*inputs, progress=progress)
    return model, time.perf_counter() - began


def train_all(needed, settings, ratings, what, view, bar):
    """{name: [(model, seconds) of each seed]} of needed, pairs of name and seed; what: a name for the progress bar."""
    trained = {}
    for name, seed in needed:
        bar.set_description(f"{what}, {name}, seed {seed}")
        trained.setdefault(name, []).append(train(name, settings[name], ratings, view, seed, bar))
    return trained


def predictor(column, models, settings, view, ratings):
    """What a column predicts: a function of (profile, target) to (n,) ratings, not clipped.

    What is new has a profile and nothing else; ratings, the training part, gives the factors of columns.
    """
    model = models[0]
    if column == "LFG-dual":
        by_user, *by_items = (predictor(name, [m], settings, view, ratings)
                              for name, m in zip(["LFG"] + ["LFG-item"] * len(models), models))
        return lambda profile, target: joined(by_user, by_items, profile, target, **settings[column])
    if column == view.forward:
        return lambda profile, target: model.predict(target.users, target.items, profile, view.E)
    if column == view.solved:
        # its M stays behind: it has no row for a new user, and a solve serves the old ones better too
        q, bi = model.generate(ratings.T, view.F)
        return folding(q, bi, model.mu, ratings, **settings[f"{column} fold-in"])
    if column.endswith("fold-in"):
        implicit = model.z if column.startswith("SVD++") else None
        return folding(model.q, model.bi, model.mu, ratings, implicit, **settings[column])
    return lambda profile, target: model.predict(target.users, target.items)


def folding(q, bi, mu, ratings, implicit=None, to_mean=False, **ridge):
    """A function of (profile, target) to predictions (n,): each row of profile is folded into (q, bi).

    to_mean: shrink factors and bias towards the mean row of the training part instead of towards 0.
    """
    centre = centre_bias = 0
    if to_mean:
        mean = mean_row(ratings, q, bi, mu, **ridge)
        centre, centre_bias = mean[:-1], mean[-1]

    def predict(profile, target):
        towards = implicit(profile) if implicit else centre
        p, bu = fold_in(profile, q, bi, mu, centre=towards, centre_bias=centre_bias, **ridge)
        return mu + bu[target.users] + bi[target.items] + paired_dot(p, q, target.users, target.items)
    return predict


def joined(by_user, by_items, profile, target, user_weight, empty_weight=None, **_):
    """LFG-dual: the weighted mean of LFG's predictions and the mean of LFG-item's over its seeds.

    The weight of LFG is user_weight; with empty_weight it depends on the profile's length.
    """
    weight = user_weight
    if empty_weight is not None:
        weight = joining_weight(profile.counts[target.users], user_weight, empty_weight)
    return weight * by_user(profile, target) + (1 - weight) * np.mean([p(profile, target) for p in by_items], axis=0)


def settings_for(data, test, options):
    """Settings of the MovieLens set nearest in size (on a log scale): its own, where it is one."""
    name = min(SIZES, key=lambda n: abs(np.log(SIZES[n] / len(data.ratings))))
    settings = dict(SETTINGS[name, test])
    if options.seeds:
        settings["LFG-dual"] = {**settings["LFG-dual"], "seeds": options.seeds}
    return settings


def epochs_of(plan, seed):
    """Epochs in training all that (column, settings)... need, once each."""
    models = {(name, str(sorted(settings[name].items())), its_seed): CLASSES[name](**settings[name]).epochs
              for column, settings in plan for name, its_seed in needs(column, settings, seed)}
    return sum(models.values())


def keep(path, options):
    """Trains on all ratings of a data set, for profiles of any length, and saves a Recommender: lfg.py train."""
    if options.generator == "user" and options.seeds:
        raise DataError("--seeds: of the item side, which --generator user leaves out; leave out one of the two")
    data = load(options.dataset, options.data_dir, options.seed, not options.quiet and sys.stderr.isatty())
    settings, view = settings_for(data, "coldstart", options), view_of(data, "coldstart")
    unit = rating_unit(data.ratings)
    given = {key: value for key, value in [("epochs", options.epochs), ("n_factors", options.factors)] if value}
    settings.update({name: {**settings[name], **given} for name in ("LFG", "LFG-item")})
    names = {"user": ["LFG"], "item": ["LFG-item"], "dual": ["LFG", "LFG-item"]}[options.generator]
    if options.generator == "item" and not options.seeds:     # the mean over seeds is for the dual
        settings["LFG-dual"] = {**settings["LFG-dual"], "seeds": 1}
    needed = [need for need in needs("LFG-dual", settings, options.seed) if need[0] in names]
    R, E, E_names = data.ratings.with_values(data.ratings.values / unit), data.E, data.E_names
    if options.generator == "item":                           # which knows nothing of users but what they rated
        E, E_names = E[:, :0], []
    with progress_bar(sum(CLASSES[name](**settings[name]).epochs for name, _ in needed), options) as bar:
        trained = train_all(needed, settings, R, data.name, view, bar)
    lfgs, item_models = ([model for model, _ in trained.get(name, [])] for name in ("LFG", "LFG-item"))
    sides = [item_side(model, R, data.F, *ridge_of(settings, "LFG-item fold-in")) for model in item_models]
    model = recommender(facts(data.ratings, E, unit), lfgs, sides, settings, item_ids=data.item_ids, titles=data.titles,
                        E_names=E_names)
    rmse = training_rmse(model, data.ratings, E)              # before the file: what follows it must be quick
    model.save(path, options.half)
    print(f"training RMSE {rmse:.4f}; {' '.join(path.split())}: {os.path.getsize(path) / 1e6:.1f} MB", file=sys.stderr)


def item_side(model, R, F, l2, l2_bias):
    """(q, bi, centre) of an LFG fitted on (R.T, F): generated item factors (items, k) and biases (items,), and the
    mean (k + 1,) of the training users' factors and biases, folded into those."""
    q, bi = model.generate(R.T, F)
    return q, bi, mean_row(R, q, bi, model.mu, l2, l2_bias)


def recommender(known, lfgs, sides, settings, **catalogue):
    """The Recommender of one LFG of users, of item sides, or of both; known: what `facts` gives."""
    dual = settings["LFG-dual"]
    weights = (dual["user_weight"], dual["empty_weight"]) if lfgs and sides else (len(lfgs), len(lfgs))
    return Recommender(assemble(known, *lfgs, sides=sides, ridge=ridge_of(settings, "LFG-item fold-in"),
                                weights=weights, **catalogue))


def ridge_of(settings, fold_in):
    return settings[fold_in]["l2"], settings[fold_in]["l2_bias"]


def training_rmse(model, R, E):
    """RMSE of a Recommender over ratings R that it was trained on, each user served with all of theirs as profile."""
    squared = 0.0
    for u in np.flatnonzero(R.counts):
        row = slice(R.starts[u], R.starts[u + 1])
        predicted = model.predict(R.items[row], R.values[row], E[u])[R.items[row]]
        squared += float(np.sum((np.clip(predicted, model.low, model.high) - R.values[row]) ** 2))
    return (squared / len(R)) ** 0.5


def title(test, data, what="5-Fold Cross-Validation Results"):
    return f"{TITLES[test]} {what} on {data.name.replace('ml-', 'MovieLens-')}"


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


def curves(tables):
    """Cold start as an SVG: a panel a data set, RMSE against the number of ratings, a line a model."""
    colours = dict(zip(tables[0]["models"], ("#888888", "#d95f02", "#7570b3", "#1b9e77", "#000000")))
    width, height, left, top = 380, 260, 50, 40               # of a panel's plot, and its place
    parts = []
    for n, table in enumerate(tables):
        x0, values = left + n * (width + left + 20), np.array(list(table["average"].values()))
        step = 0.02 * 2 ** max(0, np.ceil(np.log2((np.ptp(values) + 1e-9) / 0.16)))       # at most nine or so lines
        low = np.floor(values.min() / step) * step
        high = max(low + step, np.ceil(values.max() / step) * step)
        xs = np.linspace(x0, x0 + width, len(table["ratings"]))

        def y_of(rmse):
            return top + height * (high - rmse) / (high - low)
        parts.append(f'<text x="{x0}" y="24" font-weight="bold">{escape(table["dataset"])}</text>')
        for tick in np.arange(low, high + step / 2, step):
            parts.append(f'<path d="M{x0} {y_of(tick):.1f}h{width}" stroke="#dddddd"/>'
                         f'<text x="{x0 - 6}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{tick:.2f}</text>')
        parts += [f'<text x="{x:.0f}" y="{top + height + 18}" text-anchor="middle">{count}</text>'
                  for x, count in zip(xs, table["ratings"])]
        for model, rmse in table["average"].items():
            points = " ".join(f"{x:.1f},{y_of(y):.1f}" for x, y in zip(xs, rmse))
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colours[model]}" stroke-width="2"/>')
    bottom, total = top + height + 40, left + len(tables) * (width + left + 20)
    parts.append(f'<text x="{left}" y="{bottom}">RMSE by the number of ratings in a new user\'s profile</text>')
    for n, (model, colour) in enumerate(colours.items()):
        parts.append(f'<text x="{left + 130 * n}" y="{bottom + 22}" fill="{colour}" font-weight="bold">{model}</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(total, 720)} {bottom + 36}" '
            'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#ffffff"/>'
            + "\n".join(parts) + "</svg>\n")


def parse(argv):
    """The options; exits with code 2 and one line when they make no sense."""
    parser = Parser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k", metavar="{ml-100k,ml-1m,synthetic,all}",
                        help="the data; also a path: a folder in GroupLens' or RecBole's layout, or a CSV "
                        "whose first line names user, item and rating, as userId,movieId,rating does")
    parser.add_argument("--test", default="all", choices=[*COLUMNS, "ablation", "speed", "tune", "all"],
                        help="basic: 20%% of each user's ratings held out; realtime: 20%% of the users are new; "
                             "all: both; newitem: 20%% of the items are new; coldstart: new users by "
                             "number of ratings; ablation: from the paper's letter to LFG-dual, a choice a row; "
                             "speed: time for a new user of fold 1, of training, memory; one thread; "
                             "tune: validation RMSE around each setting, within fold 1's training part")
    parser.add_argument("--of", nargs="+", default=list(COLUMNS), choices=list(COLUMNS),
                        help="the tests whose settings --test tune shows")
    parser.add_argument("--models", nargs="+", default=list(COLUMNS["basic"]), choices=list(COLUMNS["basic"]),
                        help="columns of the tables")
    parser.add_argument("--folds", nargs="+", type=int, default=[1, 2, 3, 4, 5], choices=range(1, 6),
                        help="which folds")
    parser.add_argument("--seeds", type=whole(1, 1000), help="runs of the item side that LFG-dual averages; "
                        "if not given, 5 on ML-100k and 2 on ML-1m")
    parser.add_argument("--seed", type=whole(0, 2 ** 63), default=0,
                        help="of the folds and of every random number in training")
    parser.add_argument("--data-dir", default=os.environ.get("LFG_DATA") or "data",
                        help="where ml-100k and ml-1m lie, and are put; LFG_DATA sets it too")
    parser.add_argument("--json", metavar="FILE", help="write the tables there as well")
    parser.add_argument("--svg", metavar="FILE", help="draw the curves of --test coldstart there")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    options = parser.parse_args(argv)
    if options.svg and options.test != "coldstart":
        parser.error("--svg draws --test coldstart only")
    if options.test in ("ablation", "speed") and options.models != list(COLUMNS["basic"]):
        parser.error(f"--models is not for --test {options.test}, which has rows of its own")
    options.folds = sorted(set(options.folds))
    return options


if __name__ == "__main__":
    command(main)
