"""The paper's experiments (Section 4), four tables of RMSE on MovieLens, and tests of our own.

basic: 20% of each user's ratings are held out. realtime: 20% of the users are new. all: both.
newitem: 20% of the items are new. coldstart: new users by number of ratings. topn: lists for new
users. published: u1 to u5 in the folder of ml-100k or, for other data, 10% of all ratings held
out. calibration: how sure ratings for new users are. taste: lists for fans of a genre. sample:
trained on a share of the users. ablation: from the paper to LFG-dual, one choice per row. speed:
time per new user of fold 1, training time, and memory. tune: validation RMSE, or NDCG@100, around
each setting, within fold 1's training part.
"""

import os
import sys
from importlib.util import find_spec

if __name__ == "__main__":                                 # BLAS reads these when NumPy is loaded
    for library in ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "VECLIB_MAXIMUM"):
        os.environ.setdefault(f"{library}_THREADS", "1")
    if find_spec("numpy") is None:
        print("experiments.py: numpy is missing; pip install -r requirements.txt", file=sys.stderr)
        sys.exit(2)

import argparse
import json
import re
from dataclasses import replace
from itertools import product
from timeit import timeit

import numpy as np

from data import DataError, Ratings, Split, load, official, output_path, sample_users, split
from data import write_whole
from lfg import LFGDual
from serve import Parser, Recommender, add_shared_options, rmse_of, run_command
from settings import COUNTS, GRID, SHARES, Models, choices, fit, fit_all, neighbours, settings_for
from svd import Popularity, like_threshold, likes_of

NETWORKS = {"lfg": ["LFG"], "lfg-item": ["LFG-item"], "lfg-dual": ["LFG-dual"]}
BASIC = {"svd": ["SVD"], "biassvd": ["BiasSVD"], "svdpp": ["SVD++"], "lfg-paper": ["LFG (paper)"],
         **NETWORKS}
COLUMNS = {                                                # rows that each of --models adds
    "basic": BASIC, "published": BASIC,
    "realtime": {**BASIC, "biassvd": ["BiasSVD", "BiasSVD fold-in"], "svdpp": ["SVD++ fold-in"]},
    "newitem": {"biassvd": ["μ + bu", "BiasSVD fold-in"], **NETWORKS},
    "coldstart": {"biassvd": ["μ + bi", "BiasSVD fold-in"], **NETWORKS},
    "topn": {"biassvd": ["BiasSVD fold-in"], "lfg-dual": ["LFG-dual"],
             "popularity": ["Popularity"], "ease": ["EASE", "EASE, rated"],
             "mult-vae": ["Mult-VAE"], "lfg-rank": ["LFG-rank user", "LFG-rank item", "LFG-rank"]},
    "coldstart topn": {"popularity": ["Popularity"], "ease": ["EASE"], "lfg-rank": ["LFG-rank"]}}
PLANS = {                                                  # rows: their settings; no --models
    "calibration": {"LFG-dual": "realtime"}, "taste": {"LFG-rank": "coldstart topn"},
    "sample": {"LFG-dual": "realtime", "LFG-rank": "topn"},
    "speed": {**dict.fromkeys(["BiasSVD fold-in", "SVD", "LFG-dual"], "coldstart"),
              "LFG-rank": "coldstart topn"}}
TASTES = {"Horror": 5, "Children's": 5, "Sci-Fi": 5, "Romance": 5, "War": 3}       # of ten
TITLES = {                                                 # without {...}: RMSE; tune has its own
    "basic": "LFG Rating Prediction", "realtime": "LFG Real-Time Rating Prediction",
    "newitem": "New Items,", "coldstart": "Cold Start by Ratings in the Profile,",
    "coldstart topn": "Lists by Ratings in the Profile, {results}\n(NDCG@10, higher is better)",
    "topn": "Lists for New Users, {results}\n(higher is better)", "published": "Public Protocol",
    "calibration": "How Sure Ratings Are, {results}\n(LFG-dual: ratings within each interval; NLL, "
                   "and with one spread for all; RMSE by fifth)",
    "taste": "The First Ten of Fans, on {name}",
    "sample": "Trained on a Share of the Users, {results}\n"
              "(RMSE and seconds of LFG-dual, NDCG@10 and seconds of LFG-rank)",
    "ablation": "What Each Choice Buys,",
    "speed": "What a New User Costs, Fold 1, One Thread, on {name}", "tune": ""}
PAPER = {                                                  # table and its averages of RMSE
    ("ml-100k", "basic"): (1, {"SVD": 0.9404, "BiasSVD": 0.9136, "LFG (paper)": 0.9130}),
    ("ml-1m", "basic"): (2, {"SVD": 0.8672, "BiasSVD": 0.8607, "LFG (paper)": 0.8566}),
    ("ml-100k", "realtime"): (3, {"SVD": 1.1274, "BiasSVD": 1.0305, "LFG (paper)": 0.9255}),
    ("ml-1m", "realtime"): (4, {"SVD": 1.1151, "BiasSVD": 0.9835, "LFG (paper)": 0.8837})}
OTHERS = {                                                 # what others report, and where
    "ml-100k": ("u1", [
        "0.905 GC-MC (arXiv 1706.02263)", "0.905 IGMC (arXiv 1904.12058)",
        "0.8967 IMC-GAE (arXiv 2108.11124)", "0.890 MG-GAT (Leng, Ruiz and Liu, 2020)",
        "0.8889 GLocal-K (arXiv 2108.12184): its best test epoch",
        "0.887 GHRS (arXiv 2111.11293): the split is not certain",
        "0.8833 myFM with dates (github.com/tohtsky/myFM)",
        "0.8808 myFM with dates, ordered probit (github.com/tohtsky/myFM)"]),
    "ml-1m": ("random 90/10 splits of their own", [
        "0.831 I-AutoRec (Sedhain et al., WWW 2015)", "0.829 CF-NADE (arXiv 1605.09477)",
        "0.8290 IMC-GAE (arXiv 2108.11124)", "0.824 SparseFC (Muller et al., ICML 2018)",
        "0.8227 GLocal-K (arXiv 2108.12184): its best test epoch",
        "0.8161 myFM with dates (github.com/tohtsky/myFM)",
        "0.8140 myFM with dates, ordered probit (github.com/tohtsky/myFM)"])}
LEVELS = {"50": 0.67449, "80": 1.28155, "95": 1.95996}      # normal quantiles, by coverage in %
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
    own = {"tune": tune, "speed": speed, "taste": taste, "sample": sample}
    tables = []
    for test, data in product(options.tests, loaded):
        if test == "newitem":                              # users and items exchanged
            data = replace(data, ratings=data.ratings.T, E=data.F, F=data.E)
        for more, *texts in own.get(options.test, cross_validate)(data, test, options):
            table = {"table": None, "dataset": data.name, "test": test, "seed": options.seed} | more
            tables.append(table)
            if texts:                                      # some may be empty, as may the title
                print(*filter(None, [title(table), *texts]), sep="\n\n", end="\n\n", flush=True)
            if options.json:
                write_whole(options.json, json.dumps(tables, indent=1))


class Fold(Models):
    """The models of a plan, {row: (column, settings)}, by default that of plan_of, for one fold.

    In newitem, users and items of data are exchanged, as are LFG and LFG-item. given: see cases_of.
    """

    def __init__(self, data, test, number, options, given=None, plan=None):
        self.data, self.test, self.number = data, test, number
        self.plan = plan or plan_of(data, test, options)
        self.cases = cases_of(data.ratings, test, number, options.seed, given)
        super().__init__(self.cases[0].train, data, "LFG" if test == "newitem" else "LFG-item")
        self.name += f" {test}"
        self.models = {row: self.add(*used, options.seed) for row, used in self.plan.items()}
        if test == "calibration":
            self.add_noise(self.models["LFG-dual"])


def cases_of(ratings, test, fold, seed, given=None):
    """The Splits of a fold, all with one training part: one, or in coldstart one for each count.

    given: the Split, if it is not to be drawn. coldstart keeps the new users with enough ratings
    for the largest count, so all cases score the same. Raises DataError if there are too few data.
    """
    of = test if test in ("basic", "published") else "realtime"
    train_part, *shown = parts = given or split(ratings, of, fold, seed)
    if not (len(train_part) and len(parts.target)):
        raise DataError("too few users or ratings for five folds; use a larger data set")
    if not test.startswith("coldstart"):
        return [parts]
    steady = parts.profile.counts >= COUNTS[-1]
    if not steady.any():
        raise DataError(f"no new user of fold {fold} has {COUNTS[-1]} ratings to show; use data "
                        "with more ratings per user")
    profile, target = (r.where(steady[r.users]) for r in shown)
    rank = profile.ranks(np.random.default_rng(seed))      # a larger count only adds ratings
    return [Split(train_part, profile.where(rank < n), target) for n in COUNTS]


def ranking_of(model, case, E):
    """Measures of the lists of each new user who likes something in the target of a Split.

    A candidate is an item that is in training but not in the profile; an item is relevant if it is
    liked in the target. Items with the same score are in the order of popularity.
    """
    train_part, profile, target = case
    relevant = likes_of(target, like_threshold(train_part.values))
    users = np.flatnonzero(relevant.counts)
    if len(users) == 0:
        raise DataError("no new user likes what is held out; use a larger data set")
    order = np.argsort(-Popularity().fit(train_part).base, kind="stable")          # of ties
    order = order[np.isin(order, train_part.items)]        # without the ones that cannot be listed
    scores = model.scores(users, profile, E).astype(np.float64)
    scores[profile.rows(users)[:2]] = -np.inf              # (row, item) of what they have shown
    top = order[np.argsort(-scores[:, order], axis=1, kind="stable")[:, :100]]
    top[np.take_along_axis(scores, top, axis=1) == -np.inf] = -1         # no candidate is left
    return measures(top, relevant, users, len(order))


def measures(top, relevant, users, n_candidates):
    """NDCG, recall and coverage of lists top (len(users), length), best first; -1: no item."""
    is_relevant = np.zeros((len(users), relevant.shape[1] + 1), bool)    # the last column: -1
    is_relevant[relevant.rows(users)[:2]] = True
    hit = np.take_along_axis(is_relevant, top, axis=1)     # as top
    n = relevant.counts[users]
    gain = 1 / np.log2(np.arange(2, top.shape[1] + 2))     # rank 1 has 1 / log2(2)
    ideal = np.cumsum(gain)
    ndcg = {f"NDCG@{k}": (hit[:, :k] @ gain[:k] / ideal[np.minimum(n, len(gain[:k])) - 1]).mean()
            for k in (10, 100)}
    return {**ndcg, "Recall@20": (hit[:, :20].sum(1) / np.minimum(20, n)).mean(),
            "Coverage": len({*np.ravel(top[:, :10])} - {-1}) / n_candidates}


def measured(fold):
    """JSON object of a trained Fold; for each row a value or, if it has several cases, a list."""
    train_part, _, target = fold.cases[0]
    sizes = {"fold": fold.number, "n_train": len(train_part),
             "n_held": len(fold.data.ratings) - len(train_part), "n_test": len(target)}
    if fold.test == "calibration":
        return {**sizes, **calibrated(fold)}
    key, score = ("metrics", ranking_of) if fold.test.endswith("topn") else ("rmse", rmse_of)
    results = {}
    for row, model in fold.models.items():
        found = [score(model, case, fold.data.E) for case in fold.cases]
        results[row] = found if len(found) > 1 else found[0]
    means = {row: results.pop(row) for row in fold.plan if fold.plan[row][0].endswith(" mean")}
    return {**sizes, key: results, "seconds": {row: fold.models[row].seconds for row in results},
            **({"ensemble": means} if means else {})}


def cross_validate(data, test, options):
    """Train and score a table fold by fold, then yield its JSON objects and texts.

    The ablation is one table of two tests, coldstart two tables. Ctrl-C leaves the complete folds.
    """
    several = {"ablation": ("basic", "realtime"), "coldstart": ("coldstart", "coldstart topn")}
    plans = {of: plan_of(data, of, options) for of in several.get(test, [test])}
    if test == "ablation":
        plans = {of: choices(plan["LFG-dual"][1]) for of, plan in plans.items()}
    numbers = options.drawn_folds if test == "published" and not data.folder else options.folds
    folds = [Fold(data, of, n, options, official(data, n) if of == "published" else None, plan)
             for n in numbers for of, plan in plans.items() if plan]
    found = {fold.test: [] for fold in folds}
    try:
        for fold in fit_all(folds, options.jobs, options.quiet):
            found[fold.test].append(measured(fold))
    finally:                                               # after Ctrl-C, too, which then goes on
        complete = min(map(len, found.values()))
        if complete:
            found = {of: objects[:complete] for of, objects in found.items()}
            yield from tables_of(data.name, test, found)


def plan_of(data, test, options):
    """The plan in PLANS, or of --models; beside LFG-dual, SVD++ is also averaged over seeds."""
    asked = [row for model in options.models for row in COLUMNS.get(test, {}).get(model, [])]
    plan = {row: (row, settings_for(len(data.ratings), of, options.seeds))
            for row, of in PLANS.get(test, dict.fromkeys(asked, test)).items()}
    for row in [row for row in plan if row.startswith("SVD++") and "LFG-dual" in plan]:
        n = plan[row][1]["LFG-dual"]["seeds"]
        plan[f"{row}, mean over {n} seed{'s' * (n > 1)}"] = f"{row} mean", plan[row][1]
    return plan


def tables_of(name, test, found):
    """Yield what only this table has in --json, and texts; found: {test: JSON objects of folds}."""
    if test == "calibration":
        yield {"models": ["LFG-dual"], "folds": found[test]}, markdown(
            ["Fold", *(f"  {level} %" for level in LEVELS), "   NLL", "NLL, one", "RMSE 1",
             *(f"     {fifth}" for fifth in range(2, 6))],
            [[f["fold"], *f["coverage"].values(), f["nll"], f["nll_constant"], *f["rmse_by_fifth"]]
             for f in found.pop(test)])
    first = {"ablation": "Choice".ljust(66), "coldstart": "Ratings shown"}.get(test, "Model")
    columns = {}                                           # {header: {row: number}}
    for of, folds in found.items():
        mean = mean_of(folds)
        average = mean.get("rmse") or mean["metrics"]
        table = {"test": of, "models": list(average), "folds": folds, "average": average,
                 **{key: mean[key] for key in mean if key == "ensemble"}}
        texts = [f"{what}: RMSE {rmse:.4f}" for what, rmse in mean.get("ensemble", {}).items()]
        if test == "ablation":
            columns["Real-time" if columns else " Basic"] = average
            table.update(test=test, of=of)
        elif test.startswith("coldstart"):
            columns = {f"{count:>6}": {row: values[n] if "rmse" in mean else values[n]["NDCG@10"]
                                       for row, values in average.items()}
                       for n, count in enumerate(COUNTS)}
            table["ratings"] = COUNTS
        elif test == "topn":
            columns = {measure: {row: values[measure] for row, values in average.items()}
                       for measure in next(iter(average.values()))}
        else:
            number, paper = PAPER.get((name, test), (None, None))
            columns = {f"Fold {fold['fold']}": fold["rmse"] for fold in folds}
            columns.update({"Average": average, **({" Paper": paper} if paper else {})})
            table.update(table=number, paper=paper)
        if not test.startswith("coldstart"):
            table["differences"] = compared = differences(folds)
            texts.append("\n".join(
                "- {model} minus {baseline}: {measure} {mean:+.4f}, 95 % interval "
                "{interval[0]:+.4f} to {interval[1]:+.4f}".format(**one) for one in compared))
        if test == "published" and name in OTHERS:
            texts += [f"RMSE that others report on {OTHERS[name][0]}; ours read no dates:",
                      "\n".join(f"- {report}" for report in OTHERS[name][1])]
        if test != "ablation":
            columns["Seconds"] = {row: sum(f["seconds"][row] for f in folds) for row in average}
        rows = [[row, *(column.get(row, "") for column in columns.values())] for row in average]
        text = markdown([first.ljust(15), *columns], rows)
        yield (table,) if (test, of) == ("ablation", "basic") else (table, text, *texts)


def mean_of(values):
    """The mean of numbers or, of lists or dicts of them, the mean at each position or key."""
    if isinstance(values[0], dict):
        return {key: mean_of([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], list):
        return [mean_of(column) for column in zip(*values)]
    return float(np.mean(values))


def differences(folds):
    """Mean differences, with intervals, between the last LFG and each baseline.

    Also between the paper's LFG and BiasSVD, its own claim; no pair is chosen by its results. In
    RMSE or, of lists, in NDCG@100, which they are tuned for. Paired t, as Nadeau and Bengio (2003)
    correct it: training sets overlap, so the variance of the mean over J folds is (1 / J + n_held /
    n_train) times that of a fold. n_held: all ratings that are not trained on, scored or not.
    """
    measure = "RMSE" if "rmse" in folds[0] else "NDCG@100"
    found = [fold.get("rmse") or {name: one[measure] for name, one in fold["metrics"].items()}
             for fold in folds]
    names = list(found[0])
    paper = "LFG (paper)"
    ours = [name for name in names if name.startswith("LFG") and name != paper][-1:]
    pairs = [(one, name) for one in ours for name in names if not name.startswith("LFG")]
    pairs += [(paper, name) for name in names if name.startswith("BiasSVD") and paper in names]
    compared = []
    for model, baseline in pairs if len(folds) > 1 else []:
        d = np.array([one[model] - one[baseline] for one in found])
        overlap = np.mean([f["n_held"] / f["n_train"] for f in folds])
        half = T_975[len(d)] * np.sqrt((1 / len(d) + overlap) * d.var(ddof=1))
        compared.append({"model": model, "baseline": baseline, "measure": measure,
                         "mean": d.mean(), "interval": [d.mean() - half, d.mean() + half]})
    return compared


def tune(data, test, options):
    """Yield the validation RMSE around the settings of each model: JSON objects and texts.

    Validation is cut out of fold 1's training part just as the test part was cut out of the whole.
    """
    plan = plan_of(data, test, options)
    measure = "NDCG@100" if test.endswith("topn") else "RMSE"
    # lists of few users are noisy: of small data, several validation parts
    inner = (1, 2, 3) if test.endswith("topn") and len(data.ratings) < 500_000 else (1,)
    training = replace(data, ratings=cases_of(data.ratings, test, 1, options.seed)[0].train)
    for column in [row for row in plan if row in GRID]:    # the others have nothing to tune
        values, around = neighbours(column, plan[column][1])
        folds = [Fold(training, test, n, options, None, around) for n in inner]
        mean = mean_of([measured(fold) for fold in fit_all(folds, options.jobs, options.quiet)])
        found = mean.get("rmse") or {row: [one[measure] for one in np.ravel(cases)]
                                     for row, cases in mean["metrics"].items()}
        grid = [{"changed": row, measure.replace("RMSE", "rmse"): float(np.mean(value)),
                 "seconds": mean["seconds"][row]} for row, value in found.items()]
        yield ({"test": "tune", "of": test, "models": [column], "grid": grid},
               f"Validation {measure}, {data.name} {test}, {column}: {', '.join(values)}",
               markdown(["Changed".ljust(27), measure.rjust(6), "Seconds"], map(dict.values, grid)))


def taste(data, test, options):
    """Yield how many of a fan's first ten items are of their genre; LFG-rank on all ratings.

    Each of 50 fans has given the highest rating to four of the genre's 20 most rated items.
    """
    R = data.ratings
    fold, = fit_all([Fold(data, test, None, options, Split(R, R, R))], options.jobs, options.quiet)
    rng = np.random.default_rng(options.seed)
    n_rated = np.bincount(R.items, minlength=R.shape[1])
    users = np.repeat(np.arange(50), 4)
    profiles = np.tile(data.E.mean(0), (50, 1))
    rows = []
    for genre, least in TASTES.items():
        of_genre = np.array([genre in genres.split("|") for genres in data.genres]) & (n_rated > 0)
        if of_genre.sum() < 20:
            continue
        famous = np.argsort(-n_rated * of_genre, kind="stable")[:20]
        liked = np.ravel([rng.choice(famous, 4, replace=False) for _ in range(50)])
        shown = Ratings(users, liked, np.full(200, R.values.max()), (50, R.shape[1]))
        scores = fold.models["LFG-rank"].scores(np.arange(50), shown, profiles)
        scores[users, liked] = -np.inf
        scores[:, n_rated == 0] = -np.inf
        found = of_genre[np.argsort(-scores, axis=1)[:, :10]].sum(1)      # (50,)
        rows.append({"genre": genre, "mean": float(found.mean()), "least": least,
                     "share": float((found >= least).mean())})
    if not rows:
        raise DataError(f"no 20 rated items have a genre of {', '.join(TASTES)}; use ml-100k")
    yield {"rows": rows, "seconds": fold.models["LFG-rank"].seconds}, markdown(
        ["Genre".ljust(11), "Of ten", "At least", "Share of draws"], map(dict.values, rows))


def sample(data, test, options):
    """Yield how LFG-dual and LFG-rank serve new users, trained on a share of the others.

    All shares have the same new users and hidden ratings; each has the users of the smaller ones.
    """
    folds = []
    for n in options.folds:
        train_part, *shown = cases_of(data.ratings, "realtime", n, options.seed)[0]
        n_users = np.count_nonzero(train_part.counts)
        for share in SHARES:
            part = sample_users(replace(data, ratings=train_part),
                                max(1, n_users * share // 100), options.seed)
            folds.append(Fold(part, test, n, options, Split(part.ratings, *shown)))
    found = []
    for fold in fit_all(folds, options.jobs, options.quiet):
        case, = fold.cases
        dual, rank = fold.models.values()
        found.append({"users": np.count_nonzero(case.train.counts), "ratings": len(case.train),
                      "rmse": rmse_of(dual, case, data.E), "dual_seconds": dual.seconds,
                      "ndcg": ranking_of(rank, case, data.E)["NDCG@10"],
                      "rank_seconds": rank.seconds})
    rows = [{"share": share, **mean_of(found[n::len(SHARES)])} for n, share in enumerate(SHARES)]
    yield {"rows": rows, "folds": [{"fold": n} for n in options.folds]}, markdown(
        ["Share of users", "Users", " Ratings", "  RMSE", "Seconds", "NDCG@10", "Seconds"],
        [[f"{share} %", round(users), round(ratings), *measures]
         for share, users, ratings, *measures in map(dict.values, rows)])


def peak_mb():
    """Peak memory of this process until now, in MB; NaN on Windows."""
    if find_spec("resource") is None:
        return np.nan
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def calibrated(fold):
    """How far off predictions of LFG-dual for new users are, compared with their spreads.

    Coverage: the share of ratings within each interval; NLL: mean negative log likelihood under a
    normal distribution with that spread, or with Noise's for all; RMSE: by fifth of spreads.
    """
    R, profile, target = fold.cases[0]
    if len(target) < 5:                                    # a fifth would be empty
        raise DataError(f"fold {fold.number} hides too few ratings; use a larger data set")
    model = fold.models["LFG-dual"]
    noise = fold.trained["noise",]
    pairs = target.users, target.items, profile, fold.data.E
    predicted = model.predict(*pairs).clip(R.values.min(), R.values.max())
    a, b = model.variance_terms(*pairs)
    return calibration_of(predicted - target.values, a * noise.sigma2 + b, noise.constant)


def calibration_of(error, variance, constant):
    """The measures of one fold: errors (n,), their variances (n,), and one variance for all."""
    error = error.astype(np.float64)
    off = np.abs(error) / np.sqrt(variance)
    nll, nll_constant = (float(np.mean(np.log(2 * np.pi * v) + error ** 2 / v) / 2)
                         for v in (variance, constant))
    fifths = np.array_split(error[np.argsort(variance, kind="stable")], 5)
    return {"coverage": {level: float(np.mean(off <= z)) for level, z in LEVELS.items()},
            "nll": nll, "nll_constant": nll_constant,
            "rmse_by_fifth": [float(np.sqrt(np.mean(fifth ** 2))) for fifth in fifths]}


def speed(data, test, options):
    """Yield what a new user of fold 1 costs, and training, with the settings of a saved model."""
    fold, = fit_all([Fold(data, test, 1, options)], 1, options.quiet)     # 1: whatever --jobs
    R, profile, target = fold.cases[0]
    new = np.flatnonzero(target.counts)
    users = [(*profile.of(u), data.E[u]) for u in new]
    model, answers = served(fold)
    dense = timed(fold.models["LFG-dual"].forward[0].scores, [([u], profile, data.E) for u in new])
    times = {"LFG, dense forward pass": dense,
             **{what: timed(answer, users) for what, answer in answers.items()}}
    rater = data.ratings.users                             # again, with the ratings of one new user
    more = [data.ratings.where((R.counts[rater] > 0) | (rater == u)) for u in new[:3]]
    bias, svd, *_ = fold.models.values()
    for name, one in ("BiasSVD", bias.model), ("SVD", svd):
        times[f"Retraining {name}"] = [fit(replace(one), R, None, None).seconds for R in more]
    rows = [{"what": what, "calls": len(took), "median": np.median(took),
             "p99": np.percentile(took, 99, method="higher"),           # of an actual call
             "times_dense": np.median(took) / np.median(dense)} for what, took in times.items()]
    training = [{"model": name, "seconds": part.seconds, "epochs": part.epochs,
                 "seconds_an_epoch": part.seconds / part.epochs}
                for (name, _, seed), part in fold.trained.items() if seed == options.seed]
    table = {"rows": rows, "training": training, "peak_mb": peak_mb(),
             "file_mb": sum(a.nbytes for a in model.arrays.values()) / 1e6,
             "retraining_to_lfg": np.median(times["Retraining BiasSVD"]) / np.median(times["LFG"])}
    yield (
        table,
        markdown(
            ["What".ljust(23), "Calls", "  Median", "99th percentile", "Times dense forward pass"],
            [[what, calls, span(middle), span(p99), f"{ratio:,.{0 if ratio >= 100 else 2}f}"]
             for what, calls, middle, p99, ratio in map(dict.values, rows)]),
        markdown(["Model".ljust(13), "Seconds to train", "Epochs", "Seconds per epoch"],
                 [[name, f"{took:.2f}", epochs, f"{an_epoch:.3f}"]
                  for name, took, epochs, an_epoch in map(dict.values, training)]),
        "- Retraining BiasSVD takes {retraining_to_lfg:,.0f} times as long as LFG's answer\n"
        "- Peak memory of the process, training included: {peak_mb:.0f} MB\n"
        "- LFG-rank and LFG-dual are a file of {file_mb:.1f} MB".format(**table))


def served(fold):
    """The Recommender of a fold of speed, and {row: function of items, ratings, profile}."""
    bias, _, dual, rank = fold.models.values()
    parts = {"LFG": (dual.forward, []), "LFG-item": ([], dual.solved),
             "LFG-dual": (dual.forward, dual.solved), "BiasSVD fold-in": ([], [bias])}
    models = {row: Recommender.from_model(LFGDual(*both, dual.weights), rank, fold.data,
                                          fold.cases[0].train) for row, both in parts.items()}
    model = models["LFG-dual"]
    return model, {
        **{row: one.scores for row, one in models.items()}, "LFG-rank": model.ranks,
        "LFG-rank, LFG-dual": lambda *user: (model.ranks(*user), model.scores(*user)),
        "Ten, ±, because": lambda *user: model.best(*user, 10, why=True),
        "Ten, because, all ±": lambda *user: (
            model.best(*user, 10, why=True),
            model.spreads(*user[:2], model.models["rating"].serve(*user, [])[0], slice(None)))}


def timed(answer, calls):
    """Seconds of each call, one after another, after 50 that are not timed."""
    for call in calls[:50]:
        answer(*call)
    return [timeit(lambda: answer(*call), number=1) for call in calls]


def span(seconds):
    """A time as text with three significant digits and a unit, such as 81.2 µs."""
    unit, factor = ("s", 1) if seconds >= 1 else ("ms", 1e3) if seconds >= 1e-3 else ("µs", 1e6)
    return f"{float(f'{seconds * factor:.3g}'):g} {unit}"


def title(table):
    """The title of a table; five folds are called a cross-validation, fewer are listed."""
    text = TITLES[table["test"]]
    if text and "{" not in text:
        text += " {results}\n(RMSE, lower is better)"
    name = re.sub("^ml-", "MovieLens-", table["dataset"])
    folds = [str(fold["fold"]) for fold in table.get("folds", [])]
    results = f"5-Fold Cross-Validation Results on {name}"
    if len(folds) < 5 or table["test"] == "published":
        results = f"Results on {name}, fold{'s' * (len(folds) > 1)} {', '.join(folds)}"
    number = f"Table {table['table']}: " if table["table"] else ""
    return number + text.format(name=name, results=results)


def markdown(header, rows):
    """A Markdown table, as wide as its header; floats have four decimals, seconds one."""
    first, *others = (len(name) for name in header)
    line = f"| {{:<{first}}} |" + "".join(f" {{:>{width}}} |" for width in others)
    rule = "|" + "-" * (first + 2) + "|" + "".join("-" * (width + 1) + ":|" for width in others)
    cells = [[f"{cell:.{1 if name == 'Seconds' else 4}f}" if isinstance(cell, float) else cell
              for cell, name in zip(row, header)] for row in rows]
    return "\n".join([line.format(*header), rule, *(line.format(*row) for row in cells)])


def parse(argv):
    """The options; exits with code 2 and one line when they make no sense."""
    tests = [test for test in COLUMNS if test not in ("coldstart topn", "published")]
    models = list(dict.fromkeys(model for test in tests for model in COLUMNS[test]))
    parser = Parser(prog="experiments.py", description=__doc__,
                    formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add_shared_options(add)
    add("--test", default="all", help="what to print, as said above",
        choices=[test for test in (*TITLES, "all") if test != "coldstart topn"])
    add("--of", nargs="+", choices=[*tests, "coldstart topn"],
        help="tests to tune; if not given, all but the last")
    add("--models", nargs="+", choices=models, help="rows of the tables; if not given, all")
    add("--folds", nargs="+", type=int, choices=range(1, 6), metavar="{1..5}",
        help="which folds; if not given, all, but only the first of published without u1 to u5")
    add("--json", metavar="FILE", help="also write the tables to this file")
    options = parser.parse_args(argv)
    several = {"all": ["basic", "realtime"], "tune": options.of or tests}
    options.tests = several.get(options.test, [options.test])
    if options.of and options.test != "tune":
        parser.error(f"--of {' '.join(options.of)}: only for --test tune")
    if options.folds and options.test in ("taste", "speed", "tune"):
        parser.error(f"--folds: not for --test {options.test}; leave it out")
    known = dict.fromkeys(model for test in options.tests for more in ("", " topn")
                          for model in COLUMNS.get(test + more, {}))
    if options.models and not known.keys() & set(options.models):
        has = f" has only {' '.join(known)}" if known else " prints all its rows"
        parser.error(f"--models {' '.join(options.models)}: {options.tests[0]}{has}")
    options.models = [model for model in models if model in (options.models or models)]
    options.drawn_folds = sorted(set(options.folds or [1]))          # of published
    options.folds = sorted(set(options.folds or range(1, 6)))
    return options


if __name__ == "__main__":
    run_command("experiments.py", run, None, "interrupted")
