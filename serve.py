"""Train a model on a table of ratings, save it to a file, and recommend items to any user.

`Recommender` is the Python side; the commands of `python lfg.py` are at the end. Loading a model
and recommending need NumPy alone.
"""

import argparse
import csv
import difflib
import io
import json
import os
import re
import sys
import tempfile

import numpy as np

from data import DataError, csv_records, load, output_path, read_ratings, to_dataset, write_whole
from lfg import LFG, LFGDual, LFGItem, forward_weight, generate_one
from settings import settings_for
from svd import fold_in

FORMAT = 2                                                 # of the model file
ARTICLES = "the|a|an|la|le|les|l'|il|lo|el|los|las|der|die|das"         # as in "Matrix, The"


class Recommender:
    """A trained LFG-dual that serves users it has never seen, from their ratings alone.

    >>> import pandas as pd
    >>> from serve import Recommender
    >>> table = pd.DataFrame({"user": [1, 1, 2, 2], "item": ["Alien", "Heat", "Alien", "Fargo"],
    ...                       "rating": [5, 2.5, 4, 3]})
    >>> model = Recommender.train(table, epochs=2, seeds=1)
    >>> model.recommend({"Heat": 4.5, "Alien": 3}, n=1)["item"].tolist()
    ['Fargo']

    No call changes the model and nothing is stored about users: threads can share one. `arrays` is
    all that inference reads, by name, and what `save` and `lfg.py export` write.
    """

    def __init__(self, arrays):
        """arrays: as from_model makes them and load reads them."""
        self.arrays = arrays
        self.item_ids = arrays["item_ids"]
        self.titles = arrays["titles"]
        self.rated = arrays["rated"]                       # (items,): rated by anyone in training
        self.E_names = arrays["E_names"].tolist()          # columns of a profile, "gender=F"
        self.E_mean = arrays["E_mean"]
        self.low, self.high = arrays["scale"].tolist()
        self.n_solved = 0
        while f"q{self.n_solved}" in arrays:
            self.n_solved += 1
        self.index_of_id = {str(name): n for n, name in enumerate(self.item_ids.tolist())}
        self.indices_of_name = {}                          # filled at the first search by title

    @classmethod
    def train(cls, ratings, users=None, items=None, *, columns=None, generator="dual", epochs=None,
              factors=None, seeds=None, seed=0, quiet=False):
        """A Recommender trained on a DataFrame with the columns user, item and rating.

        users: a DataFrame with user and any columns of categories, such as gender or age; users who
        are missing from it get the mean profile. items: one with item and any of title, genres
        ("Comedy|Drama") and year. columns: new names for the columns of ratings, such as
        {"customer": "user"}. generator: "user" trains LFG, "item" LFG-item, "dual" both. epochs,
        factors: of each network; seeds: number of LFG-items to average. The defaults depend on the
        size of the data, but seeds is 1 for "item". seed: of all random numbers. quiet: no
        progress bar. Raises DataError if a table or an argument is wrong.
        """
        for name, table in [("ratings", ratings), ("users", users), ("items", items)]:
            if table is not None and not hasattr(table, "columns"):
                raise DataError(f"{name} is a {type(table).__name__}; it must be a DataFrame")
        if columns:
            taken = [name for name in columns.values() if name in ratings and name not in columns]
            ratings = ratings.drop(columns=taken).rename(columns=columns)
        data = to_dataset("ratings", ratings, users, items)
        model = train_model(data, generator, epochs, factors, seeds, seed, quiet)
        return cls.from_model(model, data, data.ratings)

    @classmethod
    def from_model(cls, model, data, R):
        """The Recommender for an LFGDual that was fitted on R, all or some ratings of a Dataset."""
        E = data.E if model.forward else data.E[:, :0]     # solving reads no profile
        numbers = {"E_mean": E[R.counts > 0].mean(0), "weights": model.weights,
                   "scale": [R.values.min(), R.values.max()]}
        for one in model.forward:
            numbers.update(one.serving_arrays())
        for n, one in enumerate(model.solved):
            numbers.update({f"q{n}": one.q1, f"base{n}": one.base, f"centre{n}": one.mean_row,
                            "ridge": one.ridge})
        arrays = {name: np.asarray(a, np.float32) for name, a in numbers.items()}
        names = data.E_names if model.forward else []
        text = {"titles": data.titles, "genres": data.genres, "E_names": names}
        arrays.update({name: np.array(a, str) for name, a in text.items()})
        rated = np.bincount(R.items, minlength=R.shape[1]) > 0
        return cls({**arrays, "format": np.array(FORMAT), "item_ids": data.item_ids,
                    "years": data.years, "rated": rated})

    def recommend(self, ratings, n=10, profile=None):
        """The n items with the highest predicted ratings, among those rated in training.

        ratings: {id or title: rating} of the user, who may be new; the items they have rated are
        left out. profile: such as {"age": 25, "gender": "F"}; what is missing counts as average.
        Returns a DataFrame with item, title and rating; a list of dicts where pandas is missing.
        """
        best, predicted = self.best(*self.indices(ratings), self.profile_row(profile), n)
        rows = {"item": self.item_ids[best], "title": self.titles[best], "rating": predicted}
        try:
            import pandas as pd
        except ImportError:
            columns = [a.tolist() for a in rows.values()]
            return [dict(zip(rows, row)) for row in zip(*columns)]
        return pd.DataFrame(rows)

    def predict(self, ratings, items, profile=None):
        """Predicted ratings (n,), within the scale, of a list of items by id or title."""
        if isinstance(items, str):
            raise DataError("items is a str; it must be a list of ids or titles")
        asked = [self.find(item) for item in items]
        scores = self.scores(*self.indices(ratings), self.profile_row(profile))
        return np.clip(scores[asked], self.low, self.high)

    def best(self, items, values, profile, n):
        """Indices (n,) and ratings (n,) of the best items; arguments as in scores."""
        check_count("n", n)
        scores = self.scores(items, values, profile)
        candidate = self.rated.copy()
        candidate[items] = False
        found = np.flatnonzero(candidate)
        if n < len(found):
            found = found[np.argpartition(-scores[found], n)[:n]]
        found = found[np.argsort(-scores[found], kind="stable")]
        return found, np.clip(scores[found], self.low, self.high)

    def scores(self, items, values, profile):
        """Predicted ratings of all items (n_items,), not clipped: LFGDual.scores for one user.

        items: indices (n,) into item_ids, each once; values: ratings (n,), float32; profile: a row
        of E, for example E_mean. Nothing is checked: the fast way in for a server.
        """
        a = self.arrays
        weight = forward_weight(len(items), *a["weights"])
        scores = np.float32(0)
        if "M1" in a:
            x = generate_one(a, items, values, profile)
            scores = weight * (a["base"] + a["M1"] @ x)
        for n in range(self.n_solved):
            q, base = a[f"q{n}"], a[f"base{n}"]
            x = fold_in(items, values, q, base, a["ridge"], a[f"centre{n}"])
            scores = scores + (1 - weight) / self.n_solved * (base + q @ x)
        return scores

    def indices(self, ratings):
        """Indices (n,) and ratings (n,) of {id or title: rating}. Raises DataError."""
        if not hasattr(ratings, "items"):
            raise DataError(f"ratings is a {type(ratings).__name__}; it must be a dict such as "
                            "{title: rating}")
        rated = {}
        for item, rating in ratings.items():
            index = self.find(item)
            if index in rated:
                raise DataError(f"{self.titles[index]} is rated twice")
            rated[index] = self.check_rating(rating)
        return np.array(list(rated), np.intp), np.array(list(rated.values()), np.float32)

    def check_rating(self, rating):
        """The rating, a number or text, as float32. Raises DataError unless it is on the scale."""
        try:
            with np.errstate(over="ignore"):
                value = np.float32(float(rating))
        except (TypeError, ValueError):
            value = np.float32("nan")
        if np.isnan(value):
            raise DataError(f"rating {rating!r:.100} is not a number")
        if not self.low <= value <= self.high:
            shown = float(rating)                          # as given, before it is a float32
            raise DataError(f"rating {shown:g} must be between {self.low:g} and {self.high:g}")
        return value

    def profile_row(self, profile):
        """A row of E (columns,) of a profile such as {"age": 25}; average where it says nothing."""
        row = self.E_mean.copy()
        if profile is not None and not hasattr(profile, "items"):
            raise DataError(f"profile is a {type(profile).__name__}; it must be a dict such as "
                            "{column: value}")
        for name, value in ({} if profile is None else profile).items():
            known = {one.partition("=")[2]: n for n, one in enumerate(self.E_names)
                     if one.startswith(f"{name}=")}
            if not known:
                names = dict.fromkeys(one.partition("=")[0] for one in self.E_names)
                raise DataError(f"{name}: the model was not trained with it; a profile may have "
                                f"{', '.join(names) or 'nothing'}")
            if name == "age":
                value = age_bracket(value, known)
            value = str(value)
            found = value if value in known else {one.casefold(): one for one in known}.get(
                value.casefold())
            if found is None:
                raise DataError(f"{name}: {value!r} is not known; choose one of {', '.join(known)}")
            row[list(known.values())] = 0
            row[known[found]] = 1
        return row

    def find(self, item):
        """Index of the item with this id or, if there is none, this title. Raises DataError."""
        index = self.index_of_id.get(str(item))
        return self.find_title(str(item)) if index is None else index

    def find_id(self, text):
        """Index of the item that "id:54" names. Raises DataError."""
        item = text[3:].strip()
        if item not in self.index_of_id:
            raise DataError(f"no item has the id {item[:100]!r}")
        return self.index_of_id[item]

    def find_title(self, text):
        """Index of the item with this title, ignoring case and articles; else with this id.

        The year, or a part of the title, may be left out if only one item matches. Raises
        DataError, with the titles that match or are nearest.
        """
        if not self.indices_of_name:
            found = {}
            for index, title in enumerate(self.titles.tolist()):
                for name in names_of(title)[0]:
                    found.setdefault(name, []).append(index)
            self.indices_of_name = found                   # whole, as threads may share the model
        (wanted, *_), year = names_of(text)
        known = self.indices_of_name
        parts = []
        if re.search(r"[^\W\d_]{3}", wanted):              # a part of a title, but not of an id
            parts = [n for name in known if wanted in name for n in known[name]
                     if self.titles[n] != str(self.item_ids[n])]
        for group in (known.get(wanted, []), parts):
            found = [n for n in dict.fromkeys(group)
                     if not year or f"({year})" in str(self.titles[n])]
            if len(found) == 1:
                return found[0]
            if found:
                raise DataError(f"{text[:100]!r} fits several items; add the year, or use the id: "
                                + self.titles_with_ids(found[:5]))
        if text in self.index_of_id:                       # an id without "id:"
            return self.index_of_id[text]
        near = difflib.get_close_matches(wanted[:100], known, n=5, cutoff=0.5)
        advice = f"; the nearest are {self.titles_with_ids([known[name][0] for name in near])}"
        raise DataError(f"no item has the id or title {text[:100]!r}{advice if near else ''}")

    def titles_with_ids(self, indices):
        """Titles of some items for a message: "Heat (1995) (id 54), Fargo (1996) (id 55)"."""
        found = dict.fromkeys(indices)
        return ", ".join(f"{self.titles[n]} (id {self.item_ids[n]})" for n in found)

    def save(self, path, half=False):
        """Write the model to an .npz file; half keeps matrices as float16. Raises DataError."""
        arrays = {name: a.clip(-65504, 65504).astype(np.float16) if half and a.ndim == 2 else a
                  for name, a in self.arrays.items()}
        write_whole(path, lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, path):
        """The model in a file that save wrote. Raises DataError when it is not one, or damaged."""
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            known = arrays.get("format", np.array(0)).tolist() == FORMAT
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file; make one with lfg.py train") from error
        except Exception as error:                         # zipfile, zlib and NumPy have their own
            raise DataError(f"{path}: not a model file, or damaged; train it again") from error
        if not known:
            raise DataError(f"{path}: not a model of format {FORMAT}; train it again")
        try:
            model = cls({name: a.astype(np.float32) if a.dtype == np.float16 else a
                         for name, a in arrays.items()})
            model.check()
        except Exception as error:                         # whatever a wrong array leads to
            raise DataError(f"{path}: damaged; train it again") from error
        return model

    @np.errstate(all="ignore")
    def check(self):
        """Predict for users with all, one and no items rated; raises if an array is wrong."""
        a = self.arrays
        n = len(self.item_ids)
        parts = [sum(name.startswith(part) for name in a) for part in ("q", "base", "centre")]
        kinds = {"titles": "U", "genres": "U", "years": "i", "rated": "b", "E_names": "U"}
        fits = [parts[0] == parts[2] == parts[1] - ("M1" in a), ("M1" in a) == ("W_E" in a),
                len(self.E_names) == len(self.E_mean), self.low <= self.high]
        fits += [array.dtype.kind == "f" and np.abs(array).max(initial=0) < 1e10
                 for name, array in a.items() if name not in {"format", "item_ids", *kinds}]
        fits += [a[name].dtype.kind == kind and (name == "E_names" or len(a[name]) == n)
                 for name, kind in kinds.items()]
        for size in (n, 1, 0):
            values = np.full(size, self.high, np.float32)
            scores = self.scores(np.arange(size), values, self.E_mean)
            fits.append(scores.shape == (n,) and np.isfinite(scores).all())
        if not all(fits):
            raise ValueError("arrays do not fit together")


def check_count(name, value):
    """Raise DataError unless an argument is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise DataError(f"{name} is {value!r}; it must be a whole number above 0")


def age_bracket(age, known):
    """The name of the bracket an age is in; known: names of brackets, the ages they begin at."""
    try:
        years = float(age)
    except (TypeError, ValueError):
        years = -1
    if not 0 <= years <= 150:
        raise DataError(f"age: {age!r} must be a number between 0 and 150")
    starts = sorted(int(name) for name in known)
    return str(max([start for start in starts if start <= years], default=starts[0]))


def names_of(title):
    """Names under which a title is found, without articles, and its year, or "".

    "Postman, The (Postino, Il) (1994)" is found as "postman" and as "postino".
    """
    text = " ".join(title.casefold().split())
    text, year = re.fullmatch(r"(.*?)(?: ?\(([0-9]{4})\))?", text).groups(default="")
    parts = [text, *re.findall(r"\(([^()]+)\)", text), re.sub(r"\([^()]*\)", "", text)]
    names = []
    for part in parts:
        part = re.sub(rf",? ({ARTICLES})$", "", part.strip())        # "matrix, the"
        part = re.sub(rf"^({ARTICLES})(?<=') ?|^({ARTICLES}) ", "", part)        # "the matrix"
        names.append(part.strip())
    return [name for name in dict.fromkeys(names) if name] or [text], year


def train_model(data, generator="dual", epochs=None, factors=None, seeds=None, seed=0, quiet=False):
    """An LFGDual fitted on all ratings of a Dataset, to serve users with any number of ratings.

    The arguments are those of Recommender.train. Raises DataError if they are invalid.
    """
    for name, value in [("epochs", epochs), ("factors", factors), ("seeds", seeds)]:
        if value is not None:
            check_count(name, value)
    if generator not in ("user", "item", "dual"):
        raise DataError(f"generator is {generator!r}; it must be user, item or dual")
    if generator == "user" and seeds:
        raise DataError("seeds are runs of LFG-item, which generator user leaves out")
    settings = settings_for(len(data.ratings), "coldstart", seeds)
    changed = {key: value for key, value in [("epochs", epochs), ("n_factors", factors)] if value}
    dual = settings["LFG-dual"]
    n_solved = {"user": 0, "item": seeds or 1, "dual": dual["seeds"]}[generator]
    forward, solved = [], []
    if generator != "item":
        forward = [LFG(**{**settings["LFG"], **changed}, seed=seed)]
    for n in range(n_solved):
        network = LFG(**{**settings["LFG-item"], **changed}, seed=seed + n)
        solved.append(LFGItem(network, **settings["LFG-item fold-in"]))
    total = sum(one.epochs for one in forward + [one.model for one in solved])
    with progress_bar(total, quiet) as bar:
        for n, one in enumerate(forward + solved):
            name = "LFG" if one in forward else f"LFG-item seed {one.model.seed}"
            bar.set_description_str(f"{data.name} {name}")
            one.fit(data.ratings, data.E, data.F, progress=progress_of(bar))
    return LFGDual(forward, solved, (dual["user_weight"], dual["empty_weight"]))


def progress_bar(total, quiet):
    """A tqdm bar on stderr of at most 80 columns; silent if quiet, or if stderr is no terminal."""
    from tqdm import tqdm
    return tqdm(total=total, leave=False, disable=True if quiet else None, ncols=80,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}")


def progress_of(bar):
    """A function of (epoch, mse), as fit takes it, that moves a progress bar on by one epoch."""
    def progress(epoch, mse):
        bar.set_postfix_str(f"loss {mse:.3f}", refresh=False)
        bar.update()
    return progress


# The commands of python lfg.py


def train(options):
    """Train a model on all ratings of a data set and save it to a file."""
    out = output_path(options.out, options.dataset, os.path.join(options.data_dir, options.dataset))
    data = load(options.dataset, options.data_dir, options.seed, not options.quiet, options.columns)
    model = train_model(data, options.generator, options.epochs, options.factors, options.seeds,
                        options.seed, options.quiet)
    R = data.ratings
    predicted = model.predict(R.users, R.items, R, data.E).clip(R.values.min(), R.values.max())
    rmse = np.sqrt(np.mean((predicted - R.values) ** 2, dtype=np.float64))
    Recommender.from_model(model, data, R).save(out, options.half)
    size = os.path.getsize(out) / 1e6
    print(f"training RMSE {rmse:.4f}; {options.out}: {size:.1f} MB", file=sys.stderr)


def recommend(options):
    """Print the best items for one user."""
    model = Recommender.load(options.model)
    profile = {name: getattr(options, name) for name in ("age", "gender", "occupation")}
    profile = {name: value for name, value in profile.items() if value is not None}
    items, values = rated_items(model, options.rate, options.ratings)
    best, predicted = model.best(items, values, model.profile_row(profile), options.n)
    rows = [{"rank": rank, "id": str(model.item_ids[n]), "title": str(model.titles[n]),
             "rating": round(float(rating), 3)} for rank, (n, rating) in
            enumerate(zip(best, predicted), 1)]
    if options.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    width = max([len(row["title"]) for row in rows], default=5)
    print(f"Rank  {'Title':{width}}  Rating")
    for row in rows:
        print(f"{row['rank']:>4}  {row['title']:{width}}  {row['rating']:>6.2f}")


def rated_items(model, rates, path):
    """Indices (n,) and ratings (n,) of texts TITLE=RATING and of the lines of a CSV, or None."""
    given = [(f"--rate {text[:100]}", *text.rpartition("=")[::2]) for text in rates]
    first = {}                                             # where each item was rated
    values = []
    for where, item, rating in given + (list(rated_lines(path)) if path else []):
        try:
            if not item.strip():
                raise DataError("title or rating is missing; write TITLE=RATING")
            item = item.strip()
            index = (model.find_id if item.startswith("id:") else model.find_title)(item)
            if index in first:
                raise DataError(f"rated twice, first in {first[index]}")
            values.append(model.check_rating(rating.strip()))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        first[index] = where
    return np.array(list(first), np.intp), np.array(values, np.float32)


def rated_lines(path):
    """(where, title or id:ID, rating) of each line of a CSV without or with a header."""
    prefix = ""
    for n, (line, fields) in enumerate(csv_records(path)):
        where = f"{path}, line {line}"
        if n == 0 and fields[-1].strip().lower() == "rating":
            ids = re.fullmatch("(item|movie)[ _]?(id)?", fields[0].strip().lower())
            prefix = "id:" if ids else ""
        elif len(fields) != 2:
            raise DataError(f"{where}: each line must be TITLE,RATING or id:ID,RATING")
        else:
            yield where, prefix + fields[0], fields[1]


def score(options):
    """Write the best items for every user in a CSV file; users may be new."""
    out = output_path(options.out, options.ratings, options.model)
    model = Recommender.load(options.model)
    table = read_ratings(options.ratings, options.columns)
    write_whole(out, lambda file: file.writelines(scored(model, table, options.n)))


def scored(model, table, n):
    """Lines, as bytes, of a CSV user,item,rating: the n best items for each user of a table."""
    import pandas as pd
    items = table["item"].map(model.index_of_id)
    values = table["rating"].to_numpy(np.float32)
    wrong = items.isna() | (values < model.low) | (values > model.high)
    for row in np.flatnonzero(wrong)[:1]:
        problem = f"no item has the id {table['item'].iloc[row]!r}"
        if not items.isna().iloc[row]:
            problem = (f"rating {values[row]:g} must be between {model.low:g} and {model.high:g}")
        raise DataError(f"{table.attrs['file']}, line {table.index[row]}: {problem}")
    users, names = pd.factorize(table["user"])
    order = np.argsort(users, kind="stable")               # the rows of a user in any order
    items = items.to_numpy(np.intp)[order]
    values = values[order]
    edges = np.flatnonzero(np.diff(users[order], prepend=-1, append=len(names)))
    yield b"user,item,rating\n"
    for user, start, stop in zip(names, edges, edges[1:]):
        best, predicted = model.best(items[start:stop], values[start:stop], model.E_mean, n)
        text = io.StringIO()
        rows = ((user, model.item_ids[i], f"{rating:.4f}") for i, rating in zip(best, predicted))
        csv.writer(text, lineterminator="\n").writerows(rows)
        yield text.getvalue().encode()


def export(options):
    """Write a model as plain arrays, a manifest and test vectors, for a port to any language."""
    model = Recommender.load(options.model)
    a = model.arrays
    floats = {name: array for name, array in a.items() if array.dtype.kind == "f"}
    offsets = np.cumsum([0] + [4 * array.size for array in floats.values()]).tolist()
    columns = [a[name].tolist() for name in ("item_ids", "titles", "genres", "years", "rated")]
    manifest = {
        "format": FORMAT, "file": "weights.bin",
        "type": "float32, little-endian, last index fastest",
        "arrays": [{"name": name, "shape": array.shape, "offset": offset}
                   for (name, array), offset in zip(floats.items(), offsets)],
        "layers": sum(re.fullmatch("W[0-9]+", name) is not None for name in a),
        "seeds": model.n_solved, "slope": 0.01, "E_names": model.E_names,
        "items": [dict(zip(("id", "title", "genres", "year", "rated"), row))
                  for row in zip(*columns)]}
    files = {"weights.bin": b"".join(array.astype("<f4").tobytes() for array in floats.values())}
    for name, content in [("manifest.json", manifest), ("vectors.json", vectors(model))]:
        files[name] = json.dumps(content, indent=1, ensure_ascii=False).encode()
    write_folder(options.out, files)


def write_folder(path, files):
    """Write files {name: bytes} to a folder that is new or empty: all of them or none."""
    folder = os.path.realpath(path)
    if not path or os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise DataError(f"{path}: exists and is not an empty folder; choose another name")
    try:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as scratch:
            part = os.path.join(scratch, "part")
            os.mkdir(part)
            for name, data in files.items():
                with open(os.path.join(part, name), "wb") as file:
                    file.write(data)
            os.replace(part, folder)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def vectors(model, n=20):
    """Inputs of n made-up users, with no ratings to many, and the results of inference."""
    rng = np.random.default_rng(0)
    n_items = len(model.item_ids)
    found = []
    for size in [0, 1, 2] + rng.integers(3, max(4, min(300, n_items)), n - 3).tolist():
        items = rng.choice(n_items, min(size, n_items), replace=False)
        values = rng.uniform(model.low, model.high, len(items)).astype(np.float32)
        profile = (rng.random(len(model.E_mean)) < 0.1).astype(np.float32)
        a = model.arrays
        generated = generate_one(a, items, values, profile).tolist() if "M1" in a else []
        solved = [fold_in(items, values, a[f"q{s}"], a[f"base{s}"], a["ridge"], a[f"centre{s}"])
                  for s in range(model.n_solved)]
        scores = model.scores(items, values, profile)
        asked = rng.choice(n_items, 5)
        found.append({"items": items.tolist(), "ratings": values.tolist(),
                      "profile": profile.tolist(), "generated": generated,
                      "solved": [x.tolist() for x in solved],
                      "predictions": [[int(i), float(scores[i])] for i in asked]})
    return found


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see --help\n")


def int_range(low, high=10 ** 6):
    """A type for argparse: whole numbers from low to high."""
    def read(text):
        if not re.fullmatch("[0-9]{1,19}", text, re.ASCII) or not low <= int(text) <= high:
            message = f"{text[:100]!r} must be a whole number from {low} to {high}"
            raise argparse.ArgumentTypeError(message)
        return int(text)
    return read


def column_names(text):
    """A type for argparse: "user=customer,item=film" -> {"customer": "user", "film": "item"}."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    columns = {theirs.strip(): ours.strip() for ours, _, theirs in pairs}
    ours = list(columns.values())
    if "" in columns or not set(ours) <= {"user", "item", "rating"} or len(set(ours)) < len(pairs):
        raise argparse.ArgumentTypeError(f"{text[:100]!r} must look like "
                                         "user=NAME,item=NAME,rating=NAME")
    return columns


def add_data_options(add):
    """Options that say which data is read; add: a parser's add_argument."""
    add("--dataset", default="ml-100k", metavar="{ml-100k,ml-1m,synthetic,PATH}",
        help="the data; PATH: a CSV whose first line names user, item and rating, or a folder in "
             "GroupLens' or RecBole's layout; experiments.py also has all: ml-100k and ml-1m")
    add("--data-dir", default=os.environ.get("LFG_DATA") or "data", metavar="DIR",
        help="folder with ml-100k and ml-1m, downloaded if missing; LFG_DATA sets the default")
    add_columns_option(add)
    add("--quiet", action="store_true", help="no progress on stderr")


def add_columns_option(add):
    add("--columns", type=column_names, metavar="user=A,item=B,rating=C",
        help="the names of these columns in your CSV")


def parse(argv):
    """The options of a command; exits with code 2 and one line when they make no sense."""
    parser = Parser(prog="lfg.py", description="LFG, latent factor generator: train a model, and "
                                               "recommend to users that it has never seen.")
    commands = parser.add_subparsers(required=True, metavar="{train,recommend,score,export}")

    def command(run):
        about = run.__doc__.strip()
        added = commands.add_parser(run.__name__, help=about, description=about)
        added.set_defaults(run=run)
        if run is not train:
            added.add_argument("--model", required=True, metavar="FILE", help="a saved model")
        return added.add_argument

    add = command(train)
    add_data_options(add)
    add("--out", required=True, metavar="FILE", help="an .npz file; replaced if present")
    add("--generator", default="dual", choices=["user", "item", "dual"],
        help="what is generated: users (the paper's LFG), items, or both (default)")
    add("--half", action="store_true", help="store float16: half the size")
    add("--seed", type=int_range(0, 2 ** 63), default=0, help="seed of all random numbers")
    add("--seeds", type=int_range(1, 1000), help="runs of LFG-item that are averaged")
    add("--epochs", type=int_range(1), help="training epochs of each network")
    add("--factors", type=int_range(1), help="number of latent factors of each network")

    add = command(recommend)
    add("--rate", action="append", default=[], metavar="TITLE=RATING",
        help='"Heat=2" or "id:54=5"; once for each item')
    add("--ratings", metavar="FILE",
        help="a CSV with a title or id:ID and a rating per line; - is standard input")
    add("--age", type=int_range(0, 150), help="in years")
    add("--gender", help="F or M in MovieLens")
    add("--occupation", help="one of those in the training data")
    add("-n", type=int_range(1), default=10, help="number of items")
    add("--json", action="store_true", help="print JSON")

    add = command(score)
    add("--ratings", required=True, metavar="FILE",
        help="a CSV whose first line names user, item and rating; - is standard input")
    add_columns_option(add)
    add("--out", required=True, metavar="FILE", help="a CSV user,item,rating; replaced if present")
    add("-n", type=int_range(1), default=10, help="number of items per user")

    add = command(export)
    add("--out", required=True, metavar="DIR", help="a new or empty folder")
    return parser.parse_args(argv)


def run_command(name, run, argv, interrupted):
    """Run a command and exit: 0, 1 if nobody reads the output, 2 after a mistake, 130 after Ctrl-C.

    Codes 2 and 130 come with one line on stderr.
    """
    try:
        for stream in (sys.stdout, sys.stderr):            # a terminal without Greek shows "?"
            stream.reconfigure(errors="replace")
        run(argv)
        sys.stdout.flush()
        sys.exit(0)
    except (DataError, FloatingPointError) as error:
        problem, code = str(error), 2
    except ModuleNotFoundError as error:
        problem, code = f"{error.name} is missing; pip install -r requirements.txt", 2
    except KeyboardInterrupt:
        problem, code = interrupted, 130
    except OSError as error:                               # of the output; prevents a flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):             # the reader has closed the pipe
            sys.exit(1)
        problem, code = f"{error.filename or 'standard output'}: {error.strerror}", 2
    print(f"{name}: {problem}", file=sys.stderr)
    sys.exit(code)


def main(argv=None):
    """Run a command line of lfg.py."""
    def run(argv):
        options = parse(argv)
        options.run(options)
    run_command("lfg.py", run, argv, "interrupted; no output file was changed")
