"""Every hyperparameter, with one setting per model and table; making and training the models.

All were chosen on a validation part of the training ratings; `known` of LFG-rank and its settings
in "coldstart topn" with the test taste as well. `python experiments.py --test tune` prints the grid
around each. What is not named here is the default of the class in svd.py or lfg.py. In "LFG-dual"
and "LFG-rank", seeds is how many item networks are joined; kept, how many of their factors remain
(if not all); user_weight, the weight of the user network in the mean for users with many ratings;
empty_weight, that for users with none (if it differs).
"""

import os
import signal
import time
from concurrent.futures import FIRST_EXCEPTION, BrokenExecutor, ProcessPoolExecutor, wait
from copy import deepcopy
from multiprocessing import Semaphore, parent_process
from threading import Thread

import numpy as np

from data import DataError
from lfg import LFG, CellsLFG, LFGDual, LFGItem, LFGRank, LFGRankItem, PaperLFG, RankLFG
from svd import EASE, SVD, BiasSVD, FoldIn, MultVAE, Popularity, SVDpp, random_sizes

CLASSES = {"SVD": SVD, "BiasSVD": BiasSVD, "SVD++": SVDpp, "LFG": LFG, "LFG-item": LFG,
           "LFG (paper)": PaperLFG, "Popularity": Popularity, "EASE": EASE, "EASE, rated": EASE,
           "Mult-VAE": MultVAE, "LFG-rank user": RankLFG, "LFG-rank item": CellsLFG}
JOINED = {"LFG-dual": (LFGDual, "LFG", "LFG-item"),
          "LFG-rank": (LFGRank, "LFG-rank user", "LFG-rank item")}
COUNTS = (0, 1, 2, 5, 10, 20, 50)                          # ratings shown in the test coldstart
SHARES = (5, 10, 25, 50, 100)                              # % of the users, in the test sample
SIZES = {"ml-100k": 100_000, "ml-1m": 1_000_209}           # ratings of each data set

SETTINGS = {}                                              # completed after the last test, below
SETTINGS["ml-100k", "basic"] = {
    "SVD": dict(n_factors=10, l2=1.1, start=0.03, epochs=40),
    "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.6, epochs=20, rate=0.02),
    "SVD++": dict(n_factors=20, l2=1.4, l2_bias=0.6, epochs=20, rate=0.02),
    "LFG (paper)": dict(n_factors=8, hidden=(128, 128, 64, 64), rate=8e-3, batch=128, epochs=12),
    "LFG": dict(n_factors=200, l2=0.2, l2_M=0.6, mask=0.3, epochs=30, rate=5e-3),
    "LFG-item": dict(n_factors=200, l2=0.05, l2_M=0.15, mask=0.5, shown_weight=0.2,
                     svd_rows=30, rate=5e-3),
    "LFG-item fold-in": dict(l2=512.0, l2_bias=3.0),
    "LFG-dual": dict(seeds=5, user_weight=0.15)}
SETTINGS["ml-1m", "basic"] = {
    "SVD": dict(n_factors=20, l2=1.1, start=0.3, epochs=40),
    "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.6, epochs=20, rate=0.02),
    "SVD++": dict(n_factors=10, l2=1.25, l2_bias=0.6, epochs=40, rate=0.02),
    "LFG (paper)": dict(n_factors=15, hidden=(128, 128, 64), rate=4e-3, batch=128, epochs=12),
    "LFG": dict(n_factors=200, hidden=(500,), l2=0.02, l2_M=0.2, mask=0.3, epochs=30),
    "LFG-item": dict(n_factors=200, hidden=(500,), l2=0.02, l2_M=0.06, mask=0.5, shown_weight=0.2),
    "LFG-item fold-in": dict(l2=512.0, l2_bias=3.0, l2_item=2.0),
    "LFG-dual": dict(seeds=4, user_weight=0.2)}
SETTINGS["ml-100k", "realtime"] = {
    "BiasSVD": dict(n_factors=50, l2=1.1, l2_bias=0.3, epochs=20, rate=0.02),
    "BiasSVD fold-in": dict(l2=7.0, l2_bias=3.0, l2_item=300.0),
    "SVD++": dict(n_factors=50, l2=1.2, l2_bias=0.3, epochs=20, rate=0.02),
    "SVD++ fold-in": dict(l2=5.0, l2_bias=3.0),
    "LFG (paper)": dict(n_factors=5, hidden=(32, 64, 64), rate=8e-3, batch=512, epochs=40),
    "LFG": dict(n_factors=200, l2=0.3, l2_M=0.6, mask=0.3, epochs=40, rate=5e-3),
    "LFG-item": dict(n_factors=200, l2=0.05, l2_M=0.15, mask=0.5, shown_weight=0.2,
                     svd_rows=30, batch=256),
    "LFG-item fold-in": dict(l2=200.0, l2_bias=3.0)}
SETTINGS["ml-1m", "realtime"] = {
    "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.3, epochs=20, rate=0.02),
    "BiasSVD fold-in": dict(l2=10.0, l2_bias=3.0, l2_item=300.0, strength=10.0),
    "SVD++": dict(n_factors=20, l2=1.2, l2_bias=0.3, epochs=40, rate=0.02),
    "SVD++ fold-in": dict(l2=5.0, l2_bias=3.0),
    "LFG (paper)": dict(n_factors=15, hidden=(128, 128, 64, 64), rate=8e-3, batch=128, epochs=12),
    "LFG-item fold-in": dict(l2=350.0, l2_bias=3.0, l2_item=2.0),
    "LFG-dual": dict(seeds=4, user_weight=0.15)}
SETTINGS["ml-100k", "newitem"] = {
    "BiasSVD": dict(n_factors=50, l2=1.2, l2_bias=0.6, epochs=20, rate=0.02),
    "BiasSVD fold-in": dict(l2=7.0, l2_bias=1.0, l2_item=300.0, strength=0.3),
    "LFG": dict(n_factors=200, l2=0.15, l2_M=0.6, mask=0.3, epochs=40, rate=5e-3),
    "LFG fold-in": dict(l2=400.0, l2_bias=3.0, l2_item=1.0, strength=10.0),
    "LFG-item": dict(n_factors=200, l2=0.05, l2_M=0.15, mask=0.3, shown_weight=0.5,
                     svd_rows=30, batch=64),
    "LFG-dual": dict(seeds=5, user_weight=0.5)}
SETTINGS["ml-1m", "newitem"] = {
    "BiasSVD": dict(n_factors=100, l2=1.5, l2_bias=0.3, epochs=20, rate=0.01),
    "BiasSVD fold-in": dict(l2=8.0, l2_bias=2.0, l2_item=300.0, strength=1.0),
    "LFG": SETTINGS["ml-1m", "basic"]["LFG"],
    "LFG fold-in": dict(l2=600.0, l2_bias=1.0, l2_item=0.5, strength=30.0),
    "LFG-item": dict(n_factors=200, l2=0.04, l2_M=0.06, mask=0.3, shown_weight=0.5, epochs=60),
    "LFG-dual": dict(seeds=2, user_weight=0.5)}
SETTINGS["ml-100k", "coldstart"] = {
    "BiasSVD fold-in": dict(l2=5.0, l2_bias=6.0, l2_item=300.0),
    "LFG": dict(n_factors=200, l2=0.6, l2_M=0.6, mask=(0.3, 1.0), epochs=40, rate=5e-3),
    "LFG-item fold-in": dict(l2=300.0, l2_bias=6.0),
    "LFG-dual": dict(seeds=5, kept=150, user_weight=0.15, empty_weight=0.3)}
SETTINGS["ml-1m", "coldstart"] = {
    "BiasSVD fold-in": dict(l2=5.0, l2_bias=3.0, l2_item=300.0),
    "LFG": dict(n_factors=100, hidden=(500,), l2=0.02, l2_M=0.2, mask=(0.3, 1.0), epochs=30),
    "LFG-item fold-in": dict(l2=350.0, l2_bias=6.0, l2_item=2.0),
    "LFG-dual": dict(seeds=4, kept=100, user_weight=0.15, empty_weight=0.4)}
SETTINGS["ml-100k", "topn"] = {
    "Popularity": {},
    "EASE": dict(l2=200.0),
    "EASE, rated": dict(l2=200.0, rated=0.5),              # reads all ratings, as LFG-rank does
    "Mult-VAE": dict(l2=0.001, dropout=0.7, epochs=50, rate=8e-3),
    "LFG-rank user": dict(l2=0.2, mask=0.35, epochs=40),
    "LFG-rank item": dict(mask=0.2, rate=5e-3),
    "LFG-rank item fold-in": dict(l2=70.0, few=50.0, strength=100.0, known=20.0),
    "LFG-rank": dict(seeds=3, kept=200, user_weight=0.6, empty_weight=0.0)}
SETTINGS["ml-1m", "topn"] = {
    "LFG-dual": dict(seeds=2, user_weight=0.15),
    "Popularity": {},
    "EASE": dict(l2=600.0),
    "EASE, rated": dict(l2=600.0, rated=0.5),
    "Mult-VAE": dict(l2=0.001, dropout=0.7, rate=8e-3),
    "LFG-rank user": dict(hidden=(500,), l2=0.03, l2_M=0.03),
    "LFG-rank item": dict(hidden=(500,), epochs=40),
    "LFG-rank item fold-in": dict(l2=200.0, few=200.0, strength=100.0, known=12.0),
    "LFG-rank": dict(seeds=2, kept=200, user_weight=0.75, empty_weight=0.0)}
SETTINGS["ml-100k", "coldstart topn"] = {
    "EASE": dict(l2=4_000.0),
    "LFG-rank user": dict(l2=0.4, mask=(0.3, 1.0), epochs=40),
    "LFG-rank item fold-in": dict(l2=140.0, few=200.0, strength=100.0, known=20.0),
    "LFG-rank": dict(seeds=3, kept=200, user_weight=0.7, empty_weight=0.3)}
SETTINGS["ml-1m", "coldstart topn"] = {
    "EASE": dict(l2=10_000.0),
    "LFG-rank user": dict(n_factors=100, hidden=(500,), l2=0.03, l2_M=0.03, mask=(0.3, 1.0)),
    "LFG-rank": dict(seeds=2, kept=100, user_weight=0.75, empty_weight=1.0)}
for test, other in [("published", "basic"), ("realtime", "basic"), ("coldstart", "realtime"),
                    ("topn", "realtime"), ("coldstart topn", "topn")]:
    for name in SIZES:                                     # what a test does not name is as there
        SETTINGS[name, test] = {**SETTINGS[name, other], **SETTINGS.get((name, test), {})}

TWO, THREE, ROOT = (0.5, 2), (0.3, 3), (0.7, 1.4)          # factors; ROOT: about the root of 2
GRID = {                                                   # multiplies one value at a time
    "SVD": dict(n_factors=TWO, l2=(0.8, 1.25), start=THREE, epochs=TWO, rate=TWO),
    "BiasSVD": dict(n_factors=TWO, l2=(0.8, 1.25), l2_bias=TWO, epochs=TWO, rate=TWO),
    "SVD++": dict(n_factors=TWO, l2=(0.8, 1.25), l2_bias=TWO, epochs=TWO, rate=TWO),
    "LFG (paper)": dict(n_factors=TWO, hidden=TWO, epochs=TWO, rate=TWO, batch=TWO),
    "LFG": dict(n_factors=TWO, l2=TWO, l2_M=ROOT, mask=ROOT, rate=(0.6, 1.6)),
    "LFG-item": dict(l2=TWO, l2_M=ROOT, mask=ROOT, shown_weight=TWO, rate=(0.6, 1.6)),
    **dict.fromkeys(["BiasSVD fold-in", "LFG fold-in", "LFG-item fold-in"],
                    dict(l2=TWO, l2_bias=THREE, l2_item=TWO, strength=THREE)),
    "SVD++ fold-in": dict(l2=TWO, l2_bias=THREE),
    "LFG-dual": dict(kept=(0.7, 2), user_weight=(0, 0.5, 2), empty_weight=(0.5, 1.5)),
    "EASE": dict(l2=(0.25, 0.5, 2, 4)),
    "EASE, rated": dict(l2=TWO, rated=(0.5, 1.5)),
    "Mult-VAE": dict(l2=THREE, beta=TWO, dropout=ROOT, epochs=TWO, rate=TWO),
    "LFG-rank user": dict(l2=THREE, l2_M=THREE, mask=ROOT, epochs=ROOT, rate=(0.6, 1.6),
                          rated=(0, 0.6, 1.6)),
    "LFG-rank item": dict(l2=THREE, l2_M=THREE, mask=ROOT, a0=TWO, epochs=ROOT, rate=(0.6, 1.6),
                          rated=(0, 0.6, 1.6)),
    "LFG-rank item fold-in": dict(l2=ROOT, few=THREE, strength=THREE, known=(0.3, 2)),
    "LFG-rank": dict(kept=TWO, user_weight=(0, 0.7, 1.3), empty_weight=(0, 0.5))}


def settings_for(n_ratings, test, seeds=None):
    """Settings of a test, {name: keyword arguments}, by nearest size; seeds: in place of theirs."""
    nearest = min(SIZES, key=lambda name: abs(np.log(SIZES[name] / n_ratings)))
    return {name: {**setting, "seeds": seeds} if seeds and "seeds" in setting else setting
            for name, setting in SETTINGS[nearest, test].items()}


def choices(settings):
    """The rows of the ablation, {what is added: (column, settings)}; nothing is tuned again."""
    paper, lfg = settings["LFG (paper)"], settings["LFG"]
    item, dual = settings["LFG-item"], settings["LFG-dual"]
    published = {**paper, "l2": 0.0, "l2_M": 0.0, "dropout": 0.0}
    no_prior = np.zeros(item["n_factors"] + 1, np.float32)
    plain = "LFG-item fold-in", {**settings["LFG-item fold-in"], "centre": lambda items: no_prior}
    steps = [
        ("LFG (paper)", "as published, μ the mean of all ratings", {**paper, "own_mean": False}),
        ("LFG (paper)", "+ μ the user's own mean: LFG (paper)", paper),
        ("LFG", "in place of raw ratings and own mean: deviations, 0/1 indicator",
         {**published, "start": 1.0}),
        ("LFG", "+ smaller M at the start", published),
        ("LFG", "+ dropout", {**paper, "l2": 0.0, "l2_M": 0.0}),              # of LFG
        ("LFG", "+ L2 on weights and M", {**paper, "l2": lfg["l2"], "l2_M": lfg["l2_M"]}),
        ("LFG", "+ LFG's widths, epochs, rate and batch",
         {**lfg, "mask": 0.1, "n_factors": paper["n_factors"]}),
        ("LFG", "+ 200 factors", {**lfg, "mask": 0.1}),
        ("LFG", "+ mask 0.3 (LFG)", lfg),
        ("LFG-item", "turned around: items generated, users solved",
         {**item, "mask": lfg["mask"], "shown_weight": 1.0}, plain),
        ("LFG-item", "+ mask 0.5, weight 0.2 for ratings that the input shows", item, plain),
        ("LFG-item", "+ prior, noise, and items folded in (LFG-item)", item),
        ("LFG-dual", "+ several seeds", {**dual, "user_weight": 0}),
        ("LFG-dual", "+ the user side, with its weight (LFG-dual)", dual)]
    return {what: (name, {**settings, name: setting, **dict(more)})
            for name, what, setting, *more in steps}


def neighbours(column, used):
    """Settings in use, ["name = value"], and a plan: these, then one value changed in each row."""
    values, plan = [], {"in use": (column, used)}
    name = column.replace(" fold-in", "")
    solved = f"{name} fold-in" if column != "BiasSVD" else None          # it learns its users' rows
    for group in [group for group in (name, solved) if group in used]:
        prefix = "fold-in " if group != name else ""
        values += [f"{prefix}{key} = {value}" for key, value in used[group].items()]
        for key, factors in GRID[group].items():
            value = used[group].get(key, getattr(CLASSES.get(group, FoldIn), key, None))
            for other in [scaled(value, factor) for factor in factors if value]:
                changed = {**used, group: {**used[group], key: other}}
                plan[f"{prefix}{key} = {other}"] = column, changed
    return values, plan


def scaled(value, factor):
    """A hyperparameter times a factor: counts stay whole and above 0, ends of a range at most 1."""
    if isinstance(value, tuple):                           # widths, or the ends of a range
        return tuple(v if isinstance(v, int) else min(1.0, v)
                     for v in (scaled(v, factor) for v in value))
    return max(1, round(value * factor)) if isinstance(value, int) else round(value * factor, 6)


class Noise:
    """How far off a model's predicted ratings are for users not seen in training.

    fit trains `spare`, a model not fitted yet, without a tenth of the users, because residuals of
    training ratings are too small. Shown a part of these users' ratings, it predicts the rest.
    Parts of random size, from none to all, give sigma2, as in variance_terms; parts of four fifths
    give constant, the mean squared error. With under 20 users, or no errors, both are R's variance.
    """

    def __init__(self, spare):
        self.spare = spare
        self.epochs = getattr(spare, "models", [spare])[0].epochs

    def fit(self, R, E=None, F=None, progress=None):
        """Train the spare model and measure."""
        users = np.flatnonzero(R.counts)
        self.sigma2 = self.constant = float(R.values.var()) or 1.0
        if len(users) < 20:
            return self
        rng = np.random.default_rng(0)
        held = np.isin(R.users, rng.permutation(users)[:len(users) // 10])
        self.spare.fit(R.where(~held), E, F, progress)
        known = R.where(held)
        rank = known.ranks(rng)
        found = []
        for sizes in (0.8 * known.counts, random_sizes(known, rng)):
            shown = rank < sizes[known.users]
            target = known.where(~shown)
            pairs = target.users, target.items, known.where(shown), E
            found.append((target.values - self.spare.predict(*pairs)).astype(np.float64) ** 2)
        constant, squares = found
        if constant.any() and squares.any():
            a, b = self.spare.variance_terms(*pairs)
            sigma2 = squares.mean()
            for _ in range(200):                           # until errors are as large as foreseen
                sigma2 *= np.mean(squares / (a * sigma2 + b))
            self.sigma2, self.constant = float(sigma2), float(constant.mean())
        return self


class Models:
    """Models of the same training ratings that share their parts: each is trained once.

    trained: networks and factorizations, by (name, setting, seed), for fit_all; built: what is
    solved around them and what joins them, by (setting, *parts).
    """

    def __init__(self, R, data, of_columns="LFG-item"):
        """R: ratings of a Dataset; of_columns: the network that generates the columns of R."""
        self.name = data.name
        self.inputs = R, data.E, data.F
        self.is_genre = [name.startswith("genre=") for name in data.F_names]
        self.solvers = {"LFG-rank item": LFGRankItem, of_columns: LFGItem}
        self.trained, self.built = {}, {}

    def add(self, column, settings, seed, seeds=1, kept=None, generator="dual"):
        """The model of a column of a table, not fitted yet.

        A network that generates the rows of R is the model itself; LFGItem joins `seeds` of those
        that generate the columns of R. generator: which half of a joined model to make, or "dual".
        """
        if column in JOINED or column.endswith(" mean"):   # of as many seeds as LFG-dual has
            Joined, user, item = JOINED.get(column, (LFGDual, None, column.replace(" mean", "")))
            setting = settings.get(column, settings["LFG-dual"])
            weights = setting["user_weight"], setting.get("empty_weight", setting["user_weight"])
            users = [self.add(user, settings, seed)] if user and generator != "item" else []
            if item in self.solvers:
                items = [] if generator == "user" else [
                    self.add(item, settings, seed, setting["seeds"], setting.get("kept"))]
                joined = Joined(users, items, weights)
            else:
                items = [self.add(item, settings, seed + n) for n in range(setting["seeds"])]
                joined = Joined(items, users, [1 - weight for weight in weights])
            return self.built.setdefault((str(setting), *joined.parts), joined)
        name = "BiasSVD" if column.startswith("μ") else column.replace(" fold-in", "")
        parts = []
        for one in range(seed, seed + seeds):
            key = name, str(settings[name]), one
            parts.append(self.trained.setdefault(key, CLASSES[name](**settings[name])))
            parts[-1].seed = one
            parts[-1].turned = name in self.solvers        # it reads R.T, and F in place of E
        Solved = FoldIn if "fold-in" in column else self.solvers.get(column)
        if not Solved:
            return parts[0]
        around, more = (parts[0], {}) if Solved is FoldIn else (parts, {"kept": kept})
        setting = {**settings[f"{name} fold-in"], **more}
        if "known" in setting:                             # a weight of F, for genres alone
            setting["known"] = [setting["known"] * is_genre for is_genre in self.is_genre]
        if name == "SVD++":
            setting["centre"] = parts[0].implicit_row
        return self.built.setdefault((str(setting), *parts), Solved(around, **setting))

    def add_noise(self, joined):
        """The Noise of an LFGDual, measured with one network that is trained for it alone."""
        spare = deepcopy(joined.parts[-1])
        if joined.solved:
            del spare.models[1:]
        return self.trained.setdefault(("noise",), Noise(spare))

    def solve(self):
        """Fit the models in `built`; their seconds include those of their parts."""
        for (_, *parts), model in self.built.items():
            fit(model, *self.inputs)
            model.seconds += sum(part.seconds for part in parts)


def fit_all(folds, jobs, quiet):
    """Train a list of Models, in `jobs` processes; yield each, taken off the list, when it is done.

    Those after it train meanwhile, if jobs > 1. Raises DataError if a process dies; any error ends
    all processes.
    """
    epochs = [getattr(model, "epochs", 0) for fold in folds for model in fold.trained.values()]
    with progress_bar(sum(epochs), folds[0].name, quiet) as bar:
        if jobs == 1:
            while folds:
                for model in folds[0].trained.values():
                    fit(model, *folds[0].inputs, lambda *_: bar.update())
                folds[0].solve()
                yield folds.pop(0)
            return
        ended = Semaphore(0)                               # released after each epoch
        given = [fold.inputs for fold in folds], ended
        pool = ProcessPoolExecutor(min(jobs, len(epochs), 61),           # 61: Windows' limit
                                   initializer=start_process, initargs=given)
        try:
            waiting = [{pool.submit(fit_there, n, model): model
                        for model in reversed(fold.trained.values())}    # the longest first
                       for n, fold in enumerate(folds)]
            for left in waiting:
                while left:
                    for future in wait(left, 0.2, FIRST_EXCEPTION).done:
                        vars(left.pop(future)).update(vars(future.result()))  # or its error
                    if not all(process.is_alive() for process in pool._processes.values()):
                        raise BrokenExecutor               # perhaps while it sent a model
                    while ended.acquire(block=False):
                        bar.update()
                folds[0].solve()
                yield folds.pop(0)
        except BrokenExecutor as error:
            raise DataError("a training process died; if memory ran out, use fewer jobs; in a "
                            'script, train under if __name__ == "__main__":') from error
        finally:                                           # after Ctrl-C, too
            for process in pool._processes.values():
                process.kill()
            # one may have sent a part of a model: this ends the wait for the rest
            pool._result_queue._writer.close()
            pool.shutdown(cancel_futures=True)


def start_process(inputs, ended):
    """Make a process ready for fit_there: Ctrl-C is ignored, and it ends with the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fit_there.inputs, fit_there.ended = inputs, ended
    main, parent_id = parent_process(), os.getppid()

    def leave():
        """End this process once the main one is gone; on Windows, getppid does not change."""
        while main.is_alive() and os.getppid() == parent_id:
            time.sleep(0.5)
        os._exit(1)
    Thread(target=leave, daemon=True).start()


def fit_there(n, model):
    """The model, fitted to the inputs of number n in a process that start_process made ready."""
    return fit(model, *fit_there.inputs[n], lambda *_: fit_there.ended.release())


def fit(model, R, E, F, progress=None):
    """Fit a model to R, E, F or, if it is turned, to R.T, F, E; set its seconds; return it."""
    inputs = (R.T, F, E) if getattr(model, "turned", False) else (R, E, F)
    began = time.process_time()
    model.fit(*inputs, progress=progress)
    model.seconds = time.process_time() - began
    return model


def progress_bar(total, what, quiet):
    """A tqdm bar on stderr of at most 80 columns; silent if quiet, or if stderr is no terminal."""
    from tqdm import tqdm
    tqdm.monitor_interval = 0                              # no thread, as processes may fork
    return tqdm(total=total, desc=what, leave=False, disable=True if quiet else None, ncols=80,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}")
