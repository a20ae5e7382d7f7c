"""Ratings, data sets and their folds; reading and fetching MovieLens. Imports pandas if needed."""

import csv
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
import zlib
from collections import namedtuple
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path

import numpy as np

URL = "https://files.grouplens.org/datasets/movielens/"
SOURCES = {  # where to fetch an archive, and its MD5; the package has ML-100k as an example
    "ml-100k": {f"{URL}ml-100k.zip": "0e33842e24a9c977be4e0107933c0723",
                "recbole==1.2.1": "56110b0736dce220b371137935ad36de"},
    "ml-1m": {f"{URL}ml-1m.zip": "c4d9eecfca2ab87c1945afe126590906"}}
MOST_VALUES = 1000                              # per column; each becomes a column of E or F
AGES = (1, 18, 25, 35, 45, 50, 56)              # where each bracket starts; 1 is "under 18"
GENRES = ("unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
          "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western").split()
OCCUPATIONS = ("other,academic/educator,artist,clerical/admin,college/grad student,"
               "customer service,doctor/health care,executive/managerial,farmer,homemaker,"
               "K-12 student,lawyer,programmer,retired,sales/marketing,scientist,self-employed,"
               "technician/engineer,tradesman/craftsman,unemployed,writer").split(",")  # by code
RATED = ["user", "item", "rating"]
PROFILE = ["user", "age", "gender", "occupation"]
ABOUT = ["item", "title", "genres", "year"]     # of items, as PROFILE is of users
ALIASES = {"userid": "user", "itemid": "item", "movieid": "item", "movie": "item",
           "movietitle": "title", "releaseyear": "year", "class": "genres", "genre": "genres",
           **{name: name for name in (*RATED, *PROFILE, *ABOUT)}}
LAYOUTS = {  # file of ratings: files, separators and columns (None: the first line names them)
    "u.data": [("u.data", "\t", [*RATED, "time"]), ("u.user", "|", [*PROFILE, "zip"]),
               ("u.item", "|", ["item", "title", "year", "video", "url", *GENRES])],
    "ratings.dat": [("ratings.dat", "::", [*RATED, "time"]),
                    ("users.dat", "::", ["user", "gender", "age", "occupation", "zip"]),
                    ("movies.dat", "::", ["item", "title", "genres"])],
    "*.inter": [("*.inter", "\t", None), ("*.user", "\t", None), ("*.item", "\t", None)],
    "ratings.csv": [("*", ",", None), ("users.csv", ",", None), ("movies.csv", ",", None)]}
csv.field_size_limit(2 ** 31 - 1)               # so a quote that is not closed is an ordinary error


class DataError(ValueError):
    """A mistake in a table, a file or an option that the caller gave. The message is one line."""

    def __init__(self, message):
        super().__init__(" ".join(message.split()))


class Ratings:
    """Observed entries of a (users x items) matrix, sorted by user, then by item.

    users, items: (n,) int32; values: (n,) float32; counts: (users,), ratings per user;
    the ratings of user u are at starts[u]:starts[u + 1]. `T` is the transposed matrix.
    Raises ValueError if lengths differ, a rating is outside the shape or not finite, or a pair is
    rated twice. Arrays that are sorted already, and of these types, are kept, not copied.
    """

    def __init__(self, users, items, values, shape):
        if not len(users) == len(items) == len(values):
            raise ValueError("users, items and ratings must have the same length")
        types = np.int32, np.int32, np.float32
        users, items, values = map(np.asarray, (users, items, values), types)
        cells = np.ravel_multi_index((users, items), shape)        # ValueError if outside
        order = slice(None) if (cells[1:] >= cells[:-1]).all() else np.argsort(cells)
        if not (np.diff(cells[order]).all() and np.isfinite(values).all()):
            raise ValueError("a pair is rated twice, or a rating is not finite")
        self.users, self.items, self.values = users[order], items[order], values[order]
        self.shape = shape
        self.counts = np.bincount(self.users, minlength=shape[0])
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])

    def __len__(self):
        return len(self.values)

    @property
    def T(self):
        """The transposed matrix: items as rows, users as columns."""
        return Ratings(self.items, self.users, self.values, self.shape[::-1])

    def where(self, keep):
        """The ratings picked by a boolean mask or an index array, in a matrix of the same shape."""
        return Ratings(self.users[keep], self.items[keep], self.values[keep], self.shape)

    def with_values(self, values):
        """The same users and items with other values (n,)."""
        return Ratings(self.users, self.items, values, self.shape)

    def rows(self, users):
        """Entries of some users: index into users (n,), items (n,), values (n,)."""
        sizes = self.counts[users]
        first = np.cumsum(sizes) - sizes  # where each user starts in the result
        at = np.repeat(self.starts[users] - first, sizes) + np.arange(sizes.sum())
        return np.repeat(np.arange(len(users)), sizes), self.items[at], self.values[at]

    def of(self, user):
        """Items (n,) and values (n,) of one user."""
        row = slice(self.starts[user], self.starts[user + 1])
        return self.items[row], self.values[row]

    def ranks(self, rng):
        """Rank (n,) of each rating, from 0, in a random order of its user's ratings."""
        keys = self.users.astype(np.int64) * len(self) + rng.permutation(len(self))
        return np.argsort(np.argsort(keys)) - self.starts[self.users]

    def blocks(self, size=512, rated=False):
        """Yield blocks of `size` rows, 0 where nothing is observed, and the index of each column.

        These are all columns or, if `rated`, those in which a row of the block has a rating.
        """
        columns = np.arange(self.shape[1])
        for users in np.split(np.arange(self.shape[0]), range(size, self.shape[0], size)):
            row, item, value = self.rows(users)
            if rated:
                columns, item = np.unique(item, return_inverse=True)
            block = np.zeros((len(users), len(columns)), np.float32)
            block[row, item] = value
            yield block, columns


@dataclass(frozen=True)
class Dataset:
    """Ratings, and what is known of users and items, rated or not."""

    name: str
    ratings: Ratings
    user_ids: np.ndarray       # sorted as numbers if integers of up to 18 digits, else as text
    item_ids: np.ndarray
    E: np.ndarray              # (users, columns) float32, mostly zeros and ones; Section 4.1
    E_names: list
    F: np.ndarray              # (items, columns), likewise
    F_names: list
    titles: list
    genres: list               # "A|B" or ""
    years: np.ndarray          # (items,) int32, 0 if unknown
    folder: object = None      # of ML-100k: a Path or zipfile.Path, for u1.test and so on


# Ratings to train on, to show to the model (profile, not E), and to predict; all of one shape
Split = namedtuple("Split", "train profile target")


def load(dataset, data_dir="data", seed=0, progress=False, columns=None):
    """The Dataset called "ml-100k", "ml-1m" or "synthetic", or the one in a folder or CSV file.

    A named one is read from data_dir/NAME/ or data_dir/NAME.zip, and fetched if neither is there.
    "synthetic:6040x3706x1000209" has that many users, items and ratings; seed is for these.
    progress: report downloads on stderr. columns: {name in a CSV file: "user", "item" or
    "rating"} for files with other headers. Raises DataError.
    """
    kind, _, sizes = str(dataset).partition(":")
    if columns and (kind == "synthetic" or dataset in SOURCES):
        raise DataError(f"{dataset}: --columns is for files of your own; leave it out")
    if kind == "synthetic":
        if sizes and not re.fullmatch("[0-9]{1,9}x[0-9]{1,9}x[0-9]{1,9}", sizes):
            raise DataError(f"{dataset}: write synthetic:USERSxITEMSxRATINGS")
        return synthetic(*map(int, re.findall("[0-9]+", sizes)), seed=seed)
    path = Path(data_dir if dataset in SOURCES else "", dataset)
    found = _load_files(path, os.path.basename(os.path.abspath(dataset)), columns)
    if found:
        return found
    if dataset not in SOURCES:
        raise DataError(f"{path}: no such file or folder, or no ratings in it; give ml-100k, "
                        "ml-1m, synthetic, a CSV file or a folder in a known layout")
    archive = path.with_suffix(".zip")
    if not archive.is_file():
        _fetch(dataset, archive, progress)
    try:
        for inside in (f"{dataset}/", "recbole/dataset_example/ml-100k/"):
            found = found or _load_files(zipfile.Path(archive, inside), dataset)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{archive}: {error}; delete it and load again") from error
    if not found:
        raise DataError(f"{archive}: no ratings below {dataset}/; delete it and load again")
    return found


def split(ratings, test, fold, seed):
    """Fold 1 to 5 of a five-fold test, as a Split. Depends on seed and (user, item) pairs only.

    "basic": a fifth of each user's ratings is the target, the rest is both train and profile.
    "realtime": a fifth of the users is new, that is, not in train; of the ratings of each, a fifth
    (at least one) is the target and the rest is the profile.
    "published": a tenth of all ratings is the target, another random tenth for each fold.
    """
    rng = np.random.default_rng(seed)
    rank = ratings.ranks(rng)
    if test == "realtime":
        rated = rng.permutation(np.flatnonzero(ratings.counts))
        new = np.isin(ratings.users, rated[fold - 1::5])
        target = rank < np.maximum(1, (ratings.counts + 2) // 5)[ratings.users]  # n / 5, rounded
        return Split(ratings.where(~new), ratings.where(new & ~target), ratings.where(new & target))
    if test == "basic":
        # A random first fold; otherwise users with few ratings would only fill the first folds.
        first = rng.integers(5, size=len(ratings.counts))
        target = (rank + first[ratings.users]) % 5 == fold - 1
    else:
        order = np.random.default_rng(seed + fold - 1).permutation(len(ratings))
        target = order < len(ratings) / 10
    train = ratings.where(~target)
    return Split(train, train, ratings.where(target))


def official(data, fold):
    """The Split with u1.test as target (fold 2: u2.test...); all other ratings are for training.

    None if the data are not ML-100k. Raises DataError if the file is missing, or a row not in data.
    """
    if data.folder is None:
        return None
    path = data.folder / f"u{fold}.test"
    if not path.exists():
        raise DataError(f"{path}: no such file; take it from ml-100k.zip of grouplens.org/"
                        "datasets/movielens, or make it as docs/results.md says")
    table = _read_table(path, *LAYOUTS["u.data"][0][1:], RATED)
    R = data.ratings
    pairs = zip(data.user_ids[R.users].tolist(), data.item_ids[R.items].tolist())
    index = {pair: n for n, pair in enumerate(pairs)}
    at = np.array([index.get(pair, -1) for pair in zip(table["user"], table["item"])])
    check_rows(table, "", at < 0, "the data have no rating of item {item!r} by user {user!r}")
    target = np.isin(np.arange(len(R)), at)
    train = R.where(~target)
    return Split(train, train, R.where(target))


def sample_users(data, n, seed):
    """Dataset of n random users who have rated, or data itself; a larger n only adds users."""
    rated = np.flatnonzero(data.ratings.counts)
    if n >= len(rated):
        return data
    users = np.sort(np.random.default_rng(seed).permutation(rated)[:n])
    ratings = Ratings(*data.ratings.rows(users), (n, data.ratings.shape[1]))
    return replace(data, ratings=ratings, user_ids=data.user_ids[users], E=data.E[users])


def synthetic(n_users=943, n_items=1682, n_ratings=100_000, seed=0):
    """Made-up Dataset of n_ratings ratings from 1 to 5: five planted factors, biases and noise.

    Memory grows with n_ratings, not with users x items. Raises DataError.
    """
    if not 0 < n_ratings <= n_users * n_items:
        raise DataError(f"{n_ratings} ratings of {n_users} users and {n_items} items; "
                        "give between 1 and users x items")
    rng = np.random.default_rng(seed)
    E, E_names = _one_hot({"age": rng.normal(33, 12, n_users).clip(10, 75).round(),
                           "gender": rng.choice(["F", "M"], n_users),
                           "occupation": rng.choice(OCCUPATIONS, n_users)})
    years = (1999 - rng.exponential(12, n_items)).clip(1920).astype(np.int32)
    genres = ["|".join(dict.fromkeys(pair)) for pair in rng.choice(GENRES[1:], (n_items, 2))]
    F, F_names = _one_hot({"genre": genres, "decade": (years // 10 * 10).astype(str)})
    users, items = np.divmod(_draw_pairs(n_users, n_items, n_ratings, rng), n_items)
    P, Q = _draw_taste(E, rng), _draw_taste(F, rng)            # (users, 6), (items, 6): bias first
    values = 3.55 + 0.45 * (P[users, 0] + Q[items, 0]) + rng.normal(0, 0.6, n_ratings)
    values += sum(0.3 * P[users, k] * Q[items, k] for k in range(1, 6))
    ratings = Ratings(users, items, values.round().clip(1, 5), (n_users, n_items))
    ids = [np.arange(1, n + 1).astype(str) for n in ratings.shape]
    titles = [f"Item {i} ({year})" for i, year in enumerate(years, 1)]
    return Dataset("synthetic", ratings, *ids, E, E_names, F, F_names, titles, genres, years)


def _draw_pairs(n_users, n_items, n, rng):
    """n distinct cells user * n_items + item, sorted; some users and items are more popular."""
    weights = [rng.normal(0, 0.9, n_users), rng.normal(0, 1.4, n_items)]
    cells = np.empty(0, np.int64)
    flat = 0
    while len(cells) < n:
        flat += 1                              # flatter weights each round: rare cells are slow
        p_user, p_item = (np.exp(w / flat) / np.exp(w / flat).sum() for w in weights)
        drawn = rng.choice(n_users, n, p=p_user) * n_items + rng.choice(n_items, n, p=p_item)
        cells = np.append(cells, rng.permutation(np.setdiff1d(drawn, cells))[:n - len(cells)])
    return np.sort(cells)


def _draw_taste(X, rng):
    """(n, 6), standard normal; half of the variance comes from the columns of X (n, C)."""
    told = X.astype(np.float64) @ rng.normal(size=(X.shape[1], 6))  # (n, C), (C, 6) -> (n, 6)
    told = (told - told.mean(0)) / (told.std(0) + 1e-9)
    return (told + rng.normal(size=told.shape)) / np.sqrt(2)


def to_dataset(name, ratings, users=None, items=None, columns=None):
    """Dataset from DataFrames, which are not changed. Raises DataError about the first mistake.

    ratings: columns user (or userId, user_id), item, rating; columns: as in load. users: column
    user; age becomes brackets in E and any other column one-hot columns "column=value". items:
    column item, perhaps title, genres ("A|B") and year, which may also be in the title, "(1995)"; F
    has genres and decades. NaN, None, "" and an age that is not a number mean unknown. Users
    missing from `users` get the mean row of E, items missing from `items` zeros. Numbers without a
    fraction become integer ids, other ids become text.
    """
    import pandas as pd
    ratings = labelled("ratings", ratings, RATED, columns)
    if len(ratings) == 0:
        raise DataError(f"{ratings.attrs.get('file', 'ratings')}: no ratings")
    user_ids, rows, users = _match_ids("user", ratings, users, ["user", "age"])
    item_ids, at, items = _match_ids("item", ratings, items, ABOUT)
    codes, distinct = pd.factorize(ratings["rating"])          # few, and text is slow to convert
    distinct = distinct if distinct.dtype.kind in "iuf" else distinct.astype(str)  # no dates, bools
    values = np.append(pd.to_numeric(distinct, errors="coerce"), np.nan).astype(np.float64)
    check_rows(ratings, "ratings", ~(np.abs(values) < 1e10)[codes],       # code -1: unknown
               "rating {rating!r} is not a number between -1e10 and 1e10")
    try:
        R = Ratings(rows, at, values[codes], (len(user_ids), len(item_ids)))
    except ValueError:
        twice = pd.DataFrame({"user": rows, "item": at}).duplicated()
        check_rows(ratings, "ratings", twice, "user {user!r} rates item {item!r} twice")

    listed = users.pop("user") != ""
    ages = pd.to_numeric(users.get("age", pd.Series("", users.index)), errors="coerce")
    E, E_names = _one_hot({"age": ages, **users.drop(columns="age", errors="ignore")})
    E[~listed] = E[listed].mean(0)
    items = items.reindex(columns=["title", "genres", "year"], fill_value="")
    titles = items["title"]
    genres = items["genres"].str.replace(r"\s*\|\s*", "|", regex=True).tolist()
    dated = titles.str.extract(r"(?s).*\(([0-9]{4})\)", expand=False)       # "Heat (1995)"
    years = items["year"].str.extract("(1[5-9][0-9]{2}|20[0-9]{2})", expand=False)
    titles = titles.mask((titles != "") & years.notna() & dated.isna(), titles + " (" + years + ")")
    titles = titles.where(titles != "", item_ids.astype(str)).tolist()
    years = years.fillna(dated).fillna("0").astype(np.int32).to_numpy()
    decades = np.where(years > 0, (years // 10 * 10).astype(str), "")
    F, F_names = _one_hot({"genre": genres, "decade": decades})
    return Dataset(name, R, user_ids, item_ids, E, E_names, F, F_names, titles, genres, years)


def _match_ids(kind, ratings, table, labels):
    """Sorted ids of kind "user" or "item", the index of each rating's id, a row of text per id."""
    name = f"{kind}s"
    codes, rated = factorize(ratings, "ratings", kind)
    table = rated.unique().to_frame(name=kind) if table is None else labelled(name, table, labels)
    at, known = factorize(table, name, kind)
    known = known[at]                                          # one per row
    if not rated.isin(known).any():
        raise DataError(f"{table.attrs.get('file', name)}: none of the rated {name}, such as "
                        f"{rated[0]!r}, is among {list(known[:3])}; do the types of ids differ?")
    check_rows(table, name, known.duplicated(), f"{kind} {{{kind}!r}} is listed twice")
    ids = rated.append(known).unique().sort_values()
    if ids.astype(str).str.fullmatch("-?[0-9]{1,18}").all():
        ids = ids[np.argsort(ids.astype(np.int64), kind="stable")]         # "9" before "10"
    rows = ids.get_indexer(rated).astype(np.int32)[codes]
    text = table.astype(object).set_axis(known).apply(lambda column: column.map(id_text))
    lists = text.filter(["genres"]).apply(lambda column: column.str.startswith("["))
    check_rows(table, name, lists.any(axis=1), "genres {genres!r} must be like 'Comedy|Drama'")
    array = np.array(ids.tolist())
    if array.dtype.kind not in "iuU":                          # integers that no type has room for
        array = np.array(ids.astype(str).tolist())
    return array, rows, text.reindex(ids, fill_value="")       # "": unknown


def factorize(table, name, kind):
    """Index of each row's id; ids, integers or stripped text. Raises DataError if one is empty."""
    codes, ids = table[kind].infer_objects().factorize()
    ids = ids.astype(object)                                   # few: objects are slow
    if ids.inferred_type == "floating" and (ids % 1 == 0).all():           # pandas: one was missing
        ids = ids.map(int).astype(object)
    ids = ids if ids.inferred_type == "integer" else ids.map(id_text).astype(object)
    check_rows(table, name, np.append(ids == "", True)[codes], f"{kind} id is empty")   # -1: NaN
    return codes, ids


def id_text(item):
    """An id or a category as text, "" if missing; pandas may read 7 as 7.0: that is "7", too."""
    text = str(item).strip()
    return text if isinstance(item, str) else re.sub(r"^(None|nan|NaT|<NA>)$|\.0$", "", text)


def check_rows(table, name, bad, problem):
    """Raise DataError about the first row where bad (n,); problem: a template over the columns."""
    for row in np.flatnonzero(bad)[:1]:
        place = f"{table.attrs['file']}, line" if "file" in table.attrs else f"{name}, row"
        problem = problem.format_map(table.iloc[[row]].to_dict("records")[0])
        raise DataError(f"{place} {table.index[row]}: {problem}; correct or delete it")


def labelled(name, table, labels, columns=None):
    """A DataFrame with labels for names, such as user for userId; other names stay as they are.

    Ids and ratings are needed. If two columns have one label, the exact name counts, or the first.
    """
    needed = [label for label in labels if label in RATED]
    if not (hasattr(table, "columns") and hasattr(table, "attrs")):
        raise DataError(f"{name} must be a pandas DataFrame; it needs {', '.join(needed)}")
    place = table.attrs.get("file", name)
    names = [*table.columns]
    columns = columns or {}
    found = {}                                                 # {label: index of its column}
    for name in sorted(names, key=lambda name: (name not in columns, name not in labels)):
        label = ALIASES.get(re.sub("[_ ]|:.*", "", str(name).lower()))
        label = columns.get(name, label if label in labels else name)
        found.setdefault(label, names.index(name))
    missing = [name for name in columns if name not in names]
    missing = missing or [label for label in needed if label not in found]
    if missing:
        among = ", ".join(map(str, names)) or "none"
        raise DataError(f"{place}: no column {' or '.join(map(str, missing))} among {among}; "
                        "rename it, use --columns (columns=) for ratings, or separate by commas")
    return table.iloc[:, [*found.values()]].set_axis([*found], axis=1)


def _one_hot(columns):
    """(n, values) float32 zeros and ones, names; columns: {name: n texts ("": unknown) or ages}."""
    X, names = [], []
    for column, texts in columns.items():
        if column == "age":
            brackets = np.array(AGES)[np.searchsorted(AGES[1:], texts, side="right")].astype(str)
            texts = np.where((texts >= 0) & (texts < 1000), brackets, "")      # no year of birth
        rows = [text.split("|") if column == "genre" else [text] for text in texts]
        values = sorted(set().union(*rows) - {""})
        if len(values) > MOST_VALUES:
            raise DataError(f"column {column} has more than {MOST_VALUES} values; leave it out")
        if column == "age" and values:                         # all brackets, if any is known
            values = [str(age) for age in AGES]
        X.append([[value in row for value in values] for row in rows])
        names += [f"{column}={value}" for value in values]
    return np.concatenate(X, axis=1).astype(np.float32), names


def read_ratings(path, columns=None):
    """DataFrame user, item (text), rating (float64) of a CSV file; "-" is standard input."""
    table = _read_table(Path(path), ",", None, RATED, columns)
    to_dataset("", table)                                      # for its checks
    return table.astype(object).astype({"rating": np.float64})


def csv_records(path):
    """[(where, fields)] of the lines of a CSV file that are not blank; "-" is standard input."""
    reader = csv.reader(io.StringIO(_read_bytes(Path(path)).decode()))
    return [(f"{path}, line {reader.line_num}", row) for row in reader if "".join(row).strip()]


def _load_files(path, name, columns=None):
    """Dataset of a file of ratings, or of one in a folder, and files beside it; or None."""
    files = [path] if path.is_file() else sorted(path.iterdir(), key=str) if path.is_dir() else []
    found = [(one, file) for one in LAYOUTS for file in files
             if Path(file.name).match(one) or one == "ratings.csv" and file == path]
    if not found:
        return None
    layout, ratings = found[0]
    paths = [ratings.parent / file.replace("*", ratings.name.removesuffix(".inter"))
             for file, *_ in LAYOUTS[layout]]
    kept_labels = RATED, PROFILE, [*ABOUT, *GENRES]
    needed = name in SOURCES or layout == "u.data"             # ML-10M has no users.dat
    rated, users, items = (
        _read_table(path, sep, fields, kept, columns if kept is RATED else None)
        if fields and needed or path.is_file() and (kept is RATED or path != ratings) else None
        for path, (_, sep, fields), kept in zip(paths, LAYOUTS[layout], kept_labels))
    if layout == "ratings.dat" and users is not None:
        jobs = {str(code): job for code, job in enumerate(OCCUPATIONS)}
        users["occupation"] = users["occupation"].map(jobs)
    elif layout == "u.data":
        flags = items[GENRES].to_numpy() == "1"                # (items, 19)
        items["genres"] = ["|".join(np.array(GENRES)[row]) for row in flags]
    elif layout == "*.inter" and items is not None and "genres" in items:
        items["genres"] = items["genres"].str.replace(" ", "|", regex=False)
    folder = ratings.parent if layout == "u.data" or name == "ml-100k" else None
    return replace(to_dataset(name, rated, users, items), folder=folder)


def _read_table(path, sep, fields, kept, columns=None):
    """A file as a DataFrame of categories, all text; index: line numbers; attrs: the file.

    fields: its columns, or None: line 1 names them. kept: labels to read. columns: as in load.
    """
    import pandas as pd
    raw = _read_bytes(path, "latin-1" if fields else "utf-8")
    if sep == "::":                                            # pandas is fast with one character
        raw, sep = raw.replace(b"::", b"\t"), "\t"
    if fields:                                                 # now line 1 names them, as elsewhere
        raw = sep.join(fields).encode() + b"\n" + raw
    style = {"delimiter": sep, "skipinitialspace": True,
             "quoting": csv.QUOTE_MINIMAL if sep == "," else csv.QUOTE_NONE}
    rows = csv.reader(map(bytes.decode, io.BytesIO(raw)), **style)
    names = [name.strip() for name in next(rows, [])]
    header = pd.DataFrame([range(len(names))], columns=names)  # where each column is
    at = labelled(path, header, kept, columns).filter(kept).loc[0]
    for row in rows:                                           # pandas would fill what is missing
        if len(row) != len(names):
            raise DataError(f"{path}, line {rows.line_num - bool(fields)}: {len(row)} fields "
                            f"instead of {len(names)}; correct the line")
    try:      # Names are read as a row: in a column of only numbers, pandas turns "007" into 7.
        table = pd.read_csv(io.BytesIO(raw), header=None, names=range(len(names)), usecols=at,
                            dtype="category", na_filter=False, skip_blank_lines=False, **style)
    except ValueError as error:
        raise DataError(f"{path}: {str(error).rpartition('error: ')[2]}; correct it") from error
    table = table[1:][at].set_axis(at.index, axis=1)
    table.index += 0 if fields else 1                          # line numbers
    table.attrs["file"] = str(path)
    return table


def _read_bytes(path, encoding="utf-8"):
    """A file as UTF-8 with a newline between lines; "-" is standard input."""
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        if not raw.isascii():
            raw = raw.decode(encoding).lstrip("\ufeff").encode()
        return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n") or b"\n"
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; choose another file") from error
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text; save it as UTF-8") from error


def _fetch(name, archive, progress):
    """Write NAME.zip from the first source that has it."""
    tried = [str(archive.with_suffix("")), str(archive)]
    for source, md5 in SOURCES[name].items():
        if progress:
            print(f"{name} is not in {archive.parent}: fetching it from {source}", file=sys.stderr)
        try:
            raw = _download(source)
            if hashlib.md5(raw, usedforsecurity=False).hexdigest() != md5:
                raise ValueError(f"its MD5 is not {md5}")
            os.makedirs(archive.parent, exist_ok=True)
            return write_whole(archive, lambda part: part.write_bytes(raw))
        except (OSError, ValueError, subprocess.SubprocessError, HTTPException) as error:
            tried.append(f"{source} ({error})")
    raise DataError(f"cannot get {name}: tried {', '.join(tried)}; put {archive.name} from "
                    f"grouplens.org/datasets/movielens in {archive.parent}, "
                    "or use --dataset synthetic")


def _download(source):
    """The bytes at a URL, or those of a package that pip downloads, a zip archive as well."""
    if source.startswith("https://"):
        with urllib.request.urlopen(source, timeout=10) as answer:
            return answer.read()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder,
                        source], capture_output=True, check=True, timeout=600)
        return next(Path(folder).iterdir()).read_bytes()


def write_whole(path, write, other="another file"):
    """Write a file or folder beside path, then rename it: readers see the old or the new, whole.

    write: text, or a function that writes to a path. If that fails, DataError: choose `other`.
    """
    real = os.path.realpath(path)
    try:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(real)) as scratch:
            part = Path(scratch, "new.npz")                    # np.savez writes to no other name
            part.write_bytes(write.encode()) if isinstance(write, str) else write(part)
            os.replace(part, real)                             # fails if real has files in it
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; choose {other}") from error


def output_path(path, *inputs):
    """The real path of an output file, if it can be written. Raises DataError.

    Refuses an input, a movies.csv or users.csv beside one, and data files in an input folder.
    """
    real, *inputs = [Path(os.path.realpath(one)) for one in (path, *inputs)]
    for name, *_ in LAYOUTS["ratings.csv"][1:]:
        inputs += [one.with_name(name) for one in inputs if os.path.isfile(one)]
    is_data = re.search(r"\.(data|user|item|dat|inter|csv|base|test)$", real.name)
    if os.path.isfile(real) and (real in inputs or is_data and real.parent in inputs):
        raise DataError(f"{path}: would overwrite an input; choose another file")
    special = path == "-" or os.path.exists(real) and not os.path.isfile(real)
    if special or not os.access(real.parent, os.W_OK):
        raise DataError(f"{path}: cannot be written; choose another file in a folder that exists")
    return real
